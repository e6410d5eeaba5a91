"""The `qpc::` operators as calls of integer kernels.

Every rule gets the call's arguments by schema name, with a `Value` for each tensor that is computed
and a torch tensor for each constant, and returns a `Value`. Shapes of kernels are physical.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node
from tvm.relax import Expr

from qpc.backends.common.borders import NO_BORDER, Border
from qpc.backends.common.share import Share
from qpc.backends.tvm.kernels import elementwise, pooling, resize
from qpc.backends.tvm.kernels import layout as layout_kernels
from qpc.backends.tvm.kernels.conv import conv2d as conv2d_kernels
from qpc.backends.tvm.kernels.conv import linear as linear_kernels
from qpc.backends.tvm.kernels.conv import transposed
from qpc.backends.tvm.kernels.epilogue import AddTensor, Clamp, Lookup, Requantize, Stage
from qpc.backends.tvm.kernels.geometry import View
from qpc.backends.tvm.kernels.kernel import Kernel
from qpc.backends.tvm.lowering.emitter import Emitter
from qpc.backends.tvm.lowering.layout import NHWC, Order, Slice, Value, identity, significant
from qpc.backends.tvm.lowering.movement import with_rank
from qpc.errors import BackendError
from qpc.ops.integer import average_multiplier, reduced_axes
from qpc.ops.views import arguments, qpc_ops

Arguments = Mapping[str, Any]
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Call:
    """One call of a `qpc::` operator and what is fused behind it."""

    node: Node
    args: Arguments
    stages: tuple[tuple[Node, Arguments], ...] = ()
    preferred: Order | None = None
    """The memory order that readers of a quantized value want."""
    share: Share | None = None
    frame: Expr | None = None
    """Where the result goes in a concat, and the concat's tensor if others have begun it."""
    border: Border = NO_BORDER
    """What a convolution adds to its own padding."""

    def tensor(self, name: str) -> Value | Slice:
        """The argument of that name, which is a computed tensor."""
        value = self.args[name]
        assert isinstance(value, Value | Slice)
        return value

    @property
    def nodes(self) -> tuple[Node, ...]:
        """The graph nodes that the call computes."""
        return (self.node, *(node for node, _ in self.stages))


Rule = Callable[[Emitter, Call], Value | Slice]


def lower_call(emit: Emitter, call: Call) -> Value | Slice:
    """Emit the kernel of a call; the result is a slice if the call has a share of a concat.

    Raises BackendError for what the kernels cannot do.
    """
    for value in call.args.values():
        if isinstance(value, Value) and value.dtype not in (torch.uint8, torch.float32):
            raise BackendError(
                f"integer kernels take uint8 activations, not {value.dtype}",
                node=call.node,
                fix="quantize activations to unsigned grids (signed=False)",
            )
    return RULES[call.node.target](emit, call)


def _emitted(
    emit: Emitter, call: Call, kernel: Kernel, inputs: Sequence[Value | Slice], shape: Shape
) -> Value | Slice:
    """Images of logical `shape` that a kernel computes."""
    exprs = [value.expr for value in inputs]
    others = sum(v.view.others for v in inputs) + kernel.output.size - prod(shape)
    expr = emit.kernel(kernel, exprs, nodes=call.nodes, into=call.frame, others=others)
    if call.share is None:
        return Value(expr, shape, torch.uint8, NHWC)
    n, _, h, w = shape
    whole = Value(expr, (n, call.share.channels, h, w), torch.uint8, NHWC)
    return Slice(whole, call.share.first, shape)


def _conv2d(emit: Emitter, call: Call) -> Value | Slice:
    args = call.args
    x = emit.images(args["q"])
    n, c, h, w = x.shape
    o, _, *kernel = args["weight"].shape
    top, left = _pair(args["padding"])
    desc = conv2d_kernels.Conv2dDesc(
        n,
        h,
        w,
        c,
        o,
        (kernel[0], kernel[1]),
        stride=_pair(args["stride"]),
        padding=_border(call, (top, left, top, left)),
        dilation=_pair(args["dilation"]),
        groups=args["groups"],
        source=x.view.share,
        **_grid(args, "input_zero_point"),
    )
    if call.share is not None:
        desc = desc.placed(call.share)
    epilogue, others = _epilogue(emit, call, NHWC)
    weight, bias, multiplier = (args[k].numpy() for k in ("weight", "bias", "multiplier"))
    made = conv2d_kernels.conv2d(
        emit.isa, desc, weight, bias, multiplier, epilogue, emit.threads, emit.tuner
    )
    return _emitted(emit, call, made, [x, *others], (n, o, desc.oh, desc.ow))


