"""What TVM prints as C, made C99 that every compiler takes without a warning.

Its text wants TVM's headers, takes bits of floats through pointers of another type, which C leaves
undefined, and declares what it does not use. Here each kernel becomes a `CFunction`, from which a
file can be written; nothing of TVM is left in it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

from qpc.backends.tvm.codegen.c_vectors import C_NAMES, VECTOR_FUNCTIONS
from qpc.errors import BackendError

AS_FLOAT, AS_INTEGER = "as_float", "as_integer"
"""Functions that take the bits of an int32_t as a float, and of a float as an int32_t."""

ROLLED = "ROLLED"
"""Before a loop that the compiler is not to unroll."""
ROWS = "add_four_products("

PLAIN_FUNCTIONS = frozenset({"memcpy", "memmove", "memset"})

_HEAD = re.compile(r"^TVM_DLL int32_t (\w+)\(([^)]*)\) \{$", re.MULTILINE)
_PARAMETER = re.compile(r"(\w+)\* (\w+)")
_LOCAL = re.compile(r" *\w+ (\w+) = .*;\n")
_CALLED = re.compile(r"\b([A-Za-z_]\w*)\(")
_VECTOR = re.compile(rf"\b(?:{'|'.join(C_NAMES)})\b")
_INFINITY = re.compile(r"\binff\b")  # as TVM prints it: C has no such word
_END = re.compile(r"\n  return 0;\n\}\s*$")
_PUNS = {"*(float *)(&(": AS_FLOAT, "*(int32_t *)(&(": AS_INTEGER}
HELPERS = VECTOR_FUNCTIONS | {
    AS_FLOAT,
    AS_INTEGER,
    "load_word",
    "load_two_words",
    "signed_pair",
    "add_products",
    "requantize",
    "requantize_to_int8",
    "requantize_to_uint8",
}
"""Functions that are written into a file whose kernels call them."""
_WORDS = frozenset({"for", "if", "while", "return", "sizeof", "switch"}) | HELPERS
_NAMES = """
acos acosh asin asinh atan atan2 atanh ceil cos cosh erf exp exp2 fabs floor fma fmax fmin fmod
hypot ldexp log log10 log1p log2 nearbyint pow rint round sin sinh sqrt tan tanh trunc
"""
_MATH = frozenset(name + ending for name in _NAMES.split() for ending in ("", "f"))
_MATH |= {"isnan", "isinf", "isfinite"}


@dataclass(frozen=True)
class Parameter:
    """The address of elements of a type of C."""

    element: str
    name: str


@dataclass(frozen=True)
class CFunction:
    """A kernel, which returns nothing. body: its lines, each ended. calls: what it needs."""

    name: str
    parameters: tuple[Parameter, ...]
    body: str
    calls: frozenset[str]

    def definition(self, name: str, reads: int, *, apart: bool = True) -> str:
        """Its text, under a name; the first `reads` parameters are of what it only reads.

        apart: whether no two arguments are ever one address.
        """
        written = [
            f"{'const ' * (i < reads)}{p.element} *{'restrict ' * apart}{p.name}"
            for i, p in enumerate(self.parameters)
        ]
        head = f"static void {name}("
        joint = ",\n" + " " * len(head)
        return f"{head}{joint.join(written)})\n{{\n{self.body}}}\n"


def read_function(text: str) -> CFunction:
    """The one function that TVM printed.

    Raises BackendError if it calls what no program in C has.
    """
    heads = list(_HEAD.finditer(text))
    if len(heads) != 1:
        raise BackendError(
            "kernels that call one another cannot be written as C",
            fix="form='objects', or express the operators that need them with others",
        )
    (head,) = heads
    rest = text[head.end() + 1 :]
    ended = _END.search(rest)
    if ended is None or "return" in rest[: ended.start()]:
        raise BackendError(
            f"kernel {head[1]!r} can fail, which C source does not provide for",
            fix="form='objects', or express the operators that need it with others",
        )
    body = _INFINITY.sub(f"{AS_FLOAT}({0x7F800000})", rest[: ended.start() + 1])
    body = _without_puns(body)
    body = _VECTOR.sub(lambda found: C_NAMES[found[0]], _without_unused(body))
    body = _with_rolled_loops(body)
    parameters = tuple(Parameter(*found) for found in _PARAMETER.findall(head[2]))
    unused = [p.name for p in parameters if not re.search(rf"\b{p.name}\b", body)]
    body = "".join(f"  (void){name};\n" for name in unused) + body
    return CFunction(head[1], parameters, body, _needed(head[1], body))


def _needed(name: str, body: str) -> frozenset[str]:
    """Functions of the standard library that are called."""
    called = frozenset(_CALLED.findall(body)) - _WORDS
    if unknown := called - PLAIN_FUNCTIONS - _MATH:
        raise BackendError(
            f"kernel {name!r} calls {', '.join(sorted(unknown))}, which C does not have",
            fix="form='objects', or express the operators that need it with others",
        )
    return called


def _without_puns(body: str) -> str:
    """Bits of one type taken as another by functions, not through pointers."""
    for pun, function in _PUNS.items():
        while (start := body.find(pun)) >= 0:
            inside = start + len(pun)
            end = _closing(body, inside)
            # Two brackets close: that of the operand, and that of its address.
            body = f"{body[:start]}{function}({body[inside:end]}){body[end + 2 :]}"
    return body


def _closing(text: str, start: int) -> int:
    """Where the bracket closes that is open at `start`."""
    depth = 1
    for at in range(start, len(text)):
        depth += {"(": 1, ")": -1}.get(text[at], 0)
        if not depth:
            return at
    raise BackendError("TVM printed C whose brackets do not match")


def _with_rolled_loops(body: str) -> str:
    """With `ROLLED` before innermost loops whose vectors are all that registers have room for."""
    lines = body.splitlines(keepends=True)
    heads = [i for i, line in enumerate(lines) if line.lstrip().startswith("for (")]
    for head, following in reversed([*pairwise([*heads, len(lines)])]):
        space = lines[head][: -len(lines[head].lstrip())]
        end = lines.index(f"{space}}}\n", head)
        if end < following and any(ROWS in line for line in lines[head:end]):
            lines.insert(head, f"{space}{ROLLED}\n")
    return "".join(lines)


def _without_unused(body: str) -> str:
    """Without variables that nothing reads."""
    while True:
        counts = Counter(re.findall(r"\w+", body))
        lines = body.splitlines(keepends=True)
        kept = [line for line in lines if not _is_unused(line, counts)]
        if len(kept) == len(lines):
            return body
        body = "".join(kept)


def _is_unused(line: str, counts: Mapping[str, int]) -> bool:
    declared = _LOCAL.fullmatch(line)
    return declared is not None and counts[declared[1]] == 1
