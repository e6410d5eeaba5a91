"""Values that go where indices say, into a copy of a tensor.

TVM's own scatters are loops over all of the result, or functions of its runtime.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod

from tvm import relax, tirx

from qpc.backends.tvm.kernels.emit import Flat, bind, copy, loop_between, prim_func
from qpc.backends.tvm.kernels.kernel import TensorType, kernel_name
from qpc.backends.tvm.lowering.floats.movement import merged_position
from qpc.backends.tvm.lowering.floats.rule import Arguments, FloatRule, dtype_of, shape_of
from qpc.calls import aten

_OPAQUE = 8  # TVM's pattern of operators that are fused with no others


def _index_put(builder: relax.BlockBuilder, args: Arguments) -> relax.Expr | None:
    """By indices of axes that follow each other; of equal ones the last counts, or all add up."""
    x, values, indices = args["self"], args["values"], args["indices"]
    axes = [axis for axis, index in enumerate(indices) if index is not None]
    position = merged_position(x, indices)
    if position is None or dtype_of(values) != dtype_of(x):
        return None
    position = builder.emit(position)
    shape, chosen = shape_of(x), shape_of(position)
    before, behind = shape[: axes[0]], shape[axes[-1] + 1 :]
    sizes = prod(before), prod(shape[a] for a in axes), prod(behind)
    values = builder.emit(relax.op.broadcast_to(values, [*before, *chosen, *behind]))
    count = prod(chosen)
    dtype, accumulate = dtype_of(x), bool(args.get("accumulate"))
    name = kernel_name("scatter", sizes, count, dtype, accumulate)
    types = [
        TensorType(sizes, dtype),
        TensorType((count,), "int64"),
        TensorType((sizes[0], count, sizes[2]), dtype),
        TensorType(sizes, dtype),
    ]
    body = _body(sizes, count, accumulate)
    function = prim_func(name, types, body).with_attr("op_pattern", _OPAQUE)
    called = builder.add_func(function, name)
    given = [
        builder.emit(relax.op.reshape(value, kind.shape))
        for value, kind in zip((x, position, values), types, strict=False)
    ]
    made = builder.emit(relax.call_tir(called, given, relax.TensorType(sizes, dtype)))
    return relax.op.reshape(made, shape)


def _body(
    sizes: tuple[int, int, int], count: int, accumulate: bool
) -> Callable[[Flat, Flat, Flat, Flat], None]:
    """x[outer, size, inner], places[count], values[outer, count, inner]."""
    outer, size, inner = sizes

    def body(x: Flat, places: Flat, values: Flat, out: Flat) -> None:
        copy(out, 0, x, 0, outer * size * inner)
        with loop_between(0, outer) as i, loop_between(0, count) as k:
            place = bind(tirx.Cast("int32", places.load(k)))
            to, come = bind((i * size + place) * inner), bind((i * count + k) * inner)
            with loop_between(0, inner) as j:
                value = values.load(come + j)
                out.store(to + j, out.load(to + j) + value if accumulate else value)

    return body


RULES: dict[object, FloatRule] = {
    aten.index_put.default: FloatRule(writes=_index_put),
    aten._unsafe_index_put.default: FloatRule(writes=_index_put),
}
