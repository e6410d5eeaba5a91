"""Small mistakes in a source file: what can be changed, and the text after the change.

A mutation replaces the source of one expression or statement by another. What no test can be about
is left alone: annotations, docstrings, texts of messages, assertions, imports.
"""

from __future__ import annotations

import ast
import copy
import difflib
from collections.abc import Iterator
from dataclasses import dataclass

_COMPARISONS: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
_OPERATORS: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.FloorDiv,
    ast.FloorDiv: ast.Mult,
    ast.Div: ast.Mult,
    ast.Mod: ast.Mult,
    ast.LShift: ast.RShift,
    ast.RShift: ast.LShift,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
    ast.Pow: ast.Mult,
}
_COMMUTATIVE = frozenset({"min", "max", "minimum", "maximum", "gcd", "lcm", "equal", "hypot"})


@dataclass(frozen=True)
class Mutation:
    """One change of a file: the text from `start` to `end`, in characters, becomes `text`.

    line: where it begins, counted from 1; kind: what sort of mistake it is.
    """

    line: int
    kind: str
    start: int
    end: int
    text: str

    def applied(self, source: str) -> str:
        """The file after the change."""
        return source[: self.start] + self.text + source[self.end :]

    def parses(self, source: str) -> bool:
        """Whether it is still Python after the change."""
        try:
            ast.parse(self.applied(source))
        except SyntaxError:
            return False
        return True

    def diff(self, source: str) -> str:
        """The lines that change."""
        before, after = source.splitlines(), self.applied(source).splitlines()
        lines = list(difflib.unified_diff(before, after, n=0, lineterm=""))[2:]
        return "\n".join(line for line in lines if not line.startswith("@@"))


def mutations(source: str) -> list[Mutation]:
    """Every change of a file that this module knows, in the order of the file."""
    found = list(_Finder(source).found)
    return sorted(found, key=lambda m: (m.start, m.end, m.kind, m.text))


class _Finder:
    def __init__(self, source: str) -> None:
        self._source = source
        self._starts = [0]
        for line in source.splitlines(keepends=True):
            self._starts.append(self._starts[-1] + len(line))
        self._lines = source.splitlines()

    @property
    def found(self) -> Iterator[Mutation]:
        for node in _walked(ast.parse(self._source)):
            for kind, changed in _changes(node):
                start = self._place(node.lineno, node.col_offset)
                end = self._place(node.end_lineno or 0, node.end_col_offset or 0)
                text = ast.unparse(changed)
                if isinstance(node, ast.expr) and not isinstance(node, ast.Constant):
                    text = f"({text})"
                yield Mutation(node.lineno, kind, start, end, text)

    def _place(self, line: int, column: int) -> int:
        """The character at which something is; `ast` counts columns in bytes."""
        before = self._lines[line - 1].encode()[:column].decode()
        return self._starts[line - 1] + len(before)


def _walked(tree: ast.AST) -> Iterator[ast.expr | ast.stmt]:
    """Expressions and statements that tests can be about."""
    skipped = {"annotation", "returns", "decorator_list", "type_params"}
    if isinstance(tree, ast.ClassDef):
        skipped |= {"bases", "keywords"}
    for name, value in ast.iter_fields(tree):
        if name in skipped:
            continue
        for child in value if isinstance(value, list) else [value]:
            if not isinstance(child, ast.AST) or _is_left_alone(child):
                continue
            if isinstance(child, ast.expr | ast.stmt):
                yield child
            yield from _walked(child)


def _is_left_alone(node: ast.AST) -> bool:
    if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
        return True
    if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
        return True
    if isinstance(node, ast.AnnAssign) and "TypeAlias" in ast.unparse(node.annotation):
        return True
    text = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    quiet = (ast.Assert, ast.Import, ast.ImportFrom, ast.Raise, ast.JoinedStr, ast.Pass)
    return text or isinstance(node, quiet)


def _changes(node: ast.expr | ast.stmt) -> Iterator[tuple[str, ast.AST]]:
    if isinstance(node, ast.Compare):
        for i, operator in enumerate(node.ops):
            ops = [*node.ops[:i], _COMPARISONS[type(operator)](), *node.ops[i + 1 :]]
            yield "comparison", _replaced(node, ops=ops)
    elif isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        yield "operator", _replaced(node, op=_OPERATORS[type(node.op)]())
    elif isinstance(node, ast.BoolOp):
        other_bool = ast.Or() if isinstance(node.op, ast.And) else ast.And()
        yield "and/or", _replaced(node, op=other_bool)
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not | ast.USub):
        yield "operator", node.operand
    elif isinstance(node, ast.Constant):
        yield from _other_constants(node)
    elif isinstance(node, ast.IfExp | ast.If):
        yield "condition", _replaced(node, test=ast.UnaryOp(ast.Not(), node.test))
    elif isinstance(node, ast.Return) and node.value is not None:
        if ast.unparse(node.value) != "None":
            yield "return", ast.Return(ast.Constant(None))
    elif isinstance(node, ast.Call) and len(node.args) >= 2 and not _starred(node):
        swapped = [node.args[1], node.args[0], *node.args[2:]]
        same = ast.dump(node.args[0]) == ast.dump(node.args[1])
        if not same and ast.unparse(node.func).rpartition(".")[2] not in _COMMUTATIVE:
            yield "swapped arguments", _replaced(node, args=swapped)
    elif isinstance(node, ast.Expr | ast.AugAssign | ast.Continue | ast.Break):
        yield "deleted statement", ast.Pass()


def _other_constants(node: ast.Constant) -> Iterator[tuple[str, ast.AST]]:
    value = node.value
    if isinstance(value, bool):
        yield "constant", ast.Constant(not value)
    elif isinstance(value, int):
        yield "constant", ast.Constant(value + 1)
    elif isinstance(value, float):
        yield "constant", ast.Constant(value * 2 if value else 1.0)


def _starred(node: ast.Call) -> bool:
    return any(isinstance(argument, ast.Starred) for argument in node.args[:2])


def _replaced(node: ast.AST, **fields: object) -> ast.AST:
    made = copy.deepcopy(node)
    for name, value in fields.items():
        setattr(made, name, value)
    return made
