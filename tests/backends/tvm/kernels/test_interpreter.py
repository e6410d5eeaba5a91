"""Every kernel for every target, also for CPUs that this machine is not: run in numpy.

What the interpreter takes instructions for is checked where the CPU has them: there, the same
kernels run as machine code in the tests of each module.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

pytest.importorskip("tvm", reason="needs Apache TVM")

from tvm.tirx import Expr

from qpc.backends.tvm.kernels.conv.sums import Join
from qpc.backends.tvm.kernels.conv.winograd_plan import WinogradPlan
from qpc.backends.tvm.kernels.elementwise import add, clamp, lookup, mul
from qpc.backends.tvm.kernels.emit import Flat, loop, prim_func, shuffle
from qpc.backends.tvm.kernels.epilogue import AddTensor, Clamp, Lookup, Requantize
from qpc.backends.tvm.kernels.geometry import Conv2dDesc, View
from qpc.backends.tvm.kernels.isa.choose import Isa, isa_for
from qpc.backends.tvm.kernels.isa.x86 import DotProducts
from qpc.backends.tvm.kernels.kernel import Kernel, TensorType
from qpc.backends.tvm.kernels.layout import dequantize, quantize
from qpc.backends.tvm.kernels.pooling import PoolWindow, avg_pool2d, max_pool2d, mean
from qpc.backends.tvm.kernels.resize import resize2d
from qpc.backends.tvm.kernels.stored.dynamic import DynamicDesc, dynamic
from qpc.calls import qpc_ops
from qpc.targets import TARGETS
from tests.backends.tvm.kernels.conv.test_conv2d import Layer, added
from tests.backends.tvm.kernels.conv.test_nibbles import far_away, layer_of
from tests.backends.tvm.kernels.interpreter import interpret
from tests.backends.tvm.kernels.test_elementwise import ADD, MUL, exact_sum
from tests.backends.tvm.kernels.test_layout import NHWC, exact

QUICK = ("x86-64-avx512-vnni-256", "x86-64-avx512-vnni-vbmi")
"""One for each kind of instructions that few machines run the tests of machine code with.

