from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("tvm", reason="needs Apache TVM")

from qpc.backends.tvm.kernels.conv.tile_plan import BLOCKS
from qpc.backends.tvm.kernels.emit import Flat, prim_func
from qpc.backends.tvm.kernels.isa.base import Isa
from qpc.backends.tvm.kernels.isa.matrices import TileShape
from qpc.backends.tvm.kernels.kernel import Kernel, TensorType
from tests.backends.tvm.kernels.conftest import MATRIX_TARGETS
from tests.backends.tvm.kernels.conv.test_conv2d import Run

pytestmark = pytest.mark.tvm


@pytest.mark.parametrize("block", BLOCKS, ids=str)
def test_every_block_fits_the_registers(block: tuple[int, int]) -> None:
    """One operand stays whole in its registers, the other passes through what is left."""
    shape = TileShape(*block, pixels=16, run=64)
    assert shape.x_registers.start == shape.sums
    assert shape.weight_registers.start == shape.x_registers.stop
    assert shape.weight_registers.stop <= TileShape.REGISTERS
    needed = {"x": (shape.parts, shape.x_registers), "w": (shape.vectors, shape.weight_registers)}
    assert any(len(registers) == count for count, registers in needed.values())
    assert all(1 <= len(registers) <= count for count, registers in needed.values())


@pytest.mark.parametrize("target", MATRIX_TARGETS, indirect=True)
@pytest.mark.parametrize(("pixels", "run_bytes"), [(16, 64), (5, 64), (16, 12), (1, 4)])
def test_two_dots_add_to_the_bias(isa: Isa, run: Run, pixels: int, run_bytes: int) -> None:
    assert isa.tiles is not None
    tiles, shape = isa.tiles, TileShape(1, 1, pixels, run_bytes)
    step = run_bytes + 3  # between pixels, in bytes
    size = shape.sums_size

    def body(x: Flat, w: Flat, bias: Flat, config: Flat, out: Flat) -> None:
        registers = tiles.open(shape, config, out)
        registers.start(0, bias, 2)
        registers.load(shape.x_registers[0], x, 1, step)
        registers.load(shape.weight_registers[0], w, 0, 64)
        for _ in range(2):
            registers.dot(0, shape.x_registers[0], shape.weight_registers[0])
        registers.keep(0)
        registers.close()

    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, 1 + pixels * step, np.uint8)
    weight = rng.integers(-128, 128, (16, run_bytes), np.int8)
    bias = rng.integers(-(2**20), 2**20, 18, np.int32)
    packed = np.ascontiguousarray(weight.reshape(16, -1, 4).swapaxes(0, 1))
    inputs = [TensorType(a.shape, str(a.dtype)) for a in (x, packed, bias)]
    output = TensorType((tiles.memory(shape),), "int32")
    config = tiles.config(shape)
    types = (*inputs, TensorType(config.shape, "uint8"), output)
    name = f"two_dots_{pixels}_{run_bytes}"
    kernel = Kernel(name, prim_func(name, types, body), tuple(inputs), (config,), output)
    found = run(kernel, x, packed, bias)[:size].reshape(16, 16)[:pixels]
    rows = np.stack([x[1 + i * step : 1 + i * step + run_bytes] for i in range(pixels)])
    expected = 2 * (rows.astype(int) @ weight.T.astype(int)) + bias[2:]
    np.testing.assert_array_equal(found, expected)
