"""Sums and means over whole axes, in float and in integers."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.fx import Node

from qpc.calls import Arg, Ints, OpView, arguments, aten
from qpc.channels.atoms import NONE, Labels, nothing, spread, varying_axes
from qpc.channels.flow import describe, pin_inputs
from qpc.library import GRID, REALS, define, in_float
from qpc.meta import info
from qpc.quant.arithmetic import (
    MOST_SUMMED,
    average_multiplier,
    real_values,
    requantize,
    require_bounds,
    require_sum,
    wrap_int32,
)
from qpc.registry import OpSpec, Quantization, Role, overloads

if TYPE_CHECKING:
    from qpc.analysis.integer_proofs import IntegerProof
    from qpc.channels.flow import Flow
    from qpc.conversion import Conversion


class Mean(OpView, of=aten.mean.dim):
    """Mean over `dims`, all dimensions if empty."""

    input = Arg[Node]("self")
    dims = Ints("dim")
    keepdim = Arg[bool]()
    dtype = Arg[torch.dtype | None]()


class Sum(OpView, of=aten.sum.dim_IntList):
    """Sum over `dims`, all dimensions if empty."""

    input = Arg[Node]("self")
    dims = Ints("dim")
    keepdim = Arg[bool]()
    dtype = Arg[torch.dtype | None]()


def reduced_axes(dims: Sequence[int], rank: int) -> set[int]:
    """The axes that `dims` names, counted from 0: all if it names none."""
    return {d % rank for d in dims} or set(range(rank))


def _count(q: Tensor, dims: Sequence[int]) -> int:
    return prod(q.shape[axis] for axis in reduced_axes(dims, q.dim()))


def _total(q: Tensor, dims: Sequence[int], keepdim: bool, input_zero_point: int) -> Tensor:
    require_sum(_count(q, dims))
    return wrap_int32((q.to(torch.int64) - input_zero_point).sum(tuple(dims), keepdim))


def _sum(
    q: Tensor,
    dims: Sequence[int],
    keepdim: bool,
    input_zero_point: int,
    multiplier: float,
    output_zero_point: int,
    lo: int,
    hi: int,
) -> Tensor:
    total = _total(q, dims, keepdim, input_zero_point)
    return requantize(total, multiplier, output_zero_point, lo, hi, q.dtype)


def _sum_float(
    q: Tensor,
    dims: Sequence[int],
    keepdim: bool,
    input_zero_point: int,
    multiplier: float,
    least: float | None,
    greatest: float | None,
) -> Tensor:
    return real_values(_total(q, dims, keepdim, input_zero_point), multiplier, least, greatest)


def _fake_reduced(q: Tensor, dims: Sequence[int], keepdim: bool, *_: Any) -> Tensor:
    reduced = reduced_axes(dims, q.dim())
    sizes = [1 if i in reduced else s for i, s in enumerate(q.shape)]
    return q.new_empty([s for i, s in enumerate(sizes) if keepdim or i not in reduced])


_SUM = "Tensor q, int[] dims, bool keepdim, int input_zero_point, float multiplier"
SUM = define(f"sum({_SUM}, {GRID}) -> Tensor", _sum, _fake_reduced)
SUM_FLOAT = define(f"sum_float({_SUM}, {REALS}) -> Tensor", _sum_float, in_float(_fake_reduced))


def _mean(
    q: Tensor,
    dims: Sequence[int],
    keepdim: bool,
    input_zero_point: int,
    input_scale: float,
    output_scale: float,
    output_zero_point: int,
    lo: int,
    hi: int,
) -> Tensor:
    """`sum`, by the number of values that are there: the same graph serves images of any size."""
    multiplier = average_multiplier(input_scale, output_scale, _count(q, dims))
    return _sum(q, dims, keepdim, input_zero_point, multiplier, output_zero_point, lo, hi)


def _mean_float(
    q: Tensor,
    dims: Sequence[int],
    keepdim: bool,
    input_zero_point: int,
    input_scale: float,
    least: float | None,
    greatest: float | None,
) -> Tensor:
    multiplier = average_multiplier(input_scale, 1.0, _count(q, dims))
    return _sum_float(q, dims, keepdim, input_zero_point, multiplier, least, greatest)


_MEAN = "Tensor q, int[] dims, bool keepdim, int input_zero_point, float input_scale"
MEAN = define(f"mean({_MEAN}, float output_scale, {GRID}) -> Tensor", _mean, _fake_reduced)
MEAN_FLOAT = define(f"mean_float({_MEAN}, {REALS}) -> Tensor", _mean_float, in_float(_fake_reduced))


# --- quantization ---------------------------------------------------------------------------------


def refuse_long_sum(count: int) -> str | None:
    """Why a sum of `count` values must stay in float."""
    if count <= MOST_SUMMED:
        return None
    return f"its sum of {count} values may not fit 32 bits, which {MOST_SUMMED} always do"


def _refuse(node: Node) -> str | None:
    view = Mean.of(node) or Sum(node)
    shape = info(view.input).shape or ()
    dims = {d % len(shape or (0,)) for d in view.dims}
    sizes = [s for d, s in enumerate(shape) if d in dims]
    fixed = [size for size in sizes if isinstance(size, int)]
    if not dims or 0 in dims or len(fixed) < len(sizes):
        return "it reduces the batch"
    return refuse_long_sum(prod(fixed))


def _convert_mean(conversion: Conversion) -> Node:
    view = Mean(conversion.node)
    source, value = conversion.grid_of(view.input), conversion.integers[view.input]
    numbers = [source.zero_point, source.scale]
    if conversion.rounds:
        numbers.append(conversion.grid.scale)
    operands = value, list(view.dims), view.keepdim, *numbers
    return conversion.ended((MEAN, MEAN_FLOAT), *operands)


def _convert_sum(conversion: Conversion) -> Node:
    view = Sum(conversion.node)
    source, value = conversion.grid_of(view.input), conversion.integers[view.input]
    numbers = (source.zero_point, conversion.multiplier(source.scale))
    operands = value, list(view.dims), view.keepdim, *numbers
    return conversion.ended((SUM, SUM_FLOAT), *operands)


# --- channels -------------------------------------------------------------------------------------


def reduce(flow: Flow, node: Node) -> Labels:
    """Sums and means over channels see fewer of them; over other axes they keep channels."""
    given, value = arguments(node), node.all_input_nodes[0]
    labels, dims = flow.of(value), given.get("dim")
    rank = labels.dim()
    reduced = {d % rank for d in ([dims] if isinstance(dims, int) else dims or range(rank))}
    kept = [a for a in varying_axes(labels) if a not in reduced]
    if kept:
        labels = spread(flow.line(node, value, kept[-1]), kept[-1], labels.shape)
    for axis in reduced:
        first = labels.narrow(axis, 0, 1)
        labels = torch.full_like(first, NONE) if axis in varying_axes(labels) else first
    if not given.get("keepdim", False):
        for axis in sorted(reduced, reverse=True):
            labels = labels.squeeze(axis)
    return labels


def _best_along(flow: Flow, node: Node) -> Labels:
    """Maxima, or sorted values, with their places: along the channels their numbers matter."""
    value, given = node.all_input_nodes[0], arguments(node)
    labels, dim = flow.of(value), given["dim"]
    axes = varying_axes(labels)
    if dim is None or dim % labels.dim() in axes:
        return pin_inputs(flow, node, f"{describe(node)} numbers channels")
    picked = labels.narrow(dim, 0, 1)
    return picked if given.get("keepdim", True) else picked.squeeze(dim)


def _scan(flow: Flow, node: Node) -> Labels:
    """A running sum depends on what comes before, so that channels along its axis have to stay."""
    value, dim = node.all_input_nodes[0], arguments(node)["dim"]
    labels = flow.of(value)
    if dim % labels.dim() in varying_axes(labels):
        flow.decline(node, labels, f"{describe(node)} runs over channels")
        return nothing(labels.shape)
    return labels


# --- proofs ---------------------------------------------------------------------------------------


def _check(proof: IntegerProof, node: Node) -> None:
    given = arguments(node)
    shape = proof.type(given["q"]).shape
    count = prod(shape[axis] for axis in reduced_axes(given["dims"], len(shape)))
    require_sum(count)
    if "input_scale" in given:
        average_multiplier(given["input_scale"], given.get("output_scale", 1.0), count)
    require_bounds(given.get("least"), given.get("greatest"))


def _refuse_extreme(node: Node) -> str | None:
    (value, *_), dims = node.all_input_nodes, arguments(node)["dim"]
    if value.op == "get_attr":
        return "its input is a parameter"
    rank = len(info(value).shape or ())
    return "it reduces the batch" if 0 in reduced_axes(dims, rank) else None


def _convert_extreme(conversion: Conversion) -> Node:
    """The same of integers, which are in the same order as what they stand for."""
    node = conversion.node
    return conversion.again(conversion.integers[node.all_input_nodes[0]], *node.args[1:])


_EXTREME = Quantization(Role.MOVE, _refuse_extreme, _convert_extreme, leaves_values=True)
_REDUCED = (
    "linalg_vector_norm var.correction std.correction var.dim std.dim logsumexp norm.ScalarOpt_dim "
    "prod.dim_int any.dim all.dim sum"
)
SPECS = (
    OpSpec(
        aten.mean.dim,
        quantization=Quantization(Role.REDUCE, _refuse, _convert_mean, ends_in_float=True),
        view=Mean,
        channels=reduce,
    ),
    OpSpec(
        aten.sum.dim_IntList,
        quantization=Quantization(Role.REDUCE, _refuse, _convert_sum, ends_in_float=True),
        view=Sum,
        channels=reduce,
    ),
    *(OpSpec(t, channels=reduce) for t in overloads(_REDUCED)),
    *(
        OpSpec(t, quantization=_EXTREME, channels=reduce, exact=True, picks=True)
        for t in overloads("amax amin")
    ),
    *(OpSpec(t, channels=_best_along, exact=True) for t in overloads("max.dim argmax argmin")),
    *(OpSpec(t, channels=_best_along) for t in overloads("min.dim sort topk median.dim")),
    *(OpSpec(t, channels=_scan) for t in overloads("cumsum cumprod")),
    OpSpec(SUM, exact=True, ends_with_clamp=True, check=_check),
    OpSpec(MEAN, exact=True, ends_with_clamp=True, check=_check),
    OpSpec(SUM_FLOAT, exact=True, check=_check),
    OpSpec(MEAN_FLOAT, exact=True, check=_check),
)
