from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("tvm", reason="needs Apache TVM")

from qpc.backends.tvm.kernels.emit import Flat, prim_func
from qpc.backends.tvm.kernels.isa.base import Isa
from qpc.backends.tvm.kernels.isa.matrices import WIDE, MatrixSizes, TileShape
from qpc.backends.tvm.kernels.kernel import Kernel, TensorType
from tests.backends.tvm.kernels.conftest import MATRIX_TARGETS, SMALL
from tests.backends.tvm.kernels.conv.test_conv2d import Run

pytestmark = pytest.mark.tvm


@pytest.mark.parametrize(
    ("sizes", "block", "per_vector"),
    [
        *((WIDE, block, 1) for block in WIDE.blocks),
        *((SMALL, block, 2) for block in SMALL.blocks),
    ],
)
def test_every_block_fits_the_registers(
    sizes: MatrixSizes, block: tuple[int, int], per_vector: int
) -> None:
    """One operand stays whole in its registers, the other passes through what is left."""
    shape = TileShape(sizes, *block, sizes.pixels, sizes.run, per_vector)
    assert shape.x_registers.start == shape.sums
    assert shape.weight_registers.start == shape.x_registers.stop
    assert shape.weight_registers.stop <= sizes.registers
    needed = {"x": (shape.parts, shape.x_registers), "w": (shape.columns, shape.weight_registers)}
    assert any(len(registers) == count for count, registers in needed.values())
    assert all(1 <= len(registers) <= count for count, registers in needed.values())


@pytest.mark.parametrize("target", MATRIX_TARGETS, indirect=True)
@pytest.mark.parametrize(("pixels", "run_bytes"), [(16, 64), (5, 64), (16, 12), (1, 4)])
def test_two_dots_add_to_the_bias(isa: Isa, run: Run, pixels: int, run_bytes: int) -> None:
    assert isa.tiles is not None
    tiles, sizes = isa.tiles, isa.tiles.sizes
    pixels, run_bytes = min(pixels, sizes.pixels), min(max(run_bytes, sizes.depth), sizes.run)
    shape = TileShape(sizes, 1, 1, pixels, run_bytes, isa.lanes // sizes.lanes)
    step = run_bytes + 3  # between pixels, in bytes

    def body(x: Flat, w: Flat, bias: Flat, config: Flat, out: Flat) -> None:
        registers = tiles.open(shape, config, out)
        registers.load(shape.x_registers[0], x, 1, step)
        for column, register in enumerate(shape.weight_registers):
            registers.start(column, bias, 2 + column * sizes.lanes)
            registers.load(register, w, column * shape.weights_size, sizes.row_bytes)
            for _ in range(2):
                registers.dot(column, shape.x_registers[0], register)
            registers.keep(column)
        registers.close()

    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, 1 + pixels * step, np.uint8)
    weight = rng.integers(-128, 128, (isa.lanes, run_bytes), np.int8)
    bias = rng.integers(-(2**20), 2**20, 2 + isa.lanes, np.int32)
    columns = weight.reshape(shape.columns, sizes.lanes, -1, sizes.depth)
    packed = np.ascontiguousarray(columns.swapaxes(1, 2))
    inputs = [TensorType(a.shape, str(a.dtype)) for a in (x, packed, bias)]
    output = TensorType((tiles.memory(shape),), "int32")
    config = tiles.config(shape)
    types = (*inputs, TensorType(config.shape, "uint8"), output)
    name = f"two_dots_{pixels}_{run_bytes}"
    kernel = Kernel(name, prim_func(name, types, body), tuple(inputs), (config,), output)
    found = run(kernel, x, packed, bias)[: pixels * isa.lanes].reshape(pixels, isa.lanes)
    rows = np.stack([x[1 + i * step : 1 + i * step + run_bytes] for i in range(pixels)])
    expected = 2 * (rows.astype(int) @ weight.T.astype(int)) + bias[2:]
    np.testing.assert_array_equal(found, expected)
