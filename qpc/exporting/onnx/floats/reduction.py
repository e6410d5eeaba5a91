"""Sums, means, maxima and others over axes."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np
import torch
from torch.fx import Node

from qpc.calls import arguments, aten
from qpc.errors import UnsupportedOpError
from qpc.exporting.onnx.exporter import Exporter, Rule
from qpc.exporting.onnx.floats.functions import number

_AXES_AS_INPUT = {"ReduceSum": 13}
_OTHERS_SINCE = 18
"""From when on axes are an input, not an attribute."""


def reduced(to: Exporter, kind: str, name: str, axes: Sequence[int], *, keepdim: bool) -> str:
    """A reduction over some axes."""
    if to.opset >= _AXES_AS_INPUT.get(kind, _OTHERS_SINCE):
        return to.emit(kind, [name, to.integers(list(axes))], keepdims=int(keepdim))
    return to.emit(kind, [name], axes=list(axes), keepdims=int(keepdim))


def axes_of(dims: object, rank: int) -> list[int]:
    """The axes that an argument names, counted from 0: all if it names none."""
    if isinstance(dims, int):
        return [dims % max(rank, 1)]
    named = sorted({int(d) % rank for d in dims}) if isinstance(dims, Sequence) else []
    return named or list(range(rank))


def average(to: Exporter, name: str, rank: int, dims: object, *, keepdim: bool) -> str:
    """A mean over axes; over those of images it has an operator of its own."""
    axes = axes_of(dims, rank)
    if axes == [2, 3] and rank == 4 and keepdim:
        return to.emit("GlobalAveragePool", [name])
    return reduced(to, "ReduceMean", name, axes, keepdim=keepdim)


def _mean(to: Exporter, node: Node) -> str:
    given = arguments(node)
    name = to.operand(given["self"], to.type(node).dtype)
    return average(to, name, len(to.shape(given["self"])), given["dim"], keepdim=given["keepdim"])


def _of(kind: str) -> Rule:
    """A reduction in the dtype of its result."""

    def rule(to: Exporter, node: Node) -> str:
        given = arguments(node)
        source = node.all_input_nodes[0]
        axes = axes_of(given.get("dim"), len(to.shape(source)))
        name = to.operand(source, to.type(node).dtype)
        return reduced(to, kind, name, axes, keepdim=bool(given.get("keepdim", False)))

    return rule


def _norm(to: Exporter, node: Node) -> str:
    """`aten.linalg_vector_norm` of order 1 or 2."""
    given = arguments(node)
    kind = {1: "ReduceL1", 2: "ReduceL2"}.get(given["ord"])
    if kind is None:
        raise UnsupportedOpError(f"no ONNX form for a norm of order {given['ord']}", node=node)
    axes = axes_of(given["dim"], len(to.shape(given["self"])))
    return reduced(to, kind, to.value(node, "self"), axes, keepdim=given["keepdim"])


def _variance(*, root: bool, with_mean: bool = False) -> Rule:
    """Variances and standard deviations, by a corrected count."""

    def rule(to: Exporter, node: Node) -> str | tuple[str, str]:
        given, source = arguments(node), node.all_input_nodes[0]
        axes, name = axes_of(given.get("dim"), len(to.shape(source))), to.of(source)
        keepdim, count = bool(given.get("keepdim")), prod(to.size(source, a) for a in axes)
        correction = given.get("correction", int(given.get("unbiased", True)))
        correction = 1 if correction is None else to.number(correction)
        assert isinstance(correction, int | float)
        mean = reduced(to, "ReduceMean", name, axes, keepdim=True)
        centred = to.emit("Sub", [name, mean])
        square = to.emit("Mul", [centred, centred])
        square = reduced(to, "ReduceMean", square, axes, keepdim=keepdim)
        factor = count / max(count - correction, 0) if count > correction else float("inf")
        made = square if factor == 1 else to.emit("Mul", [square, number(to, factor)])
        made = to.emit("Sqrt", [made]) if root else made
        if not with_mean:
            return made
        return made, reduced(to, "ReduceMean", name, axes, keepdim=keepdim)

    return rule


def _place(kind: str) -> Rule:
    """`aten.argmax` and `aten.argmin`: the first place of the best value."""

    def rule(to: Exporter, node: Node) -> str:
        given = arguments(node)
        name, rank = to.value(node, "self"), len(to.shape(given["self"]))
        if given["dim"] is None:
            return to.reshaped(
                to.emit(kind, [to.reshaped(name, (-1,))], axis=0, keepdims=0), to.shape(node)
            )
        axis = given["dim"] % rank
        return to.emit(kind, [name], axis=axis, keepdims=int(given["keepdim"]))

    return rule


def _best(value: str, place: str) -> Rule:
    """`aten.max.dim` and `aten.min.dim`: the best value and its place."""

    def rule(to: Exporter, node: Node) -> tuple[str, str]:
        given = arguments(node)
        name, axes = to.value(node, "self"), axes_of(given["dim"], len(to.shape(given["self"])))
        found = reduced(to, value, name, axes, keepdim=given["keepdim"])
        return found, to.emit(place, [name], axis=axes[0], keepdims=int(given["keepdim"]))

    return rule


def _topk(to: Exporter, node: Node) -> tuple[str, ...]:
    """`aten.topk`."""
    given = arguments(node)
    axis = given["dim"] % len(to.shape(given["self"]))
    most, ordered = int(given["largest"]), int(given["sorted"])
    inputs = [to.value(node, "self"), to.integers([given["k"]])]
    return to.emit_several("TopK", inputs, 2, axis=axis, largest=most, sorted=ordered)


def _running(to: Exporter, node: Node) -> str:
    """`aten.cumsum`."""
    given, dtype = arguments(node), to.type(node).dtype
    axis = to.constant(np.int64(given["dim"] % len(to.shape(node))))
    return to.emit("CumSum", [to.operand(given["self"], dtype), axis])


def _any(kind: str) -> Rule:
    """Truth values over axes, through integers."""

    def rule(to: Exporter, node: Node) -> str:
        given, source = arguments(node), node.all_input_nodes[0]
        axes = axes_of(given.get("dim"), len(to.shape(source)))
        truths = to.cast(to.of(source), torch.bool, to.type(source).dtype)
        numbers = to.cast(truths, torch.int32)
        made = reduced(to, kind, numbers, axes, keepdim=bool(given.get("keepdim", False)))
        return to.cast(made, torch.bool)

    return rule


RULES: dict[object, Rule] = {
    **dict.fromkeys((aten.mean.dim,), _mean),
    **dict.fromkeys((aten.sum.dim_IntList, aten.sum.default), _of("ReduceSum")),
    aten.mean.default: _of("ReduceMean"),
    aten.amax.default: _of("ReduceMax"),
    aten.amin.default: _of("ReduceMin"),
    aten.prod.dim_int: _of("ReduceProd"),
    aten.logsumexp.default: _of("ReduceLogSumExp"),
    aten.linalg_vector_norm.default: _norm,
    **dict.fromkeys((aten.var.correction, aten.var.dim, aten.var.default), _variance(root=False)),
    **dict.fromkeys((aten.std.correction, aten.std.dim, aten.std.default), _variance(root=True)),
    **dict.fromkeys(
        (aten.var_mean.correction, aten.var_mean.dim, aten.var_mean.default),
        _variance(root=False, with_mean=True),
    ),
    aten.argmax.default: _place("ArgMax"),
    aten.argmin.default: _place("ArgMin"),
    aten.max.dim: _best("ReduceMax", "ArgMax"),
    aten.min.dim: _best("ReduceMin", "ArgMin"),
    aten.topk.default: _topk,
    aten.cumsum.default: _running,
    aten.any.dim: _any("ReduceMax"),
    aten.all.dim: _any("ReduceMin"),
}
