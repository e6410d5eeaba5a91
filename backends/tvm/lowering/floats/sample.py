"""Samples of images at places that are computed."""

from __future__ import annotations

from tvm import relax

from qpc.backends.tvm.kernels.floats.sample import BILINEAR, NEAREST, SampleDesc, sample
from qpc.backends.tvm.lowering.floats.call import FloatCall
from qpc.backends.tvm.lowering.floats.rule import FloatRule, shape_of
from qpc.calls import aten


def _kernel(call: FloatCall) -> relax.Expr | None:
    args = call.args
    x, grid = args["input"], args["grid"]
    mode = args["interpolation_mode"]
    if not call.are_floats("input", "grid") or mode not in (BILINEAR, NEAREST):
        return None
    n, channels, height, width = shape_of(x)
    _, rows, columns, _ = shape_of(grid)
    aligned = bool(args["align_corners"])
    desc = SampleDesc(
        n, channels, (height, width), (rows, columns), mode, args["padding_mode"], aligned
    )
    made = sample(call.isa, desc, call.threads)
    return call.kernel(made, [x, grid], (n, channels, rows, columns))


RULES: dict[object, FloatRule] = {
    aten.grid_sampler_2d.default: FloatRule(kernel=_kernel),
    aten.grid_sampler.default: FloatRule(kernel=_kernel),
}