def _border(call: Call, padding: Border) -> Border:
    """The padding of a convolution, with the border that it adds."""
    top, left, bottom, right = (a + b for a, b in zip(padding, call.border, strict=True))
    return top, left, bottom, right


def _conv_transpose2d(emit: Emitter, call: Call) -> Value | Slice:
    args = call.args
    x = emit.images(args["q"])
    n, c, h, w = x.shape
    _, per_group, *kernel = args["weight"].shape
    desc = transposed.TransposedDesc(
        n,
        h,
        w,
        c,
        per_group * args["groups"],
        (kernel[0], kernel[1]),
        stride=_pair(args["stride"]),
        padding=_pair(args["padding"]),
        output_padding=_pair(args["output_padding"]),
        dilation=_pair(args["dilation"]),
        groups=args["groups"],
        source=x.view.share,
        share=call.share,
        **_grid(args, "input_zero_point"),
    )
    epilogue, others = _epilogue(emit, call, NHWC)
    weight, bias, multiplier = (args[k].numpy() for k in ("weight", "bias", "multiplier"))
    made = transposed.conv_transpose2d(
        emit.isa, desc, weight, bias, multiplier, epilogue, emit.threads, emit.tuner
    )
    size = desc.axis(0).outputs, desc.axis(1).outputs
    return _emitted(emit, call, made, [x, *others], (n, desc.o, *size))


def _linear(emit: Emitter, call: Call) -> Value:
    args, x = call.args, call.args["q"]
    features = len(x.shape) - 1
    if x.shape[-1] != 1 and significant(x.shape, x.order)[-1] != features:
        x = emit.stored_as(x, identity(len(x.shape)))
    order = (*(axis for axis in x.order if axis != features), features)
    o, k = args["weight"].shape
    shape = (*x.shape[:-1], o)
    rows = prod(x.shape[:-1])
    desc = linear_kernels.LinearDesc(rows, k, o, **_grid(args, "input_zero_point"))
    epilogue, others = _epilogue(emit, call, order)
    weight, bias, multiplier = (args[k].numpy() for k in ("weight", "bias", "multiplier"))
    made = linear_kernels.linear(
        emit.isa, desc, weight, bias, multiplier, epilogue, emit.threads, emit.tuner
    )
    inputs = [emit.view(x.expr, (rows, k)), *(emit.view(v.expr, (rows, o)) for v in others)]
    expr = emit.kernel(made, inputs, nodes=call.nodes)
    result = Value(expr, shape, x.dtype, order)
    return replace(result, expr=emit.view(expr, result.physical_shape))


def _epilogue(
    emit: Emitter, call: Call, order: Order
) -> tuple[tuple[Stage, ...], list[Value | Slice]]:
    """The stages behind a layer whose result is stored in `order`, and the tensors they add."""
    stages: list[Stage] = []
    others: list[Value | Slice] = []
    value = call.node
    for node, args in call.stages:
        if node.target is qpc_ops.add.default:
            behind_a = arguments(node)["a"] is value
            constants = _add_constants(args, swapped=not behind_a)
            other: Value | Slice = args["b" if behind_a else "a"]
            if isinstance(other, Slice):
                assert call.share is not None, "a slice has the step of what is added to it"
                constants = replace(constants, moved=other.first - call.share.first)
            others.append(other if isinstance(other, Slice) else emit.stored_as(other, order))
            stages.append(constants)
        elif node.target is qpc_ops.lookup.default:
            stages.append(Lookup(_table(args["table"])))
        else:
            stages.append(Clamp(args["lo"], args["hi"]))
        value = node
    return tuple(stages), others


def _add(emit: Emitter, call: Call) -> Value | Slice:
    constants = _add_constants(call.args, swapped=False)

    def build(a: View, b: View) -> Kernel:
        return elementwise.add(emit.isa, a, b, constants, emit.threads, call.share)

    return _binary(emit, call, build)


