from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

pytest.importorskip("tvm", reason="needs Apache TVM")

from qpc.backends.common.channel_slice import ChannelSlice
from qpc.backends.tvm.kernels.conv.conv_plan import LayerConstants
from qpc.backends.tvm.kernels.conv.transposed import TransposedDesc, conv_transpose2d
from qpc.backends.tvm.kernels.epilogue import AddTensor, Epilogue, Lookup
from qpc.backends.tvm.kernels.isa.choose import Isa
from qpc.calls import qpc_ops

pytestmark = [
    pytest.mark.tvm,
    # The code is that of `conv2d`, which is tested with all kinds of instructions.
    pytest.mark.parametrize("target", ["x86-64-avx512-vnni", "x86-64-avx2"], indirect=True),
]

SLOW = pytest.mark.slow

Array = npt.NDArray[Any]
Run = Callable[..., Array]


class Layer:
    """A transposed convolution with random data, and what its definition gives."""

    def __init__(self, desc: TransposedDesc, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        shape = (desc.c, desc.o // desc.groups, *desc.kernel)
        self.desc = desc
        self.x = rng.integers(0, 256, desc.input.shape, np.uint8)
        self.weight = rng.integers(-127, 128, shape, np.int8)
        self.bias = rng.integers(-5000, 5000, desc.o, np.int32)
        spread = 100 * np.sqrt(np.prod(shape) / desc.o)
        self.multiplier = (rng.uniform(0.5, 2, desc.o) / spread).astype(np.float32)
        self.added = rng.integers(0, 256, desc.output.shape, np.uint8)

    @property
    def constants(self) -> LayerConstants:
        return LayerConstants(self.weight, self.bias, self.multiplier)

    def run(
        self, isa: Isa, run: Run, epilogue: Epilogue = (), threads: int = 1, added: int = 0
    ) -> Array:
        kernel = conv_transpose2d(isa, self.desc, self.constants, epilogue, threads)
        return run(kernel, self.x, *[self.added] * added)

    def expected(self) -> Array:
        desc = self.desc
        first = desc.source.first if desc.source else 0
        tensors = [torch.from_numpy(t) for t in (self.weight, self.bias, self.multiplier)]
        result = qpc_ops.conv_transpose2d.default(
            torch.from_numpy(self.x[..., first : first + desc.c]).permute(0, 3, 1, 2),
            *tensors,
            list(desc.stride),
            list(desc.padding),
            list(desc.output_padding),
            desc.groups,
            list(desc.dilation),
            desc.input_zero_point,
            desc.output_zero_point,
            desc.lo,
            desc.hi,
        )
        found: Array = result.permute(0, 2, 3, 1).numpy()
        assert found.shape == desc.output.shape
        return found


BASE = TransposedDesc(
    n=1, h=5, w=4, c=8, o=20, kernel=(4, 4), stride=(2, 2), input_zero_point=7, output_zero_point=99
)


@pytest.mark.every(6)
@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"kernel": (2, 2)}, id="kernel and stride are equal"),
        pytest.param({"padding": (1, 1)}, id="every phase has taps of its own"),
        pytest.param({"padding": (1, 2)}, id="rows and columns differ", marks=SLOW),
        pytest.param({}, id="two taps for every output"),
        pytest.param({"kernel": (3, 3), "padding": (1, 1), "output_padding": (1, 1)}, id="3x3"),
        pytest.param({"kernel": (3, 3), "n": 2}, id="phases of different sizes", marks=SLOW),
        pytest.param({"kernel": (1, 1), "stride": (3, 2)}, id="outputs that nothing reaches"),
        pytest.param({"stride": (1, 1), "kernel": (3, 2)}, id="no stride", marks=SLOW),
        pytest.param({"stride": (1, 1), "kernel": (1, 1)}, id="1x1"),
        pytest.param({"dilation": (2, 3), "padding": (2, 3)}, id="dilated"),
        pytest.param({"kernel": (2, 2), "padding": (2, 3)}, id="crops more than it reaches"),
        pytest.param(
            {"stride": (4, 4), "kernel": (8, 8), "padding": (2, 2)}, id="runs of phases", marks=SLOW
        ),
        pytest.param({"h": 1, "w": 1, "padding": (1, 1)}, id="one pixel"),
        pytest.param({"groups": 2, "kernel": (2, 2)}, id="two groups"),
        pytest.param({"groups": 8, "o": 8, "padding": (1, 1)}, id="depthwise"),
        pytest.param({"groups": 3, "c": 9, "o": 57, "kernel": (3, 3)}, id="odd groups", marks=SLOW),
        pytest.param({"c": 1, "o": 1}, id="one channel"),
        pytest.param({"c": 37, "o": 53, "padding": (1, 1)}, id="odd channels"),
        pytest.param({"lo": 90, "hi": 200, "padding": (1, 1)}, id="clamped", marks=SLOW),
        pytest.param({"source": ChannelSlice(3, 21), "n": 2}, id="a slice of channels"),
        pytest.param({"source": ChannelSlice(3, 21), "kernel": (2, 2)}, id="a slice, in place"),
        pytest.param(
            {"source": ChannelSlice(3, 21), "groups": 2, "kernel": (2, 2)}, id="groups, a slice"
        ),
    ],
)
def test_equals_the_definition(isa: Isa, run: Run, changes: dict[str, object]) -> None:
    layer = Layer(replace(BASE, **changes))  # type: ignore[arg-type]  # each has its field's type
    np.testing.assert_array_equal(layer.run(isa, run), layer.expected())


