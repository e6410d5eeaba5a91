"""How blind are the tests? `make mutants`, or `python -m tests.mutation.mutants --count 40`.

Picks mutants of the product at random, equal seeds the same ones, and runs the tests that run the
mutated line, the quickest first, until one fails. Works on the last commit in a copy of its own;
the tree is not touched. Results are kept as JSON lines, so that an interrupted run goes on where it
was. Prints the survivors at the end: each is a hole in the tests, or makes no difference.

Which tests run which lines is found out first, by one run of the default suite under coverage (it
takes as long as the suite does; `--parts quant` runs one folder of tests), and kept for the commit.
Without it (`--no-coverage`) a mutant meets the test file of its module's name, those of the modules
that import it, and of its folder.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import itertools
import json
import multiprocessing
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree import ElementTree

import pytest

from tests.mutation.mutations import Mutation, mutations

if TYPE_CHECKING:
    from coverage import CoverageData

_ROOT = Path(__file__).parents[2]
_PRODUCT = ("qpc", "passes", "backends")
_FAR = 3  # from a mutated module to those that import it, and theirs
_COPY = "copy-of-the-tree"
_OPTIONS = ("-q", "--no-cov", "-x", "-p", "no:cacheprovider")
_FORKS = multiprocessing.get_context("forkserver")
"""Mutants run in forks of a process that has imported what takes seconds."""
_FORKS.set_forkserver_preload([__name__, "torch", "torch._dynamo", "torch.export", "tvm", "scipy"])


@dataclass(frozen=True)
class Mutant:
    """A mutation of a file, whose path is relative to the root."""

    file: str
    mutation: Mutation

    @property
    def key(self) -> str:
        """What names it in the results."""
        m = self.mutation
        return f"{self.file}:{m.line}:{m.start}-{m.end}:{m.text}"


@dataclass(frozen=True)
class Result:
    """What became of a mutant: "killed", "survived", or "unfinished" when its time was up."""

    key: str
    kind: str
    diff: str
    verdict: str
    by: str
    seconds: float
    tests: int


class Suite:
    """Which tests run which lines, and how long each takes."""

    def __init__(self, folder: Path, root: Path) -> None:
        import coverage

        self._root = root
        self._lines: dict[str, dict[int, list[str]]] = {}
        self._seconds: dict[str, float] = {}
        self._failing: set[str] = set()
        for part in sorted(folder.glob("*.xml")):
            self._read_durations(part)
            data = coverage.CoverageData(str(part.with_suffix(".coverage")))
            data.read()
            self._read_lines(data)

    def _read_lines(self, data: CoverageData) -> None:
        for file in data.measured_files():
            found = self._lines.setdefault(_inside(file), defaultdict(list))
            for line, contexts in data.contexts_by_lineno(file).items():
                found[line] += sorted(c for c in contexts if c)

    def _read_durations(self, report: Path) -> None:
        """Seconds by test, and the tests that fail without any mutant."""
        for case in ElementTree.parse(report).iter("testcase"):
            name = f"{case.get('classname', '').replace('.', '/')}.py::{case.get('name')}"
            self._seconds[name] = float(case.get("time", 0))
            if case.find("failure") is not None or case.find("error") is not None:
                self._failing.add(name)

    def tests(self, file: str, line: int) -> list[str]:
        """The tests that run a line, the quickest first; all of the file if it runs on import.

        What a fixture runs concerns all tests of its file: it may be made once, for the first one.
        """
        lines = self._lines.get(file, {})
        here = [] if _on_import((self._root / file).read_text(), line) else lines.get(line, [])
        found = set[str]()
        for context in here or itertools.chain.from_iterable(lines.values()):
            test, _, phase = context.rpartition("|")
            found |= self._beside(test) if phase == "setup" else {test}
        return sorted(found - self._failing, key=lambda t: (self._seconds.get(t, 1.0), t))

    def _beside(self, test: str) -> set[str]:
        """A test and the others of its file."""
        file = test.partition("::")[0]
        return {test, *(other for other in self._seconds if other.startswith(f"{file}::"))}


def _on_import(source: str, line: int) -> bool:
    """Whether a line is outside of all functions: whatever imports the file first has run it."""
    functions = (n for n in ast.walk(ast.parse(source)) if isinstance(n, _FUNCTIONS))
    return not any(f.body[0].lineno <= line <= (f.end_lineno or 0) for f in functions)


_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


def _inside(file: str) -> str:
    """The path of a product file inside the copy that it was measured in."""
    parts = Path(os.path.realpath(file)).parts
    return str(Path(*parts[parts.index(_COPY) + 1 :]))


def _product(root: Path) -> list[str]:
    """The files of the product, by their paths inside the root; `qpc/passes` is a link."""
    files = {p for folder in _PRODUCT for p in (root / folder).rglob("*.py")}
    real = sorted({Path(os.path.realpath(p)) for p in files})
    return [str(p.relative_to(os.path.realpath(root))) for p in real]


def candidates(root: Path) -> Iterator[Mutant]:
    """All mutants of the product, in a fixed order."""
    for file in _product(root):
        for mutation in mutations((root / file).read_text()):
            yield Mutant(file, mutation)


def near_tests(root: Path, file: str) -> list[str]:
    """Test files for a module: of its name, of those that import it, theirs, and of its folder."""
    importers = _importers(root)
    found: dict[str, None] = {}
    near, seen = [_module(file)], {_module(file)}
    for _ in range(_FAR):
        for module in near:
            test = Path("tests", *module.split(".")[1:-1], f"test_{module.split('.')[-1]}.py")
            test = test.with_name(test.name.replace("test__", "test_"))
            if (root / test).exists():
                found[str(test)] = None
        near = sorted({m for module in near for m in importers[module]} - seen)
        seen |= set(near)
    folder = Path("tests", *_module(file).split(".")[1:-1])
    beside = sorted(str(t.relative_to(root)) for t in (root / folder).glob("test_*.py"))
    return list(dict.fromkeys([*found, *beside]))


def _importers(root: Path) -> dict[str, set[str]]:
    """The modules that import each module."""
    found: dict[str, set[str]] = defaultdict(set)
    for path in _product(root):
        text = (root / path).read_text()
        for imported, names in re.findall(_IMPORT, text, re.MULTILINE):
            modules = [imported, *(f"{imported}.{name}" for name in re.findall(r"\w+", names))]
            for module in modules:  # a name may be that of a module of a package
                found[module].add(_module(path))
    return found


_IMPORT = r"^ *(?:from|import) (qpc[\w.]*)(?: import (\([^)]*\)|.*))?"


def _module(file: str) -> str:
    """`passes/calibrate.py` is `qpc.passes.calibrate`."""
    parts = Path(file).with_suffix("").parts
    return ".".join(parts if parts[0] == "qpc" else ("qpc", *parts))


def judge(copy: Path, mutant: Mutant, tests: Sequence[str], limit_s: float) -> Result:
    """Apply a mutant in the copy, run tests until one fails, and take it back."""
    file = copy / mutant.file
    source = file.read_text()
    file.write_text(mutant.mutation.applied(source))
    start = time.monotonic()
    try:
        verdict, by = _run(copy, tests, limit_s)
    finally:
        file.write_text(source)
    m = mutant.mutation
    spent = round(time.monotonic() - start, 1)
    return Result(mutant.key, m.kind, m.diff(source), verdict, by, spent, len(tests))


def _run(copy: Path, tests: Sequence[str], limit_s: float) -> tuple[str, str]:
    if not tests:
        return "survived", "no test runs this line"
    with tempfile.TemporaryDirectory(prefix="qpc-mutant-") as folder:
        names, output = Path(folder, "names.txt"), Path(folder, "output.txt")
        names.write_text("\n".join(tests))
        process = _FORKS.Process(target=_pytest, args=(str(copy), str(names), str(output)))
        process.start()
        process.join(limit_s)
        if process.exitcode is None:
            os.killpg(process.pid or 0, signal.SIGKILL)
            process.join()
            return "unfinished", f"{limit_s:.0f} s"
        lines = output.read_text(errors="replace").splitlines()
    if process.exitcode in (0, 5):
        return "survived", ""
    failed = [line for line in lines if line.startswith(("FAILED", "ERROR"))]
    return "killed", failed[0][:200] if failed else f"exit code {process.exitcode}"


def _pytest(copy: str, names: str, output: str) -> None:
    """Run tests of the copy in this process, which has nothing of the product yet."""
    os.setsid()  # what the tests start can be ended with it
    with Path(output).open("w") as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
    os.chdir(copy)
    os.environ |= {"PYTHONPATH": copy, "PYTHONDONTWRITEBYTECODE": "1"}
    sys.dont_write_bytecode = True
    sys.path[:] = [copy, *(path for path in sys.path if Path(path) not in (_ROOT, Path()))]
    for name in list(sys.modules):
        if name.partition(".")[0] in ("qpc", "tests"):
            del sys.modules[name]
    code = pytest.main([*_OPTIONS, f"@{names}"])
    sys.stdout.flush()
    os._exit(code)


def measured(copy: Path, folder: Path, wanted: Sequence[str] = ()) -> Suite:
    """The suite under coverage, without the parts that `folder` has from before.

    wanted: folders in `tests/`, all if none; "tests" are the files beside them.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tests = copy / "tests"
    parts = [p for p in sorted(tests.iterdir()) if p.is_dir() and any(p.rglob("test_*.py"))]
    for part in [*parts, tests]:
        if wanted and part.name not in wanted:
            continue
        report = folder / f"{part.name}.xml"
        if report.exists():
            continue
        print(f"running {part.relative_to(copy)} under coverage, once", flush=True)
        here = [str(part)] if part != tests else sorted(map(str, tests.glob("test_*.py")))
        options = ["--cov", "--cov-context=test", "--cov-report=", "--cov-fail-under=0"]
        subprocess.run(
            [
                *(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *options),
                *(f"--junitxml={report.with_suffix('.part')}", *here),
            ],
            cwd=copy,
            env={
                **os.environ,
                "PYTHONPATH": str(copy),
                "COVERAGE_FILE": str(report.with_suffix(".coverage")),
            },
            stdout=subprocess.DEVNULL,
            check=False,  # tests that fail without a mutant are left out
        )
        report.with_suffix(".part").rename(report)
    return Suite(folder, copy)


