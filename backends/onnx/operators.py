"""The ONNX form of every operator that may stand in an integer graph.

A rule returns the name of the float result; the exporter rounds it where the graph does.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from torch.fx import Node

from qpc.backends.onnx import layers as qdq_layers
from qpc.backends.onnx import moves as qdq_moves
from qpc.backends.onnx import tables as qdq_tables
from qpc.backends.onnx.exporter import Exporter, Rule
from qpc.calls import Pair, arguments, aten, qpc_ops
from qpc.ops.affine import BatchNorm
from qpc.ops.reduction import Mean, reduced_axes

# --- integer operators ----------------------------------------------------------------------------


def _quantize(to: Exporter, node: Node) -> str:
    return to.value(node, "x")


def _dequantize(to: Exporter, node: Node) -> str:
    return to.value(node, "q")


def _add(to: Exporter, node: Node) -> str:
    """A difference is a sum with a negative factor."""
    kind = "Sub" if arguments(node)["b_multiplier"] < 0 else "Add"
    return to.clipped(node, to.emit(kind, [to.value(node, "a"), to.value(node, "b")]))


def _mul(to: Exporter, node: Node) -> str:
    return to.clipped(node, to.emit("Mul", [to.value(node, "a"), to.value(node, "b")]))


def _clamp(to: Exporter, node: Node) -> str:
    return to.clipped(node, to.value(node, "q"))


def _avg_pool2d(to: Exporter, node: Node) -> str:
    window = {k: Pair().decode(arguments(node)[k]) for k in ("kernel_size", "padding")}
    stride = arguments(node)["stride"] or window["kernel_size"]
    made = to.emit(
        "AveragePool",
        [to.value(node, "q")],
        kernel_shape=window["kernel_size"],
        strides=Pair().decode(stride),
        pads=window["padding"] * 2,
        count_include_pad=1,
    )
    return _scaled(to, node, made, math.prod(window["kernel_size"]))


def _sum(to: Exporter, node: Node) -> str:
    made, count = _reduced(to, node)
    return _scaled(to, node, made, count)


def _mean(to: Exporter, node: Node) -> str:
    made, _ = _reduced(to, node)
    return to.clipped(node, made)


def _reduced(to: Exporter, node: Node) -> tuple[str, int]:
    """The average over the axes of a call, and the number of values in it."""
    given = arguments(node)
    shape = to.shape(given["q"])
    made = _average(to, to.value(node, "q"), shape, given["dims"], given["keepdim"])
    return made, math.prod(shape[d] for d in reduced_axes(given["dims"], len(shape)))


def _scaled(to: Exporter, node: Node, average: str, count: int) -> str:
    """The result of an integer operator that sums `count` values, from their average.

    Its multiplier says what it divides the sum by: not the count, if it is a sum.
    """
    given, source = arguments(node), to.grid(arguments(node)["q"])
    factor = np.float32(given["multiplier"] * to.grid(node).scale / source.scale * count)
    if not math.isclose(factor, 1.0, rel_tol=1e-5):
        average = to.emit("Mul", [average, to.constant(factor)])
    return to.clipped(node, average)


def _average(
    to: Exporter, name: str, shape: tuple[int, ...], dims: list[int] | None, keepdim: bool
) -> str:
    axes = sorted(d % len(shape) for d in dims or range(len(shape)))
    if axes == [2, 3] and len(shape) == 4 and keepdim:
        return to.emit("GlobalAveragePool", [name])
    return to.emit("ReduceMean", [name], axes=axes, keepdims=int(keepdim))


# --- operators that stayed in float ---------------------------------------------------------------


def _float_batch_norm(to: Exporter, node: Node) -> str:
    names = [to.value(node, "input")]
    for argument, default in (("weight", 1.0), ("bias", 0.0)):
        if arguments(node)[argument] is None:
            size = to.shape(node)[1]
            names.append(to.constant(np.full(size, default, np.float32)))
        else:
            names.append(to.constant(to.tensor(node, argument).numpy()))
    statistics = [to.tensor(node, argument) for argument in ("running_mean", "running_var")]
    names += [to.constant(tensor.numpy()) for tensor in statistics]
    return to.emit("BatchNormalization", names, epsilon=BatchNorm(node).eps)


def _float_relu(to: Exporter, node: Node) -> str:
    return to.emit("Relu", [to.value(node, "self")])


def _float_mean(to: Exporter, node: Node) -> str:
    view = Mean(node)
    return _average(
        to, to.names[view.input], to.shape(view.input), list(view.dims) or None, view.keepdim
    )


def _float_softmax(to: Exporter, node: Node) -> str:
    return to.emit("Softmax", [to.value(node, "self")], axis=arguments(node)["dim"])


RULES: Mapping[object, Rule] = {
    qpc_ops.conv2d.default: qdq_layers.conv2d,
    qpc_ops.conv_transpose2d.default: qdq_layers.conv_transpose2d,
    qpc_ops.linear.default: qdq_layers.linear,
    qpc_ops.quantize.default: _quantize,
    qpc_ops.dequantize.default: _dequantize,
    qpc_ops.add.default: _add,
    qpc_ops.mul.default: _mul,
    qpc_ops.clamp.default: _clamp,
    qpc_ops.avg_pool2d.default: _avg_pool2d,
    qpc_ops.sum.default: _sum,
    qpc_ops.mean.default: _mean,
    qpc_ops.lookup.default: qdq_tables.lookup,
    qpc_ops.resize2d.default: qdq_moves.resize2d,
    qpc_ops.max_pool2d.default: qdq_moves.max_pool2d,
    aten.max_pool2d.default: qdq_moves.max_pool2d,
    aten.cat.default: qdq_moves.cat,
    aten.reshape.default: qdq_moves.reshape,
    aten.permute.default: qdq_moves.permute,
    aten.slice.Tensor: qdq_moves.slice_,
    aten.select.int: qdq_moves.select,
    aten.flip.default: qdq_moves.flip,
    aten.roll.default: qdq_moves.roll,
    aten.pixel_shuffle.default: qdq_moves.pixel_shuffle,
    aten.pixel_unshuffle.default: qdq_moves.pixel_unshuffle,
    aten.channel_shuffle.default: qdq_moves.channel_shuffle,
    aten.constant_pad_nd.default: qdq_moves.pad,
    aten.batch_norm.default: _float_batch_norm,
    aten.relu.default: _float_relu,
    aten.mean.dim: _float_mean,
    aten.softmax.int: _float_softmax,
}
