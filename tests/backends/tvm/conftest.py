from __future__ import annotations

from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True, scope="module")
def sharing_is_free() -> Iterator[None]:
    """Kernels of tests are small: at its real cost, none would be shared among threads."""
    pytest.importorskip("tvm")
    from qpc.backends.tvm.kernels import tile_plan, tiling

    with pytest.MonkeyPatch.context() as patch:
        for module, costs in ((tiling, ("_LAUNCH", "_TASK")), (tile_plan, ("_LAUNCH", "_THREAD"))):
            for cost in costs:
                patch.setattr(module, cost, 0)
        yield
