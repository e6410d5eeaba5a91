"""The kernel of one convolution, or of several that share input and output, from their plans."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from math import prod

import numpy as np
from tvm.tirx import PrimFunc

from qpc.backends.tvm.kernels.conv.conv_plan import Convolution, ConvPlan, Operands
from qpc.backends.tvm.kernels.emit import Flat, prim_func
from qpc.backends.tvm.kernels.epilogue import (
    Epilogue,
    EpilogueCode,
    EpilogueForm,
    epilogue_params,
    real_params,
)
from qpc.backends.tvm.kernels.isa.base import Isa
from qpc.backends.tvm.kernels.kernel import Array, Kernel, TensorType, kernel_name

Types = tuple[TensorType, TensorType]
"""Of input and output, which may be other views of the data."""


def conv_kernel(
    operation: str,
    plans: tuple[ConvPlan, ...],
    layers: Sequence[Convolution],
    epilogue: Epilogue,
    types: Types,
) -> Kernel:
    """Convolutions of one input that differ in shapes and constants, and in where they write.

    They have the same zero points and bounds, and one tensor of outputs; each has its plan.
    """
    form = form_of(epilogue, layers, plans[0].isa)
    name, func = _function(operation, plans, form, types)
    params: list[Array] = []
    for plan, layer in zip(plans, layers, strict=True):
        params += (
            *plan.pack_weight(layer.weight),
            # Sums may wrap around in between: the compiler has proved that accumulators do not.
            plan.pack_channels(layer.offset),
            plan.pack_channels(layer.constants.multiplier.astype(np.float32)),
        )
    desc, (x, out) = layers[0].desc, types
    if desc.reals is not None:
        params += real_params(desc.input_zero_point, desc.reals)
    else:
        numbers = desc.input_zero_point, desc.output_zero_point, desc.lo, desc.hi
        params += epilogue_params(*numbers, epilogue, plans[0].isa.activation, desc.join)
    return Kernel(
        name,
        func,
        (x, *form.inputs(out)),
        tuple(params),
        out,
        skipped=_mean(plans, [plan.skipped for plan in plans]),
        saved=_mean(plans, [plan.saved for plan in plans]),
        method=", ".join(dict.fromkeys(str(plan.label) for plan in plans)),
        time=float(sum(plan.time for plan in plans)),
    )


def form_of(epilogue: Epilogue, layers: Sequence[Convolution], isa: Isa) -> EpilogueForm:
    """What code depends on of an epilogue and of the multipliers before it."""
    desc = layers[0].desc
    if desc.reals is not None:
        assert not epilogue, "nothing follows values that are float32"
        return EpilogueForm((), real=True)
    multipliers = np.concatenate([layer.constants.multiplier for layer in layers])
    most = max(layer.most_requantized for layer in layers)
    form = EpilogueForm.of(epilogue, multipliers, desc.join, most)
    ends = np.iinfo(isa.activation)
    whole = (desc.lo, desc.hi) == (ends.min, ends.max)
    return replace(form, whole=isa.cuts_to_bytes and whole and desc.join is None)


@cache
def _function(
    operation: str, plans: tuple[ConvPlan, ...], form: EpilogueForm, types: Types
) -> tuple[str, PrimFunc]:
    x_type, out_type = types
    added = form.inputs(out_type)
    counts = [len(plan.param_types) for plan in plans]
    packed = [t for plan in plans for t in plan.param_types]

    def body(x: Flat, *args: Flat) -> None:
        others, rest = args[: len(added)], args[len(added) :]
        layers, (constants, *tables, out) = rest[: len(packed)], rest[len(packed) :]
        for plan, count in zip(plans, counts, strict=True):
            (*weight, bias, multiplier), layers = layers[:count], layers[count:]
            epilogue = EpilogueCode(plan.isa, form, constants, others, tables)
            plan.emit(Operands(x, weight, bias, multiplier, epilogue, out))

    name = kernel_name(operation, plans, form, types)
    arguments = (x_type, *added, *packed, *form.params(plans[0].isa.activation), out_type)
    return name, prim_func(name, arguments, body)


def _mean(plans: Sequence[ConvPlan], values: Sequence[float]) -> float:
    """The mean of values that count as much as the multiplications of their plans."""
    macs = []
    for shape in (plan.shape for plan in plans):
        pixels = shape.n * shape.oh * shape.ow
        macs.append(shape.o * shape.c // shape.groups * pixels * prod(shape.kernel))
    return sum(n * value for n, value in zip(macs, values, strict=True)) / sum(macs)
