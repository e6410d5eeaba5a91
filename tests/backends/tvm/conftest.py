from __future__ import annotations

from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True, scope="module")
def sharing_is_free() -> Iterator[None]:
    """Kernels of tests are small: at its real cost, none would be shared among threads."""
    pytest.importorskip("tvm")
    from qpc.targets.costs import Sharing

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Sharing, "cost", lambda sharing, tasks, threads: 0)
        yield
