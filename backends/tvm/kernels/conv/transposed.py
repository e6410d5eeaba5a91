"""Quantized transposed 2-d convolution, exact, on NHWC tensors, as ordinary convolutions.

There is one for every phase of the rows and of the columns, and they interleave in the output.
Neighbouring phases of columns that read the same inputs are one convolution with that many times
the output channels, since their outputs lie side by side.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from qpc.backends.common.channel_slice import ChannelSlice
from qpc.backends.tvm.kernels.conv.conv2d import dense_conv2d
from qpc.backends.tvm.kernels.conv.conv_kernel import conv_kernel
from qpc.backends.tvm.kernels.conv.conv_plan import Convolution, LayerConstants
from qpc.backends.tvm.kernels.conv.methods import plan_for
from qpc.backends.tvm.kernels.conv.sums import Join
from qpc.backends.tvm.kernels.conv.tiling import Tuner
from qpc.backends.tvm.kernels.epilogue import Epilogue, Reals
from qpc.backends.tvm.kernels.geometry import Conv2dDesc, Places, View
from qpc.backends.tvm.kernels.isa.choose import Isa
from qpc.backends.tvm.kernels.kernel import Kernel, TensorType
from qpc.backends.tvm.kernels.phases import Axis, Phase


@dataclass(frozen=True)
class TransposedDesc:
    """A transposed convolution with the numbers of `qpc::conv_transpose2d`; pairs as in torch."""

    n: int
    h: int
    w: int
    c: int
    o: int
    kernel: tuple[int, int]
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    output_padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1
    input_zero_point: int = 0
    output_zero_point: int = 0
    lo: int = 0
    hi: int = 255
    source: ChannelSlice | None = None
    """Which channels of larger images the inputs are, if they are a part of these."""
    share: ChannelSlice | None = None
    """Which channels of larger images the outputs are, if they are a part of these."""
    dtype: str = "uint8"
    """Of inputs, and of outputs that are on a grid."""
    reals: Reals | None = None
    """How the outputs end, if they are float32."""
    join: Join | None = None
    """What joins the accumulators, if anything."""

    def axis(self, i: int) -> Axis:
        """Rows (0) or columns (1)."""
        pairs = (self.kernel, self.stride, self.padding, self.output_padding, self.dilation)
        return Axis((self.h, self.w)[i], *(pair[i] for pair in pairs))

    @property
    def input(self) -> TensorType:
        """The tensor that the inputs lie in."""
        return View((self.n, self.h, self.w, self.c), self.source, self.dtype).type

    @property
    def output(self) -> TensorType:
        """The tensor that the outputs go to."""
        size = self.axis(0).outputs, self.axis(1).outputs
        dtype = self.dtype if self.reals is None else "float32"
        return View((self.n, *size, self.o), self.share, dtype).type


def conv_transpose2d(
    isa: Isa,
    desc: TransposedDesc,
    constants: LayerConstants,
    epilogue: Epilogue = (),
    threads: int = 1,
    tuner: Tuner | None = None,
) -> Kernel:
    """The kernel of `qpc::conv_transpose2d` followed by `epilogue`.

    Inputs are x[n, h, w, c] and the tensors that the epilogue adds, of the output's shape. The
    constants are `weight[c, o // groups, kh, kw]`, `bias[o]` and `multiplier[o]`.
    """
    isa = isa if desc.join is None else isa.joining
    direct = replace(constants, weight=_outputs_first(constants.weight, desc.groups))
    columns = _runs(desc)
    layers = [_layer(desc, direct, row, run) for row in desc.axis(0).phases for run in columns]
    operation, types = "conv_transpose2d", (desc.input, desc.output)
    if len(layers) == 1:
        return dense_conv2d(operation, isa, layers[0], epilogue, threads, types, tuner)
    plans = tuple(plan_for(isa, layer, threads) for layer in layers)
    return conv_kernel(operation, plans, layers, epilogue, types)


def _outputs_first(weight: npt.NDArray[np.int8], groups: int) -> npt.NDArray[np.int8]:
    """weight[c, o // groups, kh, kw] -> [o, c // groups, kh, kw]."""
    c, per_group, *kernel = weight.shape
    split = weight.reshape(groups, c // groups, per_group, *kernel)
    return split.swapaxes(1, 2).reshape(groups * per_group, c // groups, *kernel)


def _runs(desc: TransposedDesc) -> list[list[Phase]]:
    """The phases of columns, neighbours together if they read the same inputs."""
    runs: list[list[Phase]] = []
    for phase in desc.axis(1).phases:
        alone = desc.groups > 1 or desc.share is not None
        if runs and not alone and _reads(runs[-1][0]) == _reads(phase):
            runs[-1].append(phase)
        else:
            runs.append([phase])
    return runs


def _reads(phase: Phase) -> tuple[int, int, int, int]:
    return len(phase.taps), phase.dilation, phase.before, phase.after


def _layer(
    desc: TransposedDesc, constants: LayerConstants, row: Phase, run: Sequence[Phase]
) -> Convolution:
    """The convolution of one phase of rows and of neighbouring phases of columns."""
    column, count = run[0], len(run)
    joined = LayerConstants.joined(
        [replace(constants, weight=_taps(constants.weight, row, phase)) for phase in run]
    )
    _, rows, columns, channels = desc.output.shape
    line, first = columns * channels, desc.share.first if desc.share else 0
    conv = Conv2dDesc(
        desc.n,
        desc.h,
        desc.w,
        desc.c,
        desc.o * count,
        joined.weight.shape[2:],
        padding=(row.before, column.before, row.after, column.after),
        dilation=(row.dilation, column.dilation),
        groups=desc.groups,
        source=desc.source,
        dtype=desc.dtype,
        places=Places(
            row.first * line + column.first * channels + first,
            rows * line,
            desc.stride[0] * line,
            desc.stride[1] * channels,
        ),
        input_zero_point=desc.input_zero_point,
        output_zero_point=desc.output_zero_point,
        lo=desc.lo,
        hi=desc.hi,
        reals=desc.reals,
        join=desc.join,
    )
    return Convolution(conv, joined)


def _taps(weight: npt.NDArray[np.int8], row: Phase, column: Phase) -> npt.NDArray[np.int8]:
    """The weights of a phase; a single zero along an axis without taps."""
    if not row.taps or not column.taps:
        kernel = (max(1, len(row.taps)), max(1, len(column.taps)))
        return np.zeros((*weight.shape[:2], *kernel), np.int8)
    return weight[:, :, list(row.taps)][:, :, :, list(column.taps)]
