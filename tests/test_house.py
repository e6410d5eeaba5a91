"""Rules of the house that no linter knows: sizes, reasons, and imports without circles."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

import networkx as nx
import pytest

ROOT = Path(__file__).parents[1]
PRODUCT = ("qpc", "passes", "backends")
FOLDERS = (*PRODUCT, "tests", "examples", "benchmarks")

MOST_LINES = 350
LONG_FILES: Mapping[str, str] = {
    "backends/tvm/kernels/conv/tile_plan.py": "the layout for registers of matrices",
    "backends/tvm/kernels/isa/x86.py": "the instructions of one family of CPUs",
    "qpc/channels/flow.py": "labels, and how they flow",
    "qpc/demo.py": "what `qpc demo` measures, and how it is printed",
    "qpc/yaml_form.py": "one text form for all that can be named",
}
"""Why a file of the product may be longer."""

MOST_LINES_OF_A_FUNCTION = 60
LONG_FUNCTIONS: Mapping[str, str] = {}
"""Why a function may be longer."""


@cache
def files(*folders: str) -> tuple[Path, ...]:
    """All Python files; links, which lead to the same ones again, are not followed."""
    return tuple(sorted(p for folder in folders for p in (ROOT / folder).rglob("*.py")))


def named(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


# --- sizes ----------------------------------------------------------------------------------------


def test_long_files_have_a_reason() -> None:
    lines = {named(path): len(path.read_text("utf-8").splitlines()) for path in files(*PRODUCT)}
    long = {name for name, count in lines.items() if count > MOST_LINES}
    assert sorted(long - LONG_FILES.keys()) == [], f"more than {MOST_LINES} lines"


def test_long_functions_have_a_reason() -> None:
    long = {
        f"{named(path)}::{function.name}"
        for path in files(*FOLDERS)
        for function in functions(ast.parse(path.read_text("utf-8")))
        if (function.end_lineno or 0) - function.lineno >= MOST_LINES_OF_A_FUNCTION
    }
    assert sorted(long - LONG_FUNCTIONS.keys()) == [], f"more than {MOST_LINES_OF_A_FUNCTION} lines"
    assert sorted(LONG_FUNCTIONS.keys() - long) == [], "short by now: take them from the list"


def functions(tree: ast.Module) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


# --- comments -------------------------------------------------------------------------------------


def comments(source: str) -> Iterator[tuple[int, str]]:
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string


def without_reason(source: str) -> list[int]:
    """The lines on which a type error is ignored and nothing says why."""
    pattern = re.compile(r"# type: ignore\[[a-z, -]+\]  # \S")
    found = [(line, text) for line, text in comments(source) if "type: ignore" in text]
    return [line for line, text in found if not pattern.match(text)]


@pytest.mark.parametrize("folder", FOLDERS)
def test_ignored_type_errors_have_a_reason(folder: str) -> None:
    found = {named(path): without_reason(path.read_text("utf-8")) for path in files(folder)}
    assert {name: lines for name, lines in found.items() if lines} == {}


def test_a_reason_stands_behind_the_code() -> None:
    ignored = "x = f()  # type: " + "ignore[misc]"  # in two, or this line would be one
    assert without_reason(ignored) == [1]
    assert without_reason(f"\n{ignored}  # the stubs are wrong") == []


# --- imports --------------------------------------------------------------------------------------


def module_of(path: Path) -> str:
    """The name of a module: the folders `passes` and `backends` are packages of `qpc`."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    if parts[0] != "qpc":
        parts = ("qpc", *parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """Module and name of what is imported when a module is: not in functions, not for types."""
    waiting: list[ast.AST] = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ((node.module or "", alias.name) for alias in node.names)
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            waiting += node.orelse
        elif not isinstance(node, ast.FunctionDef | ast.Lambda):
            waiting += ast.iter_child_nodes(node)


def import_graph(sources: Mapping[str, str]) -> nx.DiGraph[str]:
    """Which module needs which: from a module to those that it imports."""
    graph: nx.DiGraph[str] = nx.DiGraph()
    for module, source in sources.items():
        for origin, name in imports(ast.parse(source)):
            within = f"{origin}.{name}"
            needed = within if within in sources else origin
            if needed in sources and needed != module:
                graph.add_edge(module, needed)
    return graph


def circles(graph: nx.DiGraph[str]) -> list[list[str]]:
    return [sorted(c) for c in nx.strongly_connected_components(graph) if len(c) > 1]


def test_no_import_goes_round_in_a_circle() -> None:
    sources = {module_of(path): path.read_text("utf-8") for path in files(*PRODUCT)}
    graph = import_graph(sources)
    assert graph.number_of_edges() > 100
    assert circles(graph) == []


def test_a_circle_is_found_and_imports_for_types_or_in_functions_are_none() -> None:
    types = "if TYPE_CHECKING:\n    from a.b import B\n"
    later = "def f():\n    import a.b\n"
    assert circles(import_graph({"a.b": "import a.c", "a.c": types + later})) == []
    assert circles(import_graph({"a.b": "import a.c", "a.c": "from a import b"})) == [
        ["a.b", "a.c"]
    ]


def private_imports(module: str, source: str) -> list[str]:
    """What a module imports from another package although its name begins with an underscore."""
    package = module.rpartition(".")[0]
    return [
        f"{module}: {origin}.{name}"
        for origin, name in imports(ast.parse(source))
        if origin.startswith("qpc.") and not in_reach(f"{origin}.{name}", package)
    ]


def in_reach(name: str, package: str) -> bool:
    """Whether each private part of a dotted name lies in a package that `package` is, or is in."""
    parts = name.split(".")
    homes = [".".join(parts[:i]) for i, part in enumerate(parts) if part.startswith("_")]
    return all(
        f"{package}.".startswith(f"{home}.") or home.rpartition(".")[0] == package for home in homes
    )


def test_nothing_private_is_imported_from_another_package() -> None:
    found = [
        line
        for path in files(*PRODUCT)
        for line in private_imports(module_of(path), path.read_text("utf-8"))
    ]
    assert found == []
