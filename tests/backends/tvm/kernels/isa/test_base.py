from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

pytest.importorskip("tvm", reason="needs Apache TVM")

from qpc.backends.tvm.kernels.emit import Flat, prim_func
from qpc.backends.tvm.kernels.isa.base import Isa, intrinsic
from qpc.backends.tvm.kernels.kernel import Kernel, TensorType
from qpc.errors import UnsupportedTargetError

pytestmark = pytest.mark.tvm

Array = npt.NDArray[Any]
Run = Callable[..., Array]


def test_an_intrinsic_that_llvm_does_not_know_is_an_error() -> None:
    with pytest.raises(
        UnsupportedTargetError, match=r"this LLVM has no intrinsic 'llvm\.x86\.nope'"
    ):
        intrinsic("llvm.x86.nope", "int32")


def test_interleaving_covers_every_channel_once(isa: Isa) -> None:
    channels = isa.interleaved_channels()
    assert channels.shape == (isa.depth, isa.lanes)
    np.testing.assert_array_equal(np.sort(channels, axis=None), np.arange(isa.lanes * isa.depth))


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_narrowing_in_order_keeps_the_order(isa: Isa, run: Run, count: int) -> None:
    size = count * isa.lanes
    x, out = TensorType((size,), "int32"), TensorType((size,), "uint8")

    def body(source: Flat, target: Flat) -> None:
        parts = [source.load(i * isa.lanes, isa.lanes) for i in range(count)]
        target.store(0, isa.narrow_in_order(parts), size)

    name = f"narrow{count}"
    kernel = Kernel(name, prim_func(name, (x, out), body), (x,), (), out)
    values = np.random.default_rng(0).permutation(256)[:size].astype(np.int32)
    np.testing.assert_array_equal(run(kernel, values), values)
