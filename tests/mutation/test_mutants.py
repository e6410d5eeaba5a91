"""Which tests a mutant meets."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.mutation.mutants import _COPY, Suite

coverage = pytest.importorskip("coverage")

SOURCE = """SIZE = 8

def made(count):
    return SIZE * count
"""
REPORT = """<testsuites><testsuite>
<testcase classname="tests.test_a" name="test_slow" time="2.0"/>
<testcase classname="tests.test_a" name="test_quick" time="0.1"/>
<testcase classname="tests.test_b" name="test_other" time="0.5"/>
<testcase classname="tests.test_b" name="test_broken" time="0.1"><failure/></testcase>
</testsuite></testsuites>"""


def suite(folder: Path, ran: dict[str, list[int]]) -> Suite:
    """Of one file of the product; which lines ran in each phase of a test."""
    root = folder / _COPY
    file = root / "qpc" / "sizes.py"
    file.parent.mkdir(parents=True)
    file.write_text(SOURCE)
    (folder / "part.xml").write_text(REPORT)
    data = coverage.CoverageData(str(folder / "part.coverage"))
    for phase, lines in ran.items():
        data.set_context(phase)
        data.add_lines({str(file): lines})
    data.write()
    return Suite(folder, root)


def test_a_line_meets_the_tests_that_run_it_the_quickest_first(tmp_path: Path) -> None:
    ran = {f"tests/{test}|run": [4] for test in ("test_a.py::test_slow", "test_b.py::test_other")}
    found = suite(tmp_path, {**ran, "tests/test_b.py::test_broken|run": [4]})
    tests = ["tests/test_b.py::test_other", "tests/test_a.py::test_slow"]
    assert found.tests("qpc/sizes.py", 4) == tests  # not the one that fails without a mutant


def test_what_a_fixture_runs_meets_all_tests_that_may_share_it(tmp_path: Path) -> None:
    found = suite(tmp_path, {"tests/test_a.py::test_slow|setup": [4]})
    tests = ["tests/test_a.py::test_quick", "tests/test_a.py::test_slow"]
    assert found.tests("qpc/sizes.py", 4) == tests


def test_what_runs_on_import_meets_all_tests_of_the_file_whoever_imported_it(
    tmp_path: Path,
) -> None:
    ran = {"tests/test_b.py::test_other|run": [1, 3], "tests/test_a.py::test_quick|run": [4]}
    tests = ["tests/test_a.py::test_quick", "tests/test_b.py::test_other"]
    assert suite(tmp_path, ran).tests("qpc/sizes.py", 1) == tests
