from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

pytest.importorskip("tvm", reason="needs Apache TVM")

from qpc.backends.common.channel_slice import ChannelSlice
from qpc.backends.tvm.kernels.conv.conv2d import conv2d
from qpc.backends.tvm.kernels.conv.conv_plan import Convolution, ConvPlan, LayerConstants
from qpc.backends.tvm.kernels.conv.dense_conv import DenseConv
from qpc.backends.tvm.kernels.conv.depthwise import DepthwiseConv
from qpc.backends.tvm.kernels.conv.linear import LinearDesc, linear
from qpc.backends.tvm.kernels.conv.sums import Join
from qpc.backends.tvm.kernels.conv.tiling import Tuner
from qpc.backends.tvm.kernels.epilogue import AddTensor, Clamp, Epilogue, Lookup, Reals
from qpc.backends.tvm.kernels.geometry import Conv2dDesc
from qpc.backends.tvm.kernels.isa.choose import Isa, isa_for
from qpc.backends.tvm.kernels.kernel import Kernel
from qpc.quant.arithmetic import JOINED_BOUND
from qpc.targets import Target
from tests.backends.tvm.kernels.conftest import NOT_PLAIN

pytestmark = pytest.mark.tvm

SLOW = pytest.mark.slow
COMMON = pytest.mark.parametrize("target", NOT_PLAIN, indirect=True)

Array = npt.NDArray[Any]
Run = Callable[..., Array]
Place = tuple[int, ...]
AVX2 = isa_for(Target.parse("x86-64-avx2"))