def _mul(emit: Emitter, call: Call) -> Value | Slice:
    args = call.args
    constants = elementwise.MulConstants(
        args["a_zero_point"],
        args["b_zero_point"],
        args["multiplier"],
        args["output_zero_point"],
        args["lo"],
        args["hi"],
    )

    def build(a: View, b: View) -> Kernel:
        return elementwise.mul(emit.isa, a, b, constants, emit.threads, call.share)

    return _binary(emit, call, build)


def _binary(emit: Emitter, call: Call, build: Callable[[View, View], Kernel]) -> Value | Slice:
    """Broadcast in the memory order of the larger operand, unless one or the result is a slice."""
    operands = call.tensor("a"), call.tensor("b")
    rank = max(len(value.shape) for value in operands)
    shape = tuple(torch.broadcast_shapes(*(value.shape for value in operands)))
    sliced = call.share is not None or any(isinstance(value, Slice) for value in operands)
    if sliced and rank == len(NHWC):
        a, b = (v if isinstance(v, Slice) else with_rank(emit, v, rank) for v in operands)
        a, b = emit.images(a), emit.images(b)
        return _emitted(emit, call, build(a.view, b.view), [a, b], shape)
    a, b = (with_rank(emit, emit.alone(value), rank) for value in operands)
    order = max((a, b), key=lambda v: prod(v.shape)).order
    a, b = emit.stored_as(a, order), emit.stored_as(b, order)
    expr = emit.kernel(build(a.view, b.view), [a.expr, b.expr], nodes=call.nodes)
    return Value(expr, shape, a.dtype, order)


def _max_pool2d(emit: Emitter, call: Call) -> Value | Slice:
    window = _window(call.args, dilation=_pair(call.args["dilation"]))
    window = replace(window, ceil_mode=bool(call.args["ceil_mode"]))
    x = emit.images(call.tensor("q"))
    made = pooling.max_pool2d(emit.isa, x.view, window, emit.threads, call.share)
    return _emitted(emit, call, made, [x], _resized(x, window))


def _avg_pool2d(emit: Emitter, call: Call) -> Value | Slice:
    x = emit.images(call.tensor("q"))
    window, requantize = _window(call.args), _requantize(call.args)
    made = pooling.avg_pool2d(emit.isa, x.view, window, requantize, emit.threads, call.share)
    return _emitted(emit, call, made, [x], _resized(x, window))


def _resized(x: Value | Slice, window: pooling.PoolWindow) -> Shape:
    n, c, h, w = x.shape
    return (n, c, window.output_size(h, 0), window.output_size(w, 1))


def _window(args: Arguments, dilation: tuple[int, int] = (1, 1)) -> pooling.PoolWindow:
    kernel = _pair(args["kernel_size"])
    top, left = _pair(args["padding"])
    stride = _pair(args["stride"]) if args["stride"] else kernel
    return pooling.PoolWindow(kernel, stride, (top, left, top, left), dilation)


def _sum(emit: Emitter, call: Call) -> Value:
    return _reduced(emit, call, _requantize(call.args))


def _mean(emit: Emitter, call: Call) -> Value:
    args, shape = call.args, call.tensor("q").shape
    count = prod(shape[axis] for axis in reduced_axes(args["dims"], len(shape)))
    factor = average_multiplier(args["input_scale"], args["output_scale"], count)
    return _reduced(emit, call, Requantize(multiplier=factor, **_grid(args, "input_zero_point")))


def _reduced(emit: Emitter, call: Call, requantize: Requantize) -> Value:
    args, x = call.args, emit.alone(call.tensor("q"))
    rank, keepdim = len(x.shape), bool(args["keepdim"])
    axes = reduced_axes(args["dims"], rank)
    made = pooling.mean(
        emit.isa,
        x.physical_shape,
        tuple(sorted(x.order.index(a) for a in axes)),
        requantize,
        keepdim,
        emit.threads,
    )
    expr = emit.kernel(made, [x.expr], nodes=call.nodes)
    if keepdim:
        return replace(
            x, expr=expr, shape=tuple(1 if a in axes else s for a, s in enumerate(x.shape))
        )
    kept = [a for a in range(rank) if a not in axes]
    order = tuple(kept.index(a) for a in x.order if a not in axes)
    return Value(expr, tuple(x.shape[a] for a in kept), x.dtype, order)


