"""One spelling per operator: rewrite a functional ATen graph into core form.

Every rule is a small function from a call to what stands for it; `_RULES` maps operators to rules.
The rules see concrete shapes, so that squeeze, unsqueeze, flatten, view and unflatten all become
one `reshape`, and chunk, split and unbind become slices.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch._ops import OpOverload
from torch.fx import GraphModule, Node

from qpc.meta import info, inherit
from qpc.ops.views import arguments
from qpc.shapes import infer_node, infer_shapes
from qpc.types import BatchDim, Shape

aten = torch.ops.aten
_LAST = 2**63 - 1  # ATen's "up to the end" in slices


class _Call:
    """One call being rewritten, and the means to build what replaces it."""

    def __init__(self, gm: GraphModule, node: Node) -> None:
        self.gm, self.node, self.args = gm, node, arguments(node)

    def emit(self, target: OpOverload, *args: object, **kwargs: object) -> Node:
        with self.gm.graph.inserting_before(self.node):
            made = self.gm.graph.call_function(target, args, kwargs)  # type: ignore[arg-type]
        inherit(made, self.node, origin="")
        infer_node(self.gm, made)
        return made

    @property
    def shape(self) -> Shape:
        return _shape(self.node)

    def source(self, name: str = "self") -> Node:
        return self.args[name]  # type: ignore[no-any-return]


def _shape(node: Node) -> Shape:
    shape = info(node).shape
    assert shape is not None, f"{node.name} has no shape"
    return shape


_Rule = Callable[[_Call], "Node | list[Node] | None"]
"""Returns the replacement (a list for a call of several results), or None to leave the call."""


def normalize(gm: GraphModule) -> None:
    """Rewrite `gm` into core form, in place. Node info must carry shapes."""
    for node in list(gm.graph.nodes):
        if node.op != "call_function" or not isinstance(node.target, OpOverload):
            continue
        rule = _RULES.get(node.target)
        replacement = rule(_Call(gm, node)) if rule is not None else None
        if replacement is not None:
            _replace(gm, node, replacement)
    gm.graph.eliminate_dead_code()
    infer_shapes(gm, only_missing=True)


def _replace(gm: GraphModule, node: Node, replacement: Node | list[Node]) -> None:
    if isinstance(replacement, list):
        for item in list(node.users):
            assert item.target is operator.getitem
            item.replace_all_uses_with(replacement[int(item.args[1])])  # type: ignore[arg-type]
            gm.graph.erase_node(item)
    elif replacement is not node:
        node.replace_all_uses_with(replacement)
    if not node.users and replacement is not node:
        gm.graph.erase_node(node)


# --- shape-only operators: one reshape ------------------------------------------------------------


def _as_reshape(call: _Call) -> Node | None:
    source, shape = call.source(), call.shape
    if _shape(source) == shape:
        return source
    growing = [d for d in shape if isinstance(d, BatchDim)]
    if len(growing) > 1:
        return None
    sizes = [-1 if isinstance(d, BatchDim) else d for d in shape]
    if call.node.target is aten.reshape.default and call.args["shape"] == sizes:
        return None
    return call.emit(aten.reshape.default, source, sizes)


def _as_input(call: _Call) -> Node | None:
    return call.source(next(iter(call.args)))


def _cast(call: _Call) -> Node | None:
    source = call.source()
    return source if info(source).dtype == info(call.node).dtype else None


def _expand(call: _Call) -> Node | None:
    source, shape = call.source(), call.shape
    old = _shape(source)
    if shape == old:
        return source
    if call.node.target is aten.expand.default:
        return None
    kept: list[object] = []
    aligned: list[object] = [None] * (len(shape) - len(old)) + list(old)
    for axis, (before, after) in enumerate(zip(aligned, shape, strict=True)):
        if before == after:
            kept.append(-1)
        elif isinstance(after, int):
            kept.append(after)
        else:
            kept.append(call.emit(aten.sym_size.int, call.args["other"], axis))
    return call.emit(aten.expand.default, source, kept)


# --- permutations ---------------------------------------------------------------------------------


def _permute(call: _Call, order: Sequence[int]) -> Node | None:
    source = call.source()
    if list(order) == list(range(len(order))):
        return source
    return call.emit(aten.permute.default, source, list(order))


def _rank(call: _Call) -> int:
    return len(_shape(call.source()))


def _transpose(call: _Call) -> Node | None:
    rank = _rank(call)
    order = list(range(rank))
    if rank >= 2:
        first, second = (call.args[n] % rank for n in call.args if n != "self")
        order[first], order[second] = order[second], order[first]
    return _permute(call, order)


def _reverse(call: _Call) -> Node | None:
    return _permute(call, range(_rank(call))[::-1])


def _matrix_transpose(call: _Call) -> Node | None:
    rank = _rank(call)
    return _permute(call, [*range(rank - 2), rank - 1, rank - 2])


def _movedim(call: _Call) -> Node | None:
    rank = _rank(call)

    def axes(value: Any) -> list[int]:
        return [v % rank for v in ([value] if isinstance(value, int) else value)]

    source, destination = axes(call.args["source"]), axes(call.args["destination"])
    rest = iter(a for a in range(rank) if a not in source)
    where = dict(zip(destination, source, strict=True))
    return _permute(call, [where[i] if i in where else next(rest) for i in range(rank)])


def _normal_permute(call: _Call) -> Node | None:
    order = [d % _rank(call) for d in call.args["dims"]]
    if order == list(range(len(order))):
        return call.source()
    return None if order == call.args["dims"] else _permute(call, order)


# --- pieces of a tensor: slices -------------------------------------------------------------------


def _pieces(call: _Call) -> list[Node] | None:
    """chunk, split and their kin; the sizes come from running the operator on fake tensors."""
    source = call.source()
    shape = _shape(source)
    axis = int(call.args["dim"]) % len(shape)
    if not isinstance(shape[axis], int):
        return None
    pieces = call.node.target(  # type: ignore[operator]
        torch.empty([d if isinstance(d, int) else 2 for d in shape], device="meta"),
        *[v for n, v in call.args.items() if n != "self"],
    )
    made, start = [], 0
    for piece in pieces:
        stop = start + piece.shape[axis]
        made.append(call.emit(aten.slice.Tensor, source, axis, start, stop, 1))
        start = stop
    return made


def _unbind(call: _Call) -> list[Node] | None:
    source = call.source()
    shape = _shape(source)
    axis = int(call.args["dim"]) % len(shape)
    size = shape[axis]
    if not isinstance(size, int):
        return None
    return [call.emit(aten.select.int, source, axis, i) for i in range(size)]


def _slice(call: _Call) -> Node | None:
    """A slice of everything is nothing; other slices get explicit bounds."""
    source = call.source()
    shape = _shape(source)
    axis = int(call.args["dim"]) % len(shape)
    size, step = shape[axis], call.args["step"]
    start, end = call.args["start"] or 0, call.args["end"]
    if end is None:
        end = _LAST
    if step == 1 and start == 0 and isinstance(end, int) and end >= _LAST:
        return source
    if not (isinstance(size, int) and isinstance(start, int) and isinstance(end, int)):
        return None
    first, last, _ = slice(start, end, step).indices(size)
    if (first, last, step) == (0, size, 1):
        return source
    explicit = (source, axis, first, last, step)
    return None if call.node.args == explicit else call.emit(aten.slice.Tensor, *explicit)


def _narrow(call: _Call) -> Node | None:
    shape, start, length = _shape(call.source()), call.args["start"], call.args["length"]
    axis = int(call.args["dim"]) % len(shape)
    size = shape[axis]
    if not (isinstance(size, int) and isinstance(start, int) and isinstance(length, int)):
        return None
    start += size if start < 0 else 0
    return call.emit(aten.slice.Tensor, call.source(), axis, start, start + length, 1)


def _stack(call: _Call) -> Node | None:
    tensors, axis = call.args["tensors"], call.args["dim"]
    axis %= len(call.shape)
    old = _shape(tensors[0])
    if sum(isinstance(d, BatchDim) for d in old) > 1:
        return None
    sizes: list[int] = [-1 if isinstance(d, BatchDim) else d for d in old]
    sizes.insert(axis, 1)
    return call.emit(
        aten.cat.default, [call.emit(aten.reshape.default, t, sizes) for t in tensors], axis
    )


def _cat(call: _Call) -> Node | None:
    tensors = call.args["tensors"]
    axis = call.args["dim"]
    axis = axis % len(_shape(tensors[0]))
    if len(tensors) == 1:
        return tensors[0]  # type: ignore[no-any-return]
    if call.node.target is aten.cat.default and axis == call.args["dim"]:
        return None
    return call.emit(aten.cat.default, list(tensors), axis)


# --- arithmetic -----------------------------------------------------------------------------------


def _clamp(lo: str | float | None, hi: str | float | None) -> _Rule:
    def rule(call: _Call) -> Node | None:
        low = call.args[lo] if isinstance(lo, str) else lo
        high = call.args[hi] if isinstance(hi, str) else hi
        return call.emit(aten.clamp.default, call.source(), low, high)

    return rule


def _binary(target: OpOverload, *, swap: bool = False) -> _Rule:
    """add, sub and their scalar and reversed spellings; alpha, a factor of b, is multiplied out."""

    def rule(call: _Call) -> Node | None:
        a, b = call.args["self"], call.args["other"]
        if swap:
            a, b = b, a
        alpha = call.args.get("alpha", 1)
        if call.node.target is target and alpha == 1:
            return None
        if alpha != 1:
            b = call.emit(aten.mul.Tensor, b, alpha) if isinstance(b, Node) else b * alpha
        if not isinstance(a, Node):  # c - x = (-x) + c: core form has tensors first
            return call.emit(aten.add.Tensor, call.emit(aten.neg.default, b), a)
        return call.emit(target, a, b)

    return rule


def _mean_all(call: _Call) -> Node | None:
    rank = _rank(call)
    return call.emit(aten.mean.dim, call.source(), list(range(rank)), False, **_dtype(call))


def _mean(call: _Call) -> Node | None:
    rank = _rank(call)
    given = call.args["dim"]
    dims = sorted(d % rank for d in given) if given else list(range(rank))
    if dims == given:
        return None
    return call.emit(aten.mean.dim, call.source(), dims, call.args["keepdim"], **_dtype(call))


def _dtype(call: _Call) -> dict[str, object]:
    return {} if call.args["dtype"] is None else {"dtype": call.args["dtype"]}


def _adaptive_avg_pool(pool: OpOverload, axes: int) -> _Rule:
    """A mean where one value is left of each of the last axes, a pool where windows are equal."""

    def rule(call: _Call) -> Node | None:
        source, shape = call.source(), call.shape
        size, out = _shape(source)[-axes:], shape[-axes:]
        if size == out:
            return source
        rank = len(shape)
        if all(d == 1 for d in out):
            return call.emit(aten.mean.dim, source, list(range(rank - axes, rank)), True)
        kernel = []
        for before, after in zip(size, out, strict=True):
            if not (isinstance(before, int) and isinstance(after, int)) or before % after:
                return None
            kernel.append(before // after)
        return call.emit(pool, source, kernel, kernel)

    return rule


def _avg_pool2d(call: _Call) -> Node | None:
    """`ceil_mode` and `count_include_pad` are given only where they make a difference."""
    given = dict(call.args)
    kernel, padding = _pair(given["kernel_size"]), _pair(given["padding"])
    stride = _pair(given["stride"]) if given["stride"] else kernel
    sizes = [size for size in _shape(call.source())[-2:] if isinstance(size, int)]
    floor = [
        (size + 2 * p - k) // s + 1
        for size, p, k, s in zip(sizes, padding, kernel, stride, strict=False)
    ]
    changed = {}
    if given["ceil_mode"] and tuple(floor) == call.shape[-2:]:
        changed["ceil_mode"] = False
    ceil = changed.get("ceil_mode", given["ceil_mode"])
    if not given["count_include_pad"] and not any(padding) and not ceil:
        changed["count_include_pad"] = True
    if not changed:
        return None
    return call.emit(aten.avg_pool2d.default, *(given | changed).values())


def _pair(value: Any) -> list[int]:
    numbers = [value] if isinstance(value, int) else list(value)
    return [numbers[0], numbers[-1]]


def _amax(call: _Call) -> Node | None:
    """The largest value of each channel of an image is a pool over all of it."""
    source = call.source()
    shape = _shape(source)
    dims = {d % len(shape) for d in call.args["dim"]}
    dtype = info(source).dtype
    size = [s for s in shape[2:] if isinstance(s, int)]
    if len(shape) != 4 or dims != {2, 3} or len(size) != 2 or dtype is not torch.float32:
        return None
    pooled = call.emit(aten.max_pool2d.default, source, size, size)
    if call.args["keepdim"] or not isinstance(shape[1], int):
        return pooled if call.args["keepdim"] else None
    return call.emit(aten.reshape.default, pooled, [-1, shape[1]])


def _adaptive_max_pool2d(call: _Call) -> list[Node] | None:
    """A pool with equal windows, unless somebody wants to know where the largest values are."""
    source, sizes = call.source(), _shape(call.source())[-2:]
    wanted = _pair(call.args["output_size"])
    if any(item.args[1] != 0 for item in call.node.users):
        return None
    kernel = []
    for before, after in zip(sizes, wanted, strict=True):
        if not isinstance(before, int) or before % after:
            return None
        kernel.append(before // after)
    return [call.emit(aten.max_pool2d.default, source, kernel, kernel)]


def _upsample(target: OpOverload) -> _Rule:
    """Output sizes as numbers; scale factors stay, since positions follow from them if given."""

    def rule(call: _Call) -> Node | None:
        sizes = list(call.shape[2:])
        if not all(isinstance(size, int) for size in sizes):
            return None
        scales = call.args["scale_factors"] or [None, None]
        corners = [call.args["align_corners"]] if "align_corners" in call.args else []
        return call.emit(target, call.source("input"), sizes, *corners, *scales)

    return rule


def _pad(call: _Call) -> Node | None:
    if call.args["mode"] != "constant":
        return None
    if not any(call.args["pad"]):
        return call.source()
    return call.emit(
        aten.constant_pad_nd.default, call.source(), call.args["pad"], call.args["value"] or 0.0
    )


def _named_padding(target: OpOverload) -> _Rule:
    """'same' and 'valid' as numbers, with an explicit pad where 'same' is uneven."""

    def rule(call: _Call) -> Node | None:
        source, mode = call.source("input"), call.args["padding"]
        kernel = [k for k in _shape(call.args["weight"])[2:] if isinstance(k, int)]
        dilation = [int(d) for d in call.args["dilation"]]
        dilation *= len(kernel) // len(dilation)
        reach = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
        total = reach if mode == "same" else [0] * len(kernel)
        if any(t % 2 for t in total):
            before_after = [p for t in reversed(total) for p in (t // 2, t - t // 2)]
            source = call.emit(aten.constant_pad_nd.default, source, before_after, 0.0)
            total = [0] * len(kernel)
        return call.emit(
            target,
            source,
            call.args["weight"],
            call.args["bias"],
            call.args["stride"],
            [t // 2 for t in total],
            call.args["dilation"],
            call.args["groups"],
        )

    return rule


def _native_batch_norm(call: _Call) -> list[Node]:
    """The decomposed spelling, which also returns statistics that nobody reads at inference."""
    names = ("input", "weight", "bias", "running_mean", "running_var")
    given = [call.args[name] for name in names]
    ends = (False, call.args["momentum"], call.args["eps"], False)
    return [call.emit(aten.batch_norm.default, *given, *ends)]


def _rename(target: OpOverload) -> _Rule:
    def rule(call: _Call) -> Node | None:
        return call.emit(target, *call.args.values())

    return rule


def _table() -> dict[OpOverload, _Rule]:
    groups: list[tuple[_Rule, str]] = [
        (
            _as_reshape,
            "view.default reshape.default _unsafe_view.default flatten.using_ints unflatten.int "
            "squeeze.default squeeze.dim squeeze.dims unsqueeze.default view_as.default "
            "reshape_as.default",
        ),
        (
            _as_input,
            "contiguous.default clone.default detach.default alias.default lift_fresh_copy.default "
            "lift_fresh.default",
        ),
        (_cast, "to.dtype to.dtype_layout to.device _to_copy.default type_as.default"),
        (_expand, "expand.default expand_as.default"),
        (_transpose, "transpose.int swapaxes.default swapdims.default"),
        (_reverse, "t.default numpy_T.default"),
        (_matrix_transpose, "mT.default"),
        (_movedim, "movedim.int movedim.intlist moveaxis.int moveaxis.intlist"),
        (_normal_permute, "permute.default"),
        (
            _pieces,
            "chunk.default split.Tensor split.sizes split_with_sizes.default tensor_split.sections "
            "tensor_split.indices",
        ),
        (_unbind, "unbind.int"),
        (_slice, "slice.Tensor"),
        (_narrow, "narrow.default"),
        (_stack, "stack.default"),
        (_cat, "cat.default concat.default concatenate.default"),
        (_clamp(0.0, 6.0), "relu6.default"),
        (_clamp("min_val", "max_val"), "hardtanh.default"),
        (_clamp("min", None), "clamp_min.default"),
        (_clamp(None, "max"), "clamp_max.default"),
        (_clamp("min", "max"), "clip.default"),
        (_binary(aten.add.Tensor), "add.Tensor add.Scalar"),
        (_binary(aten.sub.Tensor), "sub.Tensor sub.Scalar"),
        (_binary(aten.sub.Tensor, swap=True), "rsub.Tensor rsub.Scalar"),
        (_binary(aten.mul.Tensor), "mul.Tensor mul.Scalar multiply.Tensor"),
        (_binary(aten.div.Tensor), "div.Tensor div.Scalar divide.Tensor true_divide.Tensor"),
        (_mean_all, "mean.default"),
        (_mean, "mean.dim"),
        (_adaptive_avg_pool(aten.avg_pool1d.default, 1), "adaptive_avg_pool1d.default"),
        (_adaptive_avg_pool(aten.avg_pool2d.default, 2), "adaptive_avg_pool2d.default"),
        (_adaptive_avg_pool(aten.avg_pool3d.default, 3), "adaptive_avg_pool3d.default"),
        (_adaptive_max_pool2d, "adaptive_max_pool2d.default"),
        (_avg_pool2d, "avg_pool2d.default"),
        (_amax, "amax.default"),
        (_native_batch_norm, "_native_batch_norm_legit_no_training.default"),
        (_upsample(aten.upsample_nearest2d.default), "upsample_nearest2d.vec"),
        (_upsample(aten._upsample_nearest_exact2d.default), "_upsample_nearest_exact2d.vec"),
        (_upsample(aten.upsample_bilinear2d.default), "upsample_bilinear2d.vec"),
        (_pad, "pad.default"),
        (_named_padding(aten.conv1d.default), "conv1d.padding"),
        (_named_padding(aten.conv2d.default), "conv2d.padding"),
        (_named_padding(aten.conv3d.default), "conv3d.padding"),
        (_rename(aten.dropout.default), "feature_dropout.default alpha_dropout.default"),
    ]
    table: dict[OpOverload, _Rule] = {}
    for rule, names in groups:
        for name in names.split():
            packet, _, overload = name.partition(".")
            table[getattr(getattr(aten, packet), overload)] = rule
    return table


_RULES = _table()
