"""Movement of floats: slices, indices, windows as an axis."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from math import prod

import numpy as np
from tvm import relax

from qpc.backends.tvm.kernels.kernel import TensorType
from qpc.backends.tvm.lowering.copies import roll
from qpc.backends.tvm.lowering.floats.call import FloatCall
from qpc.backends.tvm.lowering.floats.rule import (
    IMPORTED,
    Arguments,
    FloatRule,
    dtype_of,
    shape_of,
)
from qpc.calls import aten


def _slice_scatter(args: Arguments) -> relax.Expr:
    """What comes before a slice of a tensor, the slice's new value, and what comes after."""
    x, axis = args["self"], args["dim"] % args["self"].ty.ndim
    size = int(x.ty.shape[axis])
    start, stop, step = slice(args["start"], args["end"], args["step"]).indices(size)
    if step != 1:
        return _strided_scatter(x, args["src"], axis, range(start, stop, step))
    before = relax.op.strided_slice(x, [axis], [0], [start])
    after = relax.op.strided_slice(x, [axis], [max(start, stop)], [size])
    parts = ((before, start), (args["src"], stop - start), (after, size - max(start, stop)))
    kept = [part for part, length in parts if length > 0]
    return relax.op.concat(kept, axis) if len(kept) > 1 else kept[0]


def _strided_scatter(x: relax.Expr, source: relax.Expr, axis: int, replaced: range) -> relax.Expr:
    """`x` with the positions `replaced` along an axis taken from `source`, in order."""
    size = int(x.ty.shape[axis])
    within = np.zeros(size, np.int64)
    within[list(replaced)] = np.arange(len(replaced))
    mask = np.zeros(size, bool)
    mask[list(replaced)] = True
    shape = [size if d == axis else 1 for d in range(x.ty.ndim)]
    spread = relax.op.take(source, relax.const(within), axis=axis, mode="clip")
    return relax.op.where(relax.const(mask.reshape(shape)), spread, x)


def _copy(args: Arguments) -> relax.Expr:
    """A value in the shape and type of the tensor that it overwrites."""
    x, source = args["self"], args["src"]
    return relax.op.broadcast_to(relax.op.astype(source, dtype_of(x)), list(map(int, x.ty.shape)))


def _index_select(args: Arguments) -> relax.Expr:
    return relax.op.take(args["self"], args["index"], axis=args["dim"], mode="clip")


def _embedding(args: Arguments) -> relax.Expr:
    # TVM's importer reads out of bounds for an index that is too large.
    return relax.op.take(args["weight"], args["indices"], axis=0, mode="clip")


def merged_position(x: relax.Expr, indices: Sequence[relax.Expr | None]) -> relax.Expr | None:
    """Where indices of some axes point if these are one axis; None if they are not neighbours."""
    given = {axis: index for axis, index in enumerate(indices) if index is not None}
    axes = list(given)
    if axes != list(range(axes[0], axes[-1] + 1)):
        return None
    if any("int" not in str(index.ty.dtype) for index in given.values()):
        return None
    position: relax.Expr | None = None
    for axis, index in given.items():
        size = relax.const(int(x.ty.shape[axis]), "int64")
        index = relax.op.astype(index, "int64")
        inside = relax.op.floor_mod(index, size)  # negative ones count from the end
        before = None if position is None else relax.op.multiply(position, size)
        position = inside if before is None else relax.op.add(before, inside)
    return position


def _index(args: Arguments) -> relax.Expr | None:
    """Indexing by integer tensors on axes that follow each other."""
    x = args["self"]
    position = merged_position(x, args["indices"])
    if position is None:
        return None
    axes = [axis for axis, index in enumerate(args["indices"]) if index is not None]
    sizes = [int(d) for d in x.ty.shape]
    merged = (*sizes[: axes[0]], prod(sizes[a] for a in axes), *sizes[axes[-1] + 1 :])
    return relax.op.take(relax.op.reshape(x, merged), position, axis=axes[0], mode="clip")


def _select(args: Arguments) -> relax.Expr:
    x, axis, index = args["self"], args["dim"] % args["self"].ty.ndim, args["index"]
    start = index % int(x.ty.shape[axis])
    return relax.op.squeeze(relax.op.strided_slice(x, [axis], [start], [start + 1]), [axis])


def _unfold(_: relax.BlockBuilder, args: Arguments) -> relax.Expr:
    """Windows along one axis; what is in them becomes the last axis."""
    x, size, step = args["self"], args["size"], args["step"]
    axis, rank = args["dimension"] % x.ty.ndim, x.ty.ndim
    shape = [int(s) for s in x.ty.shape]
    count = (shape[axis] - size) // step + 1
    places = (np.arange(count)[:, None] * step + np.arange(size)).reshape(-1)
    taken = relax.op.take(x, relax.const(places), axis=axis, mode="clip")
    apart = relax.op.reshape(taken, [*shape[:axis], count, size, *shape[axis + 1 :]])
    order = [d for d in range(rank + 1) if d != axis + 1]
    return relax.op.permute_dims(apart, [*order, axis + 1])


def _rolled(call: FloatCall) -> relax.Expr | None:
    """As a few copies: TVM asks at every value on which side of the seam it lies."""
    x, dims, shifts = (call.args[name] for name in ("self", "dims", "shifts"))
    if not call.are_floats("self"):
        return None
    shape = shape_of(x)
    # Without axes, all values are one.
    stored = TensorType(tuple(shape) if dims else (prod(shape),), "float32")
    by_axis: dict[int, int] = {}
    for axis, shift in zip(dims or [0], shifts, strict=True):
        at = axis % len(stored.shape)
        by_axis[at] = by_axis.get(at, 0) + shift
    return call.kernel(roll(stored, by_axis).kernel(call.threads), [x], shape)


RULES: dict[object, FloatRule] = {
    aten.embedding.default: FloatRule(_embedding),
    aten.index.Tensor: FloatRule(_index),
    aten._unsafe_index.Tensor: FloatRule(_index),
    aten.select.int: FloatRule(_select),
    aten.alias.default: FloatRule(lambda args: args["self"]),
    aten.copy.default: FloatRule(_copy),
    aten.slice_scatter.default: FloatRule(_slice_scatter),
    aten.index_select.default: FloatRule(_index_select),
    aten.roll.default: FloatRule(kernel=_rolled, importer=True),
    aten.unfold.default: FloatRule(writes=_unfold),
    **dict.fromkeys(
        (
            aten.clone.default,
            aten.constant_pad_nd.default,
            aten.expand.default,
            aten.flip.default,
            aten.gather.default,
            operator.getitem,
            aten.permute.default,
            aten.repeat.default,
            aten.reshape.default,
            aten.slice.Tensor,
            aten.split_with_sizes.default,
            aten.squeeze.dim,
            aten.squeeze.dims,
            aten.tril.default,
            aten.triu.default,
            aten.unsqueeze.default,
            aten.view.default,
        ),
        IMPORTED,
    ),
}