@pytest.mark.parametrize("x", [0, 255])
@pytest.mark.parametrize("weight", [-127, 127])
def test_nothing_saturates_at_extreme_values(isa: Isa, run: Run, x: int, weight: int) -> None:
    layer = Layer(replace(BASE, c=24))
    layer.x[:], layer.weight[:] = x, weight
    layer.multiplier[:] = 1 / 2048
    np.testing.assert_array_equal(layer.run(isa, run), layer.expected())


@pytest.mark.every(2)
@pytest.mark.parametrize(("kernel", "threads"), [((2, 2), 3), ((3, 3), 1)])
def test_stages_see_the_same_place_of_every_tensor(
    isa: Isa, run: Run, kernel: tuple[int, int], threads: int
) -> None:
    layer = Layer(replace(BASE, kernel=kernel, n=2))
    half = AddTensor(0, 0, 1, 1, 1, 0)
    table = np.random.default_rng(1).permutation(256).astype(np.uint8)
    result = layer.run(isa, run, (half, Lookup(table.tobytes())), threads, added=1)
    sums = (layer.expected().astype(int) + layer.added + 1) >> 1
    np.testing.assert_array_equal(result, table[sums])


@pytest.mark.parametrize("kernel", [(2, 2), (3, 3)])
def test_outputs_may_be_a_share_of_larger_images(
    isa: Isa, run: Run, kernel: tuple[int, int]
) -> None:
    alone = Layer(replace(BASE, kernel=kernel, n=2))
    shared = Layer(replace(alone.desc, share=ChannelSlice(3, 30)))
    result = shared.run(isa, run)
    np.testing.assert_array_equal(result[..., 3:23], alone.expected())
    assert (result[..., :3] == 99).all()  # what the fixture fills outputs with
    assert (result[..., 23:] == 99).all()


def test_neighbouring_columns_that_read_the_same_are_one_convolution(isa: Isa) -> None:
    def parts(**changes: Any) -> int:
        layer = Layer(replace(BASE, **changes))
        kernel = conv_transpose2d(isa, layer.desc, layer.constants)
        return (len(kernel.params) - 1) // 3  # weight, bias and multiplier of each

    assert parts(kernel=(2, 2)) == 2  # rows of two phases
    assert parts(padding=(1, 1)) == 4
    assert parts(stride=(4, 4), kernel=(8, 8), padding=(2, 2)) == 8
    assert parts(groups=2, kernel=(2, 2)) == 4


@st.composite
def layers(draw: st.DrawFn) -> Layer:
    def size(most: int) -> int:
        return draw(st.integers(1, most))

    def pair(most: int) -> tuple[int, int]:
        return size(most), size(most)

    groups, stride, dilation = size(3), pair(4), pair(3)
    inputs, outputs = draw(st.sampled_from([(1, 1), pair(9), (size(30), size(40))]))
    most = [max(s, d) for s, d in zip(stride, dilation, strict=True)]
    desc = TransposedDesc(
        size(2),
        size(6),
        size(6),
        groups * inputs,
        groups * outputs,
        pair(4),
        stride,
        (size(4) - 1, size(4) - 1),
        (size(most[0]) - 1, size(most[1]) - 1),
        dilation,
        groups,
        input_zero_point=size(256) - 1,
        output_zero_point=size(256) - 1,
    )
    assume(min(desc.output.shape) > 0)
    return Layer(desc, seed=size(1000))


@pytest.mark.thorough
@settings(
    max_examples=5, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(layer=layers())
def test_any_transposed_convolution_equals_its_definition(isa: Isa, run: Run, layer: Layer) -> None:
    np.testing.assert_array_equal(layer.run(isa, run), layer.expected())