def _resize2d(emit: Emitter, call: Call) -> Value | Slice:
    x = emit.images(call.tensor("q"))
    rows, columns = (call.args[k].numpy() for k in ("rows", "columns"))
    made = resize.resize2d(emit.isa, x.view, rows, columns, emit.threads, call.share)
    n, c, _, _ = x.shape
    return _emitted(emit, call, made, [x], (n, c, len(rows), len(columns)))


def _lookup(emit: Emitter, call: Call) -> Value | Slice:
    table = _table(call.args["table"])

    def build(x: View) -> Kernel:
        return elementwise.lookup(emit.isa, x, table, emit.threads, call.share)

    return _unary(emit, call, build)


def _clamp(emit: Emitter, call: Call) -> Value | Slice:
    lo, hi = call.args["lo"], call.args["hi"]

    def build(x: View) -> Kernel:
        return elementwise.clamp(emit.isa, x, lo, hi, emit.threads, call.share)

    return _unary(emit, call, build)


def _unary(emit: Emitter, call: Call, build: Callable[[View], Kernel]) -> Value | Slice:
    """In the memory order of the operand, unless it or the result is a slice."""
    x = call.tensor("q")
    if call.share is None and isinstance(x, Value):
        return replace(x, expr=emit.kernel(build(x.view), [x.expr], nodes=call.nodes))
    x = emit.images(x)
    return _emitted(emit, call, build(x.view), [x], x.shape)


def _quantize(emit: Emitter, call: Call) -> Value:
    args, x = call.args, call.args["x"]
    if args["dtype"] is not torch.uint8 or x.dtype is not torch.float32:
        raise BackendError(
            f"integer kernels quantize float32 to uint8, not {x.dtype} to {args['dtype']}",
            node=call.node,
            fix="quantize activations to unsigned grids (signed=False)",
        )
    order = call.preferred or identity(len(x.shape))
    grid = (args["scale"], args["zero_point"], args["lo"], args["hi"])
    made = layout_kernels.quantize(emit.isa, x.shape, order, *grid, emit.threads)
    expr = emit.kernel(made, [emit.logical(x)], nodes=call.nodes)
    return Value(expr, x.shape, torch.uint8, order)


def _dequantize(emit: Emitter, call: Call) -> Value:
    args, q = call.args, call.args["q"]
    made = layout_kernels.dequantize(
        emit.isa, q.shape, q.order, args["scale"], args["zero_point"], emit.threads
    )
    expr = emit.kernel(made, [q.expr], nodes=call.nodes)
    return Value(expr, q.shape, torch.float32, identity(len(q.shape)))


def _grid(args: Arguments, *zero_points: str) -> dict[str, Any]:
    return {k: args[k] for k in (*zero_points, "output_zero_point", "lo", "hi")}


def _requantize(args: Arguments) -> Requantize:
    return Requantize(multiplier=args["multiplier"], **_grid(args, "input_zero_point"))


def _add_constants(args: Arguments, *, swapped: bool) -> AddTensor:
    a, b = ("b", "a") if swapped else ("a", "b")
    return AddTensor(
        args[f"{a}_zero_point"],
        args[f"{b}_zero_point"],
        args[f"{a}_multiplier"],
        args[f"{b}_multiplier"],
        args["shift"],
        args["output_zero_point"],
        args["lo"],
        args["hi"],
    )


def _table(table: Tensor) -> bytes:
    return table.to(torch.uint8).numpy().tobytes()


def _pair(value: int | Sequence[int]) -> tuple[int, int]:
    if isinstance(value, int):
        return (value, value)
    return (int(value[0]), int(value[-1]))


RULES: dict[object, Rule] = {
    qpc_ops.conv2d.default: _conv2d,
    qpc_ops.conv_transpose2d.default: _conv_transpose2d,
    qpc_ops.linear.default: _linear,
    qpc_ops.add.default: _add,
    qpc_ops.mul.default: _mul,
    qpc_ops.max_pool2d.default: _max_pool2d,
    qpc_ops.avg_pool2d.default: _avg_pool2d,
    qpc_ops.sum.default: _sum,
    qpc_ops.mean.default: _mean,
    qpc_ops.resize2d.default: _resize2d,
    qpc_ops.lookup.default: _lookup,
    qpc_ops.clamp.default: _clamp,
    qpc_ops.quantize.default: _quantize,
    qpc_ops.dequantize.default: _dequantize,
}