class Layer:
    """A convolution with random data, and its exact result."""

    def __init__(self, desc: Conv2dDesc, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        kernel_shape = (desc.o, desc.c // desc.groups, *desc.kernel)
        self.desc = desc
        self.x = rng.integers(0, 256, desc.input.shape, np.uint8)
        self.weight = rng.integers(-127, 128, kernel_shape, np.int8)
        self.bias = rng.integers(-5000, 5000, desc.o, np.int32)
        spread = 100 * np.sqrt(np.prod(kernel_shape[1:]))
        self.multiplier = (rng.uniform(0.5, 2, desc.o) / spread).astype(np.float32)
        self.added = rng.integers(0, 256, desc.output.shape, np.uint8)
        self.table = rng.permutation(256).astype(np.uint8)
        self.joined = rng.integers(0, 256, desc.output.shape, np.uint8)

    @property
    def constants(self) -> LayerConstants:
        return LayerConstants(self.weight, self.bias, self.multiplier)

    def run(
        self,
        isa: Isa,
        run: Run,
        epilogue: Epilogue = (),
        threads: int = 1,
        added: int = 0,
        tuner: Tuner | None = None,
    ) -> Array:
        kernel = self.kernel(isa, epilogue, threads, tuner)
        assert kernel.output == self.desc.output
        joined = [] if self.desc.join is None else [self.joined]
        return run(kernel, self.x, *joined, *[self.added] * added)

    def kernel(
        self,
        isa: Isa,
        epilogue: Epilogue = (),
        threads: int = 1,
        tuner: Tuner | None = None,
    ) -> Kernel:
        return conv2d(isa, self.desc, self.constants, epilogue, threads, tuner)

    def expected(self) -> Array:
        desc = self.desc
        accumulators = exact_convolution(self.x, self.weight, desc) + self.bias
        if desc.reals is not None:
            least, greatest = (np.int32(bits).view(np.float32) for bits in desc.reals.bits)
            real = accumulators.astype(np.float32) * self.multiplier
            return np.asarray(np.clip(real, least, greatest))
        if desc.join is not None:
            return with_joined(accumulators, self.multiplier, self.joined, desc)
        return requantized(accumulators, self.multiplier, desc.output_zero_point, desc.lo, desc.hi)


def exact_convolution(x: Array, weight: Array, desc: Conv2dDesc) -> Array:
    top, left, bottom, right = desc.padding
    (kh, kw), (sh, sw), (dh, dw) = desc.kernel, desc.stride, desc.dilation
    x = x[..., desc.images.first : desc.images.first + desc.c]
    values = x.astype(np.int64) - desc.input_zero_point
    values = np.pad(values, [(0, 0), (top, bottom), (left, right), (0, 0)])
    values = values.reshape(*values.shape[:3], desc.groups, -1)
    by_group = weight.astype(np.int64).reshape(desc.groups, -1, *weight.shape[1:])
    total = np.zeros((desc.n, desc.oh, desc.ow, desc.groups, by_group.shape[1]), np.int64)
    for i in range(kh):
        for j in range(kw):
            rows = slice(i * dh, i * dh + (desc.oh - 1) * sh + 1, sh)
            columns = slice(j * dw, j * dw + (desc.ow - 1) * sw + 1, sw)
            taps = by_group[:, :, :, i, j]
            total += np.einsum("nhwgc,goc->nhwgo", values[:, rows, columns], taps)
    return total.reshape(desc.output.shape)


def requantized(
    accumulators: Array, multiplier: Array | np.float32, zero_point: int, lo: int, hi: int
) -> Array:
    assert np.abs(accumulators).max() < 2**31
    with np.errstate(over="ignore"):
        product = accumulators.astype(np.float32) * multiplier
    product = np.clip(product, np.float32(lo - zero_point), np.float32(hi - zero_point))
    result: Array = np.rint(product).astype(np.int64) + zero_point
    return result.astype(np.uint8)


def with_joined(accumulators: Array, multiplier: Array, other: Array, desc: Conv2dDesc) -> Array:
    join = desc.join
    assert join is not None
    with np.errstate(over="ignore"):
        product = accumulators.astype(np.float32) * multiplier
    total = np.rint(np.clip(product, -JOINED_BOUND, JOINED_BOUND)).astype(np.int64)
    total += (other.astype(np.int64) - join.zero_point) * join.multiplier
    total += 1 << (join.shift - 1) if join.shift else 0
    total = (total >> join.shift) + desc.output_zero_point
    return np.clip(total, desc.lo, desc.hi).astype(np.uint8)


def added(a: Array, b: Array, numbers: AddTensor) -> Array:
    total = (a.astype(np.int64) - numbers.a_zero_point) * numbers.a_multiplier
    total = total + (b.astype(np.int64) - numbers.b_zero_point) * numbers.b_multiplier
    total += 1 << (numbers.shift - 1) if numbers.shift else 0
    total = (total >> numbers.shift) + numbers.output_zero_point
    return np.clip(total, numbers.lo, numbers.hi).astype(np.uint8)


BASE = Conv2dDesc(
    n=1, h=7, w=9, c=8, o=16, kernel=(3, 3), input_zero_point=7, output_zero_point=100
)


PADDED = {"padding": (1, 1, 1, 1)}


@pytest.mark.every(6)
@COMMON
@pytest.mark.parametrize(
    "changes",
    [
        pytest.param(PADDED, id="padded"),
        pytest.param({"padding": (0, 2, 3, 1)}, id="each side padded differently"),
        pytest.param({}, id="not padded, read in place"),
        pytest.param({"padding": (3, 3, 3, 3), "h": 1, "w": 1}, id="more padding than image"),
        pytest.param({"c": 3, "o": 5}, id="fewer channels than lanes"),
        pytest.param({"c": 1, "o": 1}, id="one channel"),
        pytest.param({"c": 37, "o": 53}, id="odd channels"),
        pytest.param({"c": 37, "o": 53, "join": Join(90, 1, 0)}, id="adds before it rounds"),
        pytest.param(
            {"c": 37, "o": 37, "groups": 37, "join": Join(90, 1, 0)}, id="depthwise, adds before"
        ),
        pytest.param(
            {"c": 3, "o": 3, "groups": 3, "w": 1, "kernel": (3, 1), "join": Join(90, 1, 0)},
            id="depthwise, adds before, fewer channels than lanes",
        ),
        pytest.param({"c": 5, "o": 80, "w": 33}, id="five vectors"),
        pytest.param({"kernel": (1, 1), "c": 6, "o": 33}, id="1x1 odd"),
        pytest.param({"kernel": (1, 1), "n": 3}, id="1x1 is one matrix product"),
        pytest.param({"kernel": (1, 1), "stride": (2, 2)}, id="1x1 with stride"),
        pytest.param({"kernel": (1, 1), "padding": (1, 0, 0, 2)}, id="1x1 padded"),
        pytest.param({"kernel": (2, 5), "stride": (2, 3), "n": 5}, id="batch of five"),
        pytest.param({"kernel": (7, 7), "stride": (2, 2), "padding": (3,) * 4, "c": 3}, id="7x7"),
        pytest.param({"dilation": (2, 3), "padding": (2, 3, 2, 3), "c": 5}, id="dilated"),
        pytest.param({"dilation": (2, 1), "c": 6}, id="rows dilated only"),
        pytest.param({"kernel": (1, 3), "o": 24, "stride": (3, 1)}, id="one row"),
        pytest.param({"groups": 2, "padding": (1, 1, 1, 1)}, id="two groups in one vector"),
        pytest.param({"groups": 3, "c": 15, "o": 63, "n": 2}, id="groups of many outputs"),
        pytest.param({"groups": 4, "c": 12, "o": 20, "dilation": (1, 2)}, id="odd groups"),
        pytest.param({"groups": 7, "c": 7, "o": 21}, id="depthwise with a multiplier"),
        pytest.param({"groups": 6, "c": 48, "o": 6, "padding": (1,) * 4}, id="one output a group"),
        pytest.param({"source": ChannelSlice(5, 20)}, id="a slice of channels"),
        pytest.param(
            {"source": ChannelSlice(0, 9), **PADDED, "n": 2}, id="a slice of channels, padded"
        ),
        pytest.param(
            {"kernel": (1, 1), "c": 12, "source": ChannelSlice(28, 40), "n": 2},
            id="1x1 of a slice, in place",
        ),
        pytest.param(
            {"kernel": (1, 1), "c": 11, "source": ChannelSlice(12, 23)},
            id="1x1 of an odd slice",
        ),
        pytest.param(
            {"kernel": (1, 1), "stride": (2, 2), "c": 12, "source": ChannelSlice(3, 40)},
            id="1x1 of a slice, with a stride",
        ),
        pytest.param(
            {"groups": 4, "c": 16, "o": 20, "source": ChannelSlice(3, 40), "kernel": (1, 1)},
            id="groups of a slice",
        ),
        pytest.param(
            {"groups": 4, "c": 12, "o": 20, "source": ChannelSlice(3, 40), "dilation": (1, 2)},
            id="odd groups of a slice, dilated",
        ),
        pytest.param({"lo": 20, "hi": 130}, id="narrow clamp"),
        pytest.param({"lo": 100, "hi": 255}, id="relu"),
        pytest.param({"hi": 15, "output_zero_point": 0}, id="four bits"),
        pytest.param({"input_zero_point": 255, "padding": (1,) * 4}, id="high zero point"),
        # depthwise
        pytest.param({"groups": 8, "o": 8, "padding": (1,) * 4}, id="depthwise, few channels"),
        pytest.param({"groups": 67, "c": 67, "o": 67, "n": 2}, id="depthwise, odd channels"),
        pytest.param({"groups": 3, "c": 3, "o": 3, "stride": (2, 2)}, id="depthwise, stride"),
        pytest.param(
            {"groups": 2, "c": 2, "o": 2, "h": 10, "w": 8, "kernel": (2, 3), "stride": (2, 2)}
            | {"padding": (1, 2, 1, 2), "hi": 15, "output_zero_point": 8},
            id="depthwise, fewer rows than a dot product takes",
        ),
        pytest.param(
            {"groups": 64, "c": 64, "o": 64, "kernel": (5, 3), "dilation": (1, 2)},
            id="depthwise, dilated, in place",
        ),
        pytest.param(
            {"groups": 96, "c": 96, "o": 96, "kernel": (6, 2), "padding": (2, 0, 3, 1)},
            id="depthwise, even kernel",
        ),
        pytest.param(
            {"groups": 30, "c": 30, "o": 30, "kernel": (1, 7), "padding": (0, 3, 0, 3)},
            id="depthwise, one row",
        ),
        pytest.param(
            {"groups": 70, "c": 70, "o": 70, "kernel": (1, 1)}, id="depthwise, one tap, as of norms"
        ),
        pytest.param(
            {
                "groups": 70,
                "c": 70,
                "o": 70,
                "kernel": (1, 1),
                "source": ChannelSlice(7, 99),
                "n": 2,
            },
            id="depthwise, one tap, of a slice in place",
        ),
        pytest.param(
            {"groups": 96, "c": 96, "o": 96, "stride": (2, 1), "source": ChannelSlice(1, 98)},
            id="depthwise, of a slice in place",
        ),
        pytest.param(
            {"groups": 24, "c": 24, "o": 24, "source": ChannelSlice(3, 40), "n": 2},
            id="depthwise, few channels of a slice",
        ),
        pytest.param(
            {"groups": 96, "c": 96, "o": 96, "source": ChannelSlice(3, 120), "padding": (1,) * 4},
            id="depthwise, padded, of a slice",
        ),
    ],
)
def test_equals_the_exact_result(isa: Isa, run: Run, changes: dict[str, object]) -> None:
    layer = Layer(replace(BASE, **changes))  # type: ignore[arg-type]  # each has its field's type
    np.testing.assert_array_equal(layer.run(isa, run), layer.expected())


@pytest.mark.parametrize("groups", [1, 24])
@pytest.mark.parametrize("x", [0, 255])
@pytest.mark.parametrize("weight", [-127, 127])
def test_nothing_saturates_at_extreme_values(
    isa: Isa, run: Run, groups: int, x: int, weight: int
) -> None:
    layer = Layer(replace(BASE, c=24, o=24, groups=groups, padding=(1, 1, 1, 1)))
    layer.x[:], layer.weight[:] = x, weight
    layer.multiplier[:] = 1 / 2048
    np.testing.assert_array_equal(layer.run(isa, run), layer.expected())


@pytest.mark.parametrize("groups", [1, 24])
@pytest.mark.parametrize("weight", [-65, -64, 64, 65, -33, -32, 32, 33])
def test_nothing_saturates_with_small_weights(isa: Isa, run: Run, groups: int, weight: int) -> None:
    layer = Layer(replace(BASE, c=24, o=24, groups=groups, padding=(1, 1, 1, 1)))
    layer.x[:], layer.weight[:] = 255, weight
    layer.multiplier[:] = 1 / 2048
    np.testing.assert_array_equal(layer.run(isa, run), layer.expected())


@pytest.mark.parametrize("groups", [1, 3, 24])
@pytest.mark.parametrize("kernel", [(1, 1), (3, 3)])
@pytest.mark.parametrize("sum_", [128, 129])
def test_nothing_saturates_at_pairs_on_the_limit(
    isa: Isa, run: Run, groups: int, kernel: tuple[int, int], sum_: int
) -> None:
    layer = Layer(replace(BASE, c=24, o=24, groups=groups, kernel=kernel))
    axis = 2 if groups == 24 else 1  # kernel rows of one channel, or channels, meet in pairs
    size = layer.weight.shape[axis]
    each = np.arange(size)
    values = np.where(each % 2, 20 + each // 2, sum_ - 20 - each // 2)
    sign = np.where(np.arange(24) % 2, -1, 1).reshape(-1, 1, 1, 1)
    layer.weight[:] = np.moveaxis(values * sign, 3, axis)
    layer.x[:], layer.multiplier[:] = 255, 1 / 4096
    np.testing.assert_array_equal(layer.run(isa, run), layer.expected())


@pytest.mark.parametrize(("sum_", "depth"), [(128, 4), (129, 2)])
@pytest.mark.parametrize(
    ("changes", "first", "second"),
    [
        ({"kernel": (1, 1)}, (0, 22, 0, 0), (0, 23, 0, 0)),
        ({"groups": 6}, (7, 2, 0, 1), (7, 3, 0, 1)),
        ({"c": 8, "dilation": (1, 2)}, (0, 4, 1, 2), (0, 5, 1, 2)),
        ({"c": 3}, (1, 2, 2, 0), (1, 0, 2, 1)),  # columns of three channels follow one another
        ({"groups": 24}, (5, 0, 0, 1), (5, 0, 1, 1)),  # rows of a kernel of one channel
    ],
)
def test_pairs_are_those_that_a_dot_multiplies(
    sum_: int, depth: int, changes: dict[str, object], first: Place, second: Place
) -> None:
    layer = Layer(replace(BASE, **{"c": 24, "o": 24, **changes}))  # type: ignore[arg-type]  # each has its field's type
    layer.weight[:] = 0
    layer.weight[first], layer.weight[second] = sum_ - 100, 100
    part = Convolution(layer.desc, layer.constants)
    if layer.desc.groups == 24:
        plans: Sequence[ConvPlan] = [DepthwiseConv.for_layer(AVX2, part, 1)]
    else:
        plans = DenseConv.plans_for(AVX2, part, 1)
    assert (4 in {plan.isa.depth for plan in plans}) == (depth == 4)


@pytest.mark.parametrize(
    ("weight", "places", "depth"),
    [
        (32, (8, 9, 12, 13), 8),
        (33, (8, 9, 12, 13), 4),
        (64, (0, 1, 6, 7), 8),  # no two of one sum
        (64, (0, 1, 4), 4),
        (64, (4, 5, 8, 9), 8),  # of two dots
        (-32, (0, 1, 4, 5), 8),
        (-33, (0, 1, 4, 5), 4),
    ],
)
def test_sums_of_two_pairs_are_those_that_fit(
    weight: int, places: tuple[int, ...], depth: int
) -> None:
    layer = Layer(replace(BASE, c=24, o=24, kernel=(1, 1)))
    layer.weight[:] = 0
    layer.weight[7, list(places)] = weight
    plans = DenseConv.plans_for(AVX2, Convolution(layer.desc, layer.constants), 1)
    assert max(plan.isa.depth for plan in plans) == depth


@COMMON
@pytest.mark.parametrize("bits", [7, 6])
@pytest.mark.parametrize(
    "changes",
    [
        {"c": 37, "o": 53, "padding": (1, 1, 1, 1)},
        {"groups": 67, "c": 67, "o": 67},
        {"kernel": (1, 1), "c": 64, "o": 70},
    ],
)
def test_small_weights_give_the_exact_result(
    isa: Isa, run: Run, changes: dict[str, object], bits: int
) -> None:
    layer = Layer(replace(BASE, **changes))  # type: ignore[arg-type]  # each has its field's type
    layer.weight //= 2 ** (8 - bits)
    np.testing.assert_array_equal(layer.run(isa, run), layer.expected())


@COMMON
@pytest.mark.parametrize("multiplier", [3e38, 1e-38])
@pytest.mark.parametrize("groups", [1, 16])
def test_multipliers_may_be_huge_or_tiny(
    isa: Isa, run: Run, multiplier: float, groups: int
) -> None:
    layer = Layer(replace(BASE, c=16, groups=groups, kernel=(1, 1)))
    layer.multiplier[:] = multiplier
    np.testing.assert_array_equal(layer.run(isa, run), layer.expected())


def test_rounds_half_to_even(isa: Isa, run: Run) -> None:
    desc = LinearDesc(m=256, k=1, o=1)
    x = np.arange(256, dtype=np.uint8)[:, None]
    half = LayerConstants(
        np.ones((1, 1), np.int8), np.zeros(1, np.int32), np.full(1, 0.5, np.float32)
    )
    kernel = linear(isa, desc, half)
    result = run(kernel, x)
    assert result[:8, 0].tolist() == [0, 0, 1, 2, 2, 2, 3, 4]
    np.testing.assert_array_equal(result[:, 0], np.rint(np.arange(256) / 2))


def test_an_accumulator_may_use_all_32_bits(isa: Isa, run: Run) -> None:
    layer = Layer(replace(BASE, c=4, o=4, kernel=(1, 1)))
    layer.weight[:] = 127
    layer.bias[:] = [2**31 - 1 - 4 * 127 * 248, -(2**31) + 4 * 127 * 7, 2**30, -(2**30)]
    layer.multiplier[:] = 2.0**-24
    np.testing.assert_array_equal(layer.run(isa, run), layer.expected())


ADD = AddTensor(
    a_zero_point=100,
    b_zero_point=31,
    a_multiplier=11111,
    b_multiplier=-32767,
    shift=14,
    output_zero_point=77,
    lo=3,
    hi=250,
)


@pytest.mark.parametrize(("channels", "groups"), [(24, 1), (80, 80)])
def test_stages_follow_in_order(isa: Isa, run: Run, channels: int, groups: int) -> None:
    layer = Layer(replace(BASE, c=channels, o=channels, groups=groups))
    table = layer.table.tobytes()
    result = layer.run(isa, run, (ADD, Lookup(table), Clamp(10, 200), ADD), added=2)
    value = added(layer.expected(), layer.added, ADD)
    value = np.clip(layer.table[value], 10, 200)
    np.testing.assert_array_equal(result, added(value, layer.added, ADD))


@pytest.mark.every(3)
@COMMON
@pytest.mark.parametrize("channels", [3, 16])
@pytest.mark.parametrize("depthwise", [False, True])
def test_stages_work_with_few_channels(isa: Isa, run: Run, channels: int, depthwise: bool) -> None:
    groups = channels if depthwise else 1
    layer = Layer(replace(BASE, c=channels, o=channels, groups=groups, padding=(1,) * 4))
    no_shift = replace(ADD, shift=0, a_multiplier=1, b_multiplier=-1)
    result = layer.run(isa, run, (no_shift, Lookup(layer.table.tobytes())), added=1)
    expected = layer.table[added(layer.expected(), layer.added, no_shift)]
    np.testing.assert_array_equal(result, expected)


@COMMON
@pytest.mark.parametrize(
    "changes",
    [
        pytest.param(PADDED, id="dense"),
        pytest.param({"groups": 2}, id="groups"),
        pytest.param({"groups": 16, "c": 16, **PADDED}, id="depthwise, few channels"),
        pytest.param({"groups": 1, "c": 1, "o": 1, **PADDED}, id="one channel"),
        pytest.param({"groups": 7, "c": 7, "o": 7, **PADDED}, id="depthwise, odd channels"),
        pytest.param({"groups": 70, "c": 70, "o": 70}, id="depthwise"),
    ],
)
def test_outputs_may_be_a_share_of_larger_images(
    isa: Isa, run: Run, changes: dict[str, Any]
) -> None:
    layer = Layer(replace(BASE, n=2, **changes))
    desc = layer.desc.placed(ChannelSlice(8, layer.desc.o + 24))
    kernel = conv2d(isa, desc, layer.constants)
    result = run(kernel, layer.x)
    np.testing.assert_array_equal(result[..., 8:-16], layer.expected())
    assert (result[..., :8] == 99).all()  # what the fixture fills outputs with
    assert (result[..., -16:] == 99).all()


@pytest.mark.every(3)
@COMMON
@pytest.mark.parametrize(
    "changes",
    [
        pytest.param(PADDED, id="dense"),
        pytest.param({"kernel": (1, 1), "c": 16}, id="1x1"),
        pytest.param({"groups": 2, "o": 22}, id="groups"),
        pytest.param({"groups": 7, "c": 7, "o": 7, **PADDED}, id="depthwise, few channels"),
        pytest.param({"groups": 70, "c": 70, "o": 70}, id="depthwise"),
    ],
)
def test_other_channels_of_the_same_images_may_be_added(
    isa: Isa, run: Run, changes: dict[str, Any]
) -> None:
    layer = Layer(replace(BASE, n=2, **changes))
    first, o = 3, layer.desc.o
    desc = layer.desc.placed(ChannelSlice(first, 2 * o + 5))
    for moved in (o, -2):  # behind the outputs, and channels that partly are where outputs go
        stages = (replace(ADD, moved=moved), Clamp(20, 230))
        kernel = conv2d(isa, desc, layer.constants, stages)
        images = np.random.default_rng(2).integers(0, 256, desc.output.shape, np.uint8)
        result = run(kernel, layer.x, images)
        others = images[..., first + moved : first + moved + o]
        expected = np.clip(added(layer.expected(), others, ADD), 20, 230)
        np.testing.assert_array_equal(result[..., first : first + o], expected)


@COMMON
@pytest.mark.parametrize(
    "changes",
    [
        {"padding": (1, 1, 1, 1), "h": 13},
        {"kernel": (1, 1), "o": 64, "n": 2},
        {"groups": 16, "c": 16, "padding": (1, 1, 1, 1), "n": 3},
        {"c": 3, "o": 96, "h": 3, "w": 3},
    ],
)
def test_threads_share_the_work(isa: Isa, run: Run, changes: dict[str, object]) -> None:
    layer = Layer(replace(BASE, **changes))  # type: ignore[arg-type]  # each has its field's type
    np.testing.assert_array_equal(layer.run(isa, run, threads=3), layer.expected())


@pytest.mark.parametrize(("m", "k", "o"), [(1, 64, 100), (1, 7, 3), (5, 33, 16), (40, 12, 70)])
def test_linear_equals_the_exact_result(isa: Isa, run: Run, m: int, k: int, o: int) -> None:
    conv = Conv2dDesc(n=1, h=1, w=m, c=k, o=o, kernel=(1, 1), input_zero_point=9)
    layer = Layer(conv)
    desc = LinearDesc(m=m, k=k, o=o, input_zero_point=9)
    weight = layer.weight.reshape(o, k)
    kernel = linear(isa, desc, LayerConstants(weight, layer.bias, layer.multiplier), (ADD,))
    x, other = layer.x.reshape(m, k), layer.added.reshape(m, o)
    expected = added(layer.expected().reshape(m, o), other, ADD)
    np.testing.assert_array_equal(run(kernel, x, other), expected)


def test_layers_of_one_shape_share_their_code(isa: Isa) -> None:
    one, two = Layer(BASE), Layer(replace(BASE, input_zero_point=3, hi=99), seed=1)
    kernels = [
        conv2d(isa, layer.desc, layer.constants, (Clamp(1, hi),))
        for layer, hi in ((one, 9), (two, 10))
    ]
    assert kernels[0].func is kernels[1].func
    assert kernels[0].name == kernels[1].name
    plain = conv2d(isa, one.desc, one.constants)
    assert plain.name != kernels[0].name


@pytest.mark.thorough
@pytest.mark.parametrize("target", ["x86-64-avx512-vnni"], indirect=True)
@pytest.mark.parametrize("groups", [1, 20])
def test_other_vectors_give_the_same_result(isa: Isa, run: Run, groups: int) -> None:
    layer = Layer(replace(BASE, c=20, o=20, groups=groups, padding=(1, 1, 1, 1)))
    result = layer.run(isa, run, (Lookup(layer.table.tobytes()),))
    np.testing.assert_array_equal(result, layer.table[layer.expected()])


def test_a_table_behind_few_depthwise_channels(isa: Isa, run: Run) -> None:
    """LLVM never ended where the few values were repeated to fill a vector for the table."""
    layer = Layer(replace(BASE, n=5, c=2, o=2, groups=2, h=6, w=2, kernel=(1, 1)))
    result = layer.run(isa, run, (Lookup(layer.table.tobytes()),))
    np.testing.assert_array_equal(result, layer.table[layer.expected()])


# --- results that stay float32 --------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {"c": 5, "o": 19, "kernel": (3, 3), "padding": (1, 1, 1, 1)},
        pytest.param({"c": 32, "o": 64, "kernel": (1, 1)}, marks=SLOW),
        pytest.param({"c": 8, "o": 8, "kernel": (1, 1), "groups": 4}, marks=SLOW),
        {"c": 24, "o": 24, "kernel": (3, 3), "groups": 24},
        pytest.param({"c": 68, "o": 68, "kernel": (3, 1), "groups": 68}, marks=SLOW),
        pytest.param({"c": 3, "o": 3, "kernel": (3, 3), "groups": 3}, marks=SLOW),
        pytest.param({"n": 1, "h": 14, "w": 14, "c": 64, "o": 64, "kernel": (3, 3)}, marks=SLOW),
    ],
    ids=str,
)
def test_reals_are_the_accumulator_times_its_multiplier(
    isa: Isa, run: Run, changes: dict[str, Any]
) -> None:
    sizes: dict[str, Any] = {"n": 2, "h": 7, "w": 9} | changes
    for reals in (Reals(), Reals(least=0.0, greatest=1.25)):
        desc = Conv2dDesc(**sizes, input_zero_point=131, dtype=isa.activation, reals=reals)
        layer = Layer(desc, seed=3)
        assert layer.expected().dtype == np.float32
        assert np.array_equal(layer.run(isa, run), layer.expected())


def test_channels_must_form_groups() -> None:
    with pytest.raises(ValueError, match="8 input and 16 output channels do not form 3 groups"):
        replace(BASE, groups=3)


def test_the_kernel_must_fit_the_padded_input() -> None:
    with pytest.raises(ValueError, match=r"the kernel \(9, 9\) is larger than the padded input"):
        replace(BASE, kernel=(9, 9))


def test_a_table_has_256_entries() -> None:
    with pytest.raises(ValueError, match="a lookup table has 256 entries, not 2"):
        Lookup(b"ab")


@st.composite
def layers(draw: st.DrawFn) -> Layer:
    def size(most: int) -> int:
        return draw(st.integers(1, most))

    def pair(most: int) -> tuple[int, int]:
        return size(most), size(most)

    groups, kernel, dilation = size(5), pair(4), pair(2)
    inputs, outputs = draw(st.sampled_from([(1, 1), pair(9), (size(30), size(40))]))
    padding = (size(4) - 1, size(4) - 1, size(4) - 1, size(4) - 1)
    reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True)]
    desc = Conv2dDesc(
        n=size(3),
        h=max(size(12), reach[0] - padding[0]),
        w=max(size(12), reach[1] - padding[1]),
        c=groups * inputs,
        o=groups * outputs,
        kernel=kernel,
        stride=pair(3),
        padding=padding,
        dilation=dilation,
        groups=groups,
        input_zero_point=size(256) - 1,
        output_zero_point=size(256) - 1,
    )
    layer = Layer(desc, seed=size(1000))
    layer.weight >>= draw(st.sampled_from((0, 1, 2)))  # of 8, 7 and 6 bits
    return layer


@pytest.mark.thorough
@settings(
    max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(layer=layers())
def test_any_convolution_equals_the_exact_result(isa: Isa, run: Run, layer: Layer) -> None:
    np.testing.assert_array_equal(layer.run(isa, run), layer.expected())
