"""What every test gets: the same random numbers, one thread, no network, and golden files."""

from __future__ import annotations

import os
import random
import socket
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import settings

Golden = Callable[[str, str], None]

GOLDEN_FOLDER = Path(__file__).parent / "golden"

LONG = (
    "tests/test_demo.py",
    "tests/test_examples.py",
    "tests/models/",
    "tests/backends/tvm/lowering/test_translator.py",
)
"""Files with tests, or with fixtures that tests share, that take more than ten seconds each."""

settings.register_profile("ci", max_examples=50, deadline=None, derandomize=True)
settings.register_profile("nightly", max_examples=2000, deadline=None)
settings.load_profile("ci")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--update-golden",
        action="store_true",
        help="write what the tests produce to tests/golden/ instead of comparing with it",
    )


def pytest_configure(config: pytest.Config) -> None:
    torch.set_num_threads(1)
    if hasattr(config, "workerinput"):
        return  # a worker of pytest-xdist shares the folder of the process that started it
    folder = tempfile.TemporaryDirectory(prefix="qpc-cache-")
    os.environ["QPC_CACHE_DIR"] = folder.name  # what compiled kernels leave behind
    config.add_cleanup(folder.cleanup)


def pytest_collectstart(collector: pytest.Collector) -> None:
    """What a file draws while it is imported does not depend on the files before it."""
    if isinstance(collector, pytest.Module):
        _seed()


@pytest.hookimpl(tryfirst=True)  # before tests are deselected by their marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the cases that `every` leaves out; the longest tests first.

    The last to begin would leave all workers but one idle.
    """
    seen: Counter[str] = Counter()
    for item in items:
        if (mark := item.get_closest_marker("every")) is not None:
            function = item.nodeid.partition("[")[0]
            if seen[function] % mark.args[0]:
                item.add_marker("thorough")
            seen[function] += 1
    items.sort(key=lambda item: not item.nodeid.startswith(LONG))  # keeps the order of the rest


@pytest.fixture(autouse=True)
def _fixed_seeds() -> None:
    _seed()


def _seed() -> None:
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    connect = socket.socket.connect

    def connect_locally(self: socket.socket, address: Any) -> None:
        if self.family != socket.AF_UNIX:
            raise RuntimeError(f"a test tried to reach {address!r}: tests use no network")
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", connect_locally)


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Golden:
    """Return a function that compares a text with the file of that name in tests/golden/."""
    update = bool(request.config.getoption("--update-golden"))

    def compare(name: str, text: str) -> None:
        compare_with_golden(GOLDEN_FOLDER / f"{name}.txt", text, update=update)

    return compare


def compare_with_golden(path: Path, text: str, *, update: bool) -> None:
    text = text.rstrip("\n") + "\n"
    if update:
        path.write_text(text, encoding="utf-8")
        return
    if not path.exists():
        pytest.fail(f"no golden file {path.name}: write it with `pytest --update-golden`")
    assert text == path.read_text(encoding="utf-8"), (
        f"{path.name} differs: if the change is meant, `pytest --update-golden` accepts it"
    )