The others differ in the width of their vectors only, from one of these or from what most machines
have.
"""

pytestmark = [
    pytest.mark.tvm,
    pytest.mark.parametrize(
        "isa",
        [
            pytest.param(isa_for(t), id=t.name, marks=[pytest.mark.slow] * (t.name not in QUICK))
            for t in TARGETS
            if t.architecture.name not in ("aarch64", "armv7l")  # these run in an emulator
        ],
    ),
]

Array = npt.NDArray[Any]
BASE = Conv2dDesc(
    1, 3, 5, 8, 20, (3, 3), padding=(1, 1, 1, 1), input_zero_point=7, output_zero_point=100
)
SIZES = (1, 3, 16, 33, 64, 70, 150)
"""Of vectors: of all widths, with and without a rest."""


def random_bytes(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def plans(monkeypatch: pytest.MonkeyPatch, out: int | None) -> None:
    """Minimal filtering of this size is taken wherever it can be, or never."""
    time = property(lambda plan: 0.0 if plan.out == out else np.inf)
    monkeypatch.setattr(WinogradPlan, "time", time)


STAGES = (ADD, Lookup(bytes(range(255, -1, -1))), Clamp(20, 200))
LAYERS: dict[str, dict[str, Any]] = {
    "dense": {},
    "odd channels": {"c": 5, "o": 37},
    "depthwise": {"groups": 8, "o": 8},
    "depthwise, many channels": {"groups": 70, "c": 70, "o": 70, "w": 3},
    "groups": {"groups": 2, "o": 18},
    "strides": {"stride": (2, 2), "h": 5},
}


@pytest.mark.every(2)
@pytest.mark.parametrize("name", LAYERS)
def test_a_layer(isa: Isa, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    plans(monkeypatch, None)
    # Factors of more than 1/2 take a longer way.
    for large, epilogue in ((1, STAGES), (2000, ())):
        layer = Layer(replace(BASE, **LAYERS[name]))
        layer.multiplier *= large
        expected = layer.expected()
        for stage in epilogue:
            match stage:
                case AddTensor():
                    expected = added(expected, layer.added, stage)
                case Lookup():
                    expected = np.frombuffer(stage.table, np.uint8)[expected]
                case Clamp():
                    expected = expected.clip(stage.lo, stage.hi)
        result = layer.run(isa, interpret, epilogue, added=1 if epilogue else 0)
        np.testing.assert_array_equal(result, expected)


JOIN = Join(zero_point=90, multiplier=5000, shift=13)


@pytest.mark.every(3)
@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_that_adds_before_it_rounds(
    isa: Isa, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    plans(monkeypatch, None)
    # The inner bound matters to products that are larger than any proof allows.
    for large, join in ((2**13, JOIN), (2**36, JOIN), (1, Join(3, -2, 0))):
        layer = Layer(replace(BASE, **LAYERS[name], join=join, lo=20, hi=240))
        layer.multiplier *= np.float32(large)
        result = layer.run(isa, interpret, (Lookup(layer.table.tobytes()),))
        np.testing.assert_array_equal(result, layer.table[layer.expected()])


def test_minimal_filtering_that_adds(isa: Isa, monkeypatch: pytest.MonkeyPatch) -> None:
    layer = Layer(replace(BASE, h=5, w=6, join=JOIN))
    layer.multiplier *= np.float32(2**13)
    plans(monkeypatch, 4)
    np.testing.assert_array_equal(layer.run(isa, interpret), layer.expected())


def test_a_layer_with_small_weights(isa: Isa, monkeypatch: pytest.MonkeyPatch) -> None:
    plans(monkeypatch, None)
    for desc in (BASE, replace(BASE, groups=8, o=8)):
        layer = Layer(desc)
        layer.weight = (layer.weight // 2).astype(np.int8)
        np.testing.assert_array_equal(layer.run(isa, interpret), layer.expected())


@pytest.mark.parametrize("out", [2, 4])
def test_minimal_filtering(isa: Isa, monkeypatch: pytest.MonkeyPatch, out: int) -> None:
    layer = Layer(replace(BASE, h=5, w=6))
    plans(monkeypatch, None)
    direct = layer.kernel(isa).name
    plans(monkeypatch, out)
    assert (layer.kernel(isa).name != direct) == (isa.words is not None)
    np.testing.assert_array_equal(layer.run(isa, interpret), layer.expected())


def test_weights_of_four_bits(isa: Isa) -> None:
    layer = layer_of(37, 53)
    np.testing.assert_array_equal(layer.run(far_away(isa), interpret), layer.expected())


def test_blocks_of_zeros(isa: Isa) -> None:
    layer = Layer(replace(BASE, kernel=(1, 1), c=64, o=64, padding=(0, 0, 0, 0)))
    layer.weight[:, 8:60] = 0
    layer.weight[:32, :4] = 0
    np.testing.assert_array_equal(layer.run(isa, interpret), layer.expected())


def test_sums_and_products_of_tensors(isa: Isa) -> None:
    for size in SIZES:
        a, b = random_bytes(2, size), random_bytes(2, size, seed=1)
        result = interpret(add(isa, View(a.shape), View(b.shape), ADD), a, b)
        np.testing.assert_array_equal(result, exact_sum(a, b, ADD))
        result = interpret(mul(isa, View(a.shape), View((1, size)), MUL), a, b[:1])
        numbers = (9, 200, MUL.multiplier, 130, 5, 240)
        expected = qpc_ops.mul(torch.from_numpy(a), torch.from_numpy(b[:1]), *numbers)
        np.testing.assert_array_equal(result, expected.numpy())


def test_sums_saturate_where_they_should(isa: Isa) -> None:
    """The largest factors, with and without a shift, of all kinds of vectors."""
    for shift in (0, 1, 14):
        numbers = replace(ADD, a_multiplier=32767, b_multiplier=-32768, shift=shift)
        for size in SIZES:
            a, b = random_bytes(1, size), random_bytes(1, size, seed=1)
            result = interpret(add(isa, View(a.shape), View(b.shape), numbers), a, b)
            np.testing.assert_array_equal(result, exact_sum(a, b, numbers))


def test_tables_and_clamps(isa: Isa) -> None:
    table = np.random.default_rng(0).permutation(256).astype(np.uint8)
    for size in (*SIZES, 256):
        x = np.roll(np.arange(256), 100)[:size].astype(np.uint8)
        result = interpret(lookup(isa, View(x.shape), table.tobytes()), x)
        np.testing.assert_array_equal(result, table[x])
        result = interpret(clamp(isa, View(x.shape), 30, 200), x)
        np.testing.assert_array_equal(result, x.clip(30, 200))


def test_borders_between_floats_and_integers(isa: Isa) -> None:
    strange = np.array([np.nan, np.inf, -np.inf, 3e38, 1e-45, 2.5, 3.5], np.float32)
    x = np.resize(np.concatenate([strange, np.arange(30) * 0.37 - 5]), (1, 3, 5, 7))
    x = x.astype(np.float32)
    for order in ((0, 1, 2, 3), NHWC):
        result = interpret(quantize(isa, x.shape, order, 0.037, 121, 3, 250), x)
        np.testing.assert_array_equal(result, exact(x, 0.037, 121, 3, 250).transpose(order))
        back = interpret(dequantize(isa, x.shape, order, 0.037, 121), result)
        real = (result.astype(np.float32) - 121) * np.float32(0.037)
        np.testing.assert_array_equal(back, real.transpose(np.argsort(order)))


def test_pools_means_and_resizing(isa: Isa) -> None:
    x = random_bytes(1, 5, 4, 70)
    images = torch.from_numpy(x).permute(0, 3, 1, 2)
    window = PoolWindow((3, 2), (2, 1), (1, 1, 1, 1))
    numbers = Requantize(9, 0.2, 100, 5, 200)
    rows, columns = np.array([0, 700, 8192], np.int32), np.array([4095, 6144], np.int32)
    given = ([3, 2], [2, 1], [1, 1])
    cases: list[tuple[Kernel, torch.Tensor]] = [
        (
            max_pool2d(isa, View(x.shape), window),
            qpc_ops.max_pool2d(images, *given, [1, 1], False),
        ),
        (
            avg_pool2d(isa, View(x.shape), window, numbers),
            qpc_ops.avg_pool2d(images, *given, 9, 0.2, 100, 5, 200),
        ),
        (
            mean(isa, x.shape, (1, 2), numbers, keepdim=True),
            qpc_ops.sum(images, [2, 3], True, 9, 0.2, 100, 5, 200),
        ),
        (
            resize2d(isa, View(x.shape), rows, columns),
            qpc_ops.resize2d(images, *map(torch.from_numpy, (rows, columns)), [5, 4]),
        ),
    ]
    for kernel, expected in cases:
        result = interpret(kernel, x)
        np.testing.assert_array_equal(result, expected.permute(0, 2, 3, 1).numpy())


def test_threads_do_not_meet_in_memory(isa: Isa, monkeypatch: pytest.MonkeyPatch) -> None:
    plans(monkeypatch, 4)
    for changes in ({"stride": (2, 2), "h": 9}, {"groups": 8, "o": 8}, {"h": 9}):
        layer = Layer(replace(BASE, **changes))
        result = layer.run(isa, interpret, threads=3)
        np.testing.assert_array_equal(result, layer.expected())


def test_rows_become_integers_before_other_threads_read_them(isa: Isa) -> None:
    random = np.random.default_rng(0)
    x, scale = random.normal(size=(7, 21)).astype(np.float32), np.ones(70, np.float32)
    weight = random.integers(-127, 128, (70, 21)).astype(np.int8)
    bias = random.normal(size=70).astype(np.float32)
    result = interpret(dynamic(isa, DynamicDesc(7, 21, 70, True), weight, scale, bias, 3), x)
    expected = qpc_ops.dynamic_linear(*map(torch.from_numpy, (x, weight, scale, bias)))
    np.testing.assert_array_equal(result, expected.numpy())


# --- what the tests above are worth ---------------------------------------------------------------


def test_a_broken_byte_permutation_is_seen(isa: Isa, monkeypatch: pytest.MonkeyPatch) -> None:
    if not isinstance(isa, DotProducts):
        pytest.skip("it packs bytes in another way")
    layer = Layer(replace(BASE, kernel=(1, 1), c=12, o=64, padding=(0, 0, 0, 0)))

    def as_packed(isa: DotProducts, packed: Expr, count: int) -> Expr:
        return shuffle([packed], range(count * isa.lanes))

    monkeypatch.setattr(DotProducts, "_in_order", as_packed)
    assert not np.array_equal(layer.run(isa, interpret), layer.expected())


def test_tasks_that_add_to_one_sum_are_seen(isa: Isa) -> None:
    def body(x: Flat, out: Flat) -> None:
        with loop(4, parallel=True) as i:
            out.store(0, out.load(0) + x.load(i))

    types = TensorType((4,), "uint8"), TensorType((1,), "uint8")
    kernel = Kernel("f", prim_func("f", types, body), types[:1], (), types[1])
    with pytest.raises(AssertionError, match="reads what another task wrote"):
        interpret(kernel, random_bytes(4))
