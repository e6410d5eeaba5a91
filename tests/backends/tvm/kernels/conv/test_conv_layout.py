from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("tvm", reason="needs Apache TVM")

from qpc.backends.tvm.kernels.conv.tile_plan import TilePlan
from qpc.backends.tvm.kernels.geometry import ConvShape
from qpc.backends.tvm.kernels.isa.choose import isa_for
from qpc.targets import Target

pytestmark = pytest.mark.tvm


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"kernel": (1, 1)}, True),
        ({"kernel": (1, 1), "padding": (0, 1, 0, 0)}, False),
        ({"kernel": (1, 1), "stride": (2, 2)}, False),
        ({"kernel": (2, 1), "stride": (2, 1)}, False),
        ({"kernel": (2, 2), "stride": (2, 2)}, False),
    ],
)
def test_only_pixels_that_are_read_one_by_one_make_a_matrix_product(
    changes: dict[str, Any], expected: bool
) -> None:
    shape = ConvShape(1, 6, 8, 16, 32, **changes)
    assert TilePlan(isa_for(Target.parse("x86-64-amx")), shape, 1).is_matrix_product is expected
