"""Values that go where indices say, into a copy of a tensor.

TVM's own scatters are loops over all of the result, or functions of its runtime.
"""

from __future__ import annotations

from math import prod

from tvm import relax

from qpc.backends.tvm.kernels.scatter import ScatterDesc, scatter
from qpc.backends.tvm.lowering.floats.call import FloatCall
from qpc.backends.tvm.lowering.floats.movement import merged_position
from qpc.backends.tvm.lowering.floats.rule import FloatRule, dtype_of, shape_of
from qpc.calls import aten


def _index_put(call: FloatCall) -> relax.Expr | None:
    """By indices of axes that follow each other, or by a mask."""
    x, values, indices = (call.args[name] for name in ("self", "values", "indices"))
    if len(indices) == 1 and dtype_of(indices[0]) == "bool":
        return _by_mask(call)
    position = merged_position(x, indices)
    if position is None or dtype_of(values) != dtype_of(x):
        return None
    axes = [axis for axis, index in enumerate(indices) if index is not None]
    emit, shape = call.emit.builder.emit, shape_of(x)
    position = emit(position)
    before, chosen, behind = shape[: axes[0]], shape_of(position), shape[axes[-1] + 1 :]
    values = emit(relax.op.broadcast_to(values, [*before, *chosen, *behind]))
    desc = ScatterDesc(
        prod(before),
        prod(shape[axis] for axis in axes),
        prod(behind),
        prod(chosen),
        dtype_of(x),
        bool(call.args["accumulate"]),
    )
    return call.kernel(scatter(desc), [x, position, values], shape)


def _by_mask(call: FloatCall) -> relax.Expr | None:
    """One number wherever a mask over the first axes holds."""
    x, values, (mask,) = (call.args[name] for name in ("self", "values", "indices"))
    shape = shape_of(x)
    if prod(shape_of(values)) != 1 or call.args["accumulate"] or dtype_of(values) != dtype_of(x):
        return None
    held = shape_of(mask)
    mask = relax.op.reshape(mask, [*held, *(1 for _ in shape[len(held) :])])
    return call.emit.builder.emit(relax.op.where(mask, relax.op.reshape(values, []), x))


RULES: dict[object, FloatRule] = {
    aten.index_put.default: FloatRule(kernel=_index_put),
    aten._unsafe_index_put.default: FloatRule(kernel=_index_put),
}
