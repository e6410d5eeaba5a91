"""Quantized 2-d convolution of any shape, exact, on NHWC tensors."""

from __future__ import annotations

from qpc.backends.tvm.kernels.conv.conv_kernel import Types, conv_kernel, form_of
from qpc.backends.tvm.kernels.conv.conv_plan import Convolution, ConvPlan, LayerConstants
from qpc.backends.tvm.kernels.conv.depthwise import DepthwiseConv
from qpc.backends.tvm.kernels.conv.methods import plan_for, tuned_plan
from qpc.backends.tvm.kernels.conv.tiling import Tuner
from qpc.backends.tvm.kernels.epilogue import Epilogue
from qpc.backends.tvm.kernels.geometry import Conv2dDesc
from qpc.backends.tvm.kernels.isa.base import Isa
from qpc.backends.tvm.kernels.kernel import Kernel, kernel_name


def conv2d(
    isa: Isa,
    desc: Conv2dDesc,
    constants: LayerConstants,
    epilogue: Epilogue = (),
    threads: int = 1,
    tuner: Tuner | None = None,
) -> Kernel:
    """The kernel of `qpc::conv2d` followed by `epilogue`.

    Inputs are x[n, h, w, c] and the tensors that the epilogue adds, of the output's shape [n, oh,
    ow, o]. The constants are packed into the kernel's params.
    """
    isa = isa if desc.join is None else isa.joining
    layer, types = Convolution(desc, constants), (desc.input, desc.output)
    if desc.groups == desc.c == desc.o and desc.groups > 1:
        plan = DepthwiseConv.for_layer(isa, layer, threads)
        return conv_kernel("depthwise_conv2d", (plan,), [layer], epilogue, types)
    return dense_conv2d("conv2d", isa, layer, epilogue, threads, types, tuner)


def dense_conv2d(
    operation: str,
    isa: Isa,
    layer: Convolution,
    epilogue: Epilogue,
    threads: int,
    types: Types,
    tuner: Tuner | None,
) -> Kernel:
    """A convolution that is not depthwise, with the plan that the tuner wants if there is one."""

    def name_of(plan: ConvPlan) -> str:
        return kernel_name(operation, (plan,), form_of(epilogue, [layer], plan.isa), types)

    if tuner is None:
        plan = plan_for(isa, layer, threads)
    else:
        plan = tuned_plan(isa, layer, threads, tuner, name_of)
    return conv_kernel(operation, (plan,), [layer], epilogue, types)