@contextlib.contextmanager
def copy_of(commit: str) -> Iterator[Path]:
    """A worktree of a commit in a temporary folder."""
    folder = Path(tempfile.mkdtemp(prefix="qpc-mutants-"))
    add = ["git", "worktree", "add", "--quiet", "--detach", str(folder / _COPY), commit]
    subprocess.run(add, cwd=_ROOT, check=True)
    try:
        yield folder / _COPY
    finally:
        remove = ["git", "worktree", "remove", "--force", str(folder / _COPY)]
        subprocess.run(remove, cwd=_ROOT, check=False)
        shutil.rmtree(folder, ignore_errors=True)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.mutation.mutants")
    parser.add_argument("--count", type=int, default=200, help="how many mutants")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limit", type=float, default=300.0, help="seconds for each")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="end after this time")
    parser.add_argument("--only", default="", help="files whose path begins like this")
    parser.add_argument("--parts", nargs="*", default=[], help="use these folders of tests/ only")
    parser.add_argument("--folder", type=Path, default=_ROOT / "build" / "mutants")
    parser.add_argument("--no-coverage", action="store_true", help="choose tests by name")
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the copy goes
    head = ["git", "rev-parse", "--short", "HEAD"]
    commit = subprocess.check_output(head, cwd=_ROOT, text=True).strip()
    with copy_of(commit) as copy:
        sites = [m for m in candidates(copy) if m.file.startswith(given.only)]
        random.Random(given.seed).shuffle(sites)
        parsing = (m for m in sites if m.mutation.parses((copy / m.file).read_text()))
        chosen = list(itertools.islice(parsing, given.count))
        suite = None if given.no_coverage else measured(copy, given.folder / commit, given.parts)
        file = given.folder / commit / f"seed-{given.seed}.jsonl"
        file.parent.mkdir(parents=True, exist_ok=True)
        done = _read(file)
        start = time.monotonic()
        for mutant in chosen:
            if mutant.key in done:
                continue
            if time.monotonic() - start > given.seconds:
                break
            line = mutant.mutation.line
            tests = suite.tests(mutant.file, line) if suite else near_tests(copy, mutant.file)
            result = done[mutant.key] = judge(copy, mutant, tests, given.limit)
            with file.open("a") as results:
                results.write(json.dumps(asdict(result)) + "\n")
            print(f"{result.verdict:10s} {result.seconds:6.1f} s  {mutant.key}", flush=True)
    _report([done[m.key] for m in chosen if m.key in done], len(sites))
    return 0


def _read(file: Path) -> dict[str, Result]:
    if not file.exists():
        return {}
    results = [Result(**json.loads(line)) for line in file.read_text().splitlines()]
    return {result.key: result for result in results}


def _report(results: Sequence[Result], sites: int) -> None:
    killed = sum(r.verdict == "killed" for r in results)
    for result in results:
        if result.verdict != "killed":
            print(f"\n{result.verdict}: {result.key} ({result.kind}; {result.tests} tests)")
            print(result.diff)
    if results:
        share = killed / len(results)
        print(
            f"\n{killed} of {len(results)} mutants killed ({share:.1%}), of {sites} that there are"
        )


if __name__ == "__main__":
    sys.exit(main())
