"""Real networks, where the packages that carry them are installed."""

from __future__ import annotations

import ctypes
import ctypes.util
from collections.abc import Iterator
from types import ModuleType

import pytest

from benchmarks.real_models import torchvision_models


@pytest.fixture(autouse=True)
def _memory_goes_back() -> Iterator[None]:
    """What a network of gigabytes has freed is the system's again: glibc would keep most of it."""
    yield
    trim = getattr(ctypes.CDLL(ctypes.util.find_library("c")), "malloc_trim", None)
    if trim is not None:
        trim(0)


@pytest.fixture(scope="session")
def torchvision() -> ModuleType:
    """The module `torchvision.models`."""
    try:
        return torchvision_models()
    except ImportError:
        pytest.skip("torchvision is not installed; see requirements-models.txt")
