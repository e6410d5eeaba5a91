"""Quantized matrix product with constant weights."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from qpc.backends.tvm.kernels.conv.conv2d import Conv2dDesc, dense_conv2d
from qpc.backends.tvm.kernels.conv.tiling import Tuner
from qpc.backends.tvm.kernels.epilogue import Epilogue
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


def linear(
    isa: Isa,
    desc: LinearDesc,
    weight: npt.NDArray[np.int8],
    bias: npt.NDArray[np.int32],
    multiplier: npt.NDArray[np.float32],
    epilogue: Epilogue = (),
    threads: int = 1,
    tuner: Tuner | None = None,
) -> Kernel:
    """The kernel of `qpc::linear` followed by `epilogue`: a 1x1 convolution over `m` pixels.

    Inputs are x[m, k] and the tensors that the epilogue adds, of the output's shape [m, o].
    """
    conv = Conv2dDesc(
        n=1,
        h=1,
        w=desc.m,
        c=desc.k,
        o=desc.o,
        kernel=(1, 1),
        dtype=isa.activation,
        input_zero_point=desc.input_zero_point,
        output_zero_point=desc.output_zero_point,
        lo=desc.lo,
        hi=desc.hi,
    )
    x, out = (TensorType((desc.m, size), isa.activation) for size in (desc.k, desc.o))
    weight = weight.reshape(desc.o, desc.k, 1, 1)
    return dense_conv2d(isa, conv, weight, bias, multiplier, epilogue, threads, (x, out), tuner)
