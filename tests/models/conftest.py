"""Real networks, where the packages that carry them are installed."""

from __future__ import annotations

from types import ModuleType

import pytest

from benchmarks.real_models import torchvision_models


@pytest.fixture(scope="session")
def torchvision() -> ModuleType:
    """The module `torchvision.models`."""
    try:
        return torchvision_models()
    except ImportError:
        pytest.skip("torchvision is not installed; see requirements-models.txt")
