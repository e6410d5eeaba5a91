"""Quantized matrix product with constant weights."""

from __future__ import annotations

from dataclasses import dataclass, replace

from qpc.backends.tvm.kernels.conv.conv2d import dense_conv2d
from qpc.backends.tvm.kernels.conv.conv_plan import Convolution, LayerConstants
from qpc.backends.tvm.kernels.conv.sums import Join
from qpc.backends.tvm.kernels.conv.tiling import Tuner
from qpc.backends.tvm.kernels.epilogue import Epilogue, Reals
from qpc.backends.tvm.kernels.geometry import Conv2dDesc
from qpc.backends.tvm.kernels.isa.base import Isa
from qpc.backends.tvm.kernels.kernel import Kernel, TensorType


@dataclass(frozen=True)
class LinearDesc:
    """x[m, k] times the transposed weight[o, k], with the numbers of `qpc::linear`."""

    m: int
    k: int
    o: int
    input_zero_point: int = 0
    output_zero_point: int = 0
    lo: int = 0
    hi: int = 255
    reals: Reals | None = None
    join: Join | None = None


def linear(
    isa: Isa,
    desc: LinearDesc,
    constants: LayerConstants,
    epilogue: Epilogue = (),
    threads: int = 1,
    tuner: Tuner | None = None,
) -> Kernel:
    """The kernel of `qpc::linear` followed by `epilogue`: a 1x1 convolution over `m` pixels.

    Inputs are x[m, k] and the tensors that the epilogue adds, of the output's shape [m, o]. The
    constants are `weight[o, k]`, `bias[o]` and `multiplier[o]`.
    """
    isa = isa if desc.join is None else isa.joining
    conv = Conv2dDesc(
        n=1,
        h=1,
        w=desc.m,
        c=desc.k,
        o=desc.o,
        kernel=(1, 1),
        input_zero_point=desc.input_zero_point,
        output_zero_point=desc.output_zero_point,
        lo=desc.lo,
        hi=desc.hi,
        dtype=isa.activation,
        reals=desc.reals,
        join=desc.join,
    )
    x = TensorType((desc.m, desc.k), isa.activation)
    out = TensorType((desc.m, desc.o), conv.output.dtype)
    weight = constants.weight.reshape(desc.o, desc.k, 1, 1)
    layer = Convolution(conv, replace(constants, weight=weight))
    return dense_conv2d("conv2d", isa, layer, epilogue, threads, (x, out), tuner)
