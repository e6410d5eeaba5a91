"""The integer form of every kind of operator, for `convert_to_integer`."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node
from torch.fx.node import map_arg

from qpc.analysis.affine import ChannelAffine
from qpc.calls import aten, qpc_ops
from qpc.edit import Editor
from qpc.errors import OverflowProofError, QPCError
from qpc.layers import float_layer, outputs_first, own_layout
from qpc.meta import attribute, info, label, update_info
from qpc.ops.arithmetic import Add, Mul, Sub
from qpc.ops.clamp import Clamp
from qpc.ops.concat import Cat
from qpc.ops.convolution import Conv2d, ConvTranspose2d
from qpc.ops.linear import Linear
from qpc.ops.padding import Pad, PadByValues
from qpc.ops.pooling import AvgPool2d, MaxPool2d
from qpc.ops.reduction import Mean, Sum
from qpc.ops.resize import POSITIONS, UpsampleNearest2d
from qpc.quant.arithmetic import average_multiplier
from qpc.quant.config import WeightConfig
from qpc.quant.fixedpoint import (
    INT32_MAX,
    accumulator_bounds,
    add_multipliers,
    floor_scales_for_bias,
    lookup_table,
    quantize_bias,
    quantize_weight,
    requant_multiplier,
    requant_table,
    weight_limit,
    weight_scales,
)
from qpc.quant.grid import QParams
from qpc.registry import Role, op_name
from qpc.types import Shape


@dataclass(frozen=True)
class IntegerForm:
    """One conversion: the float node, and the integers made so far."""

    editor: Editor
    node: Node
    integers: dict[Node, Node]

    @property
    def grid(self) -> QParams:
        """The grid of the values that the operator makes."""
        return self.grid_of(self.node)

    def grid_of(self, value: Node) -> QParams:
        """The grid of a quantized value."""
        grid = info(value).qparams
        assert grid is not None, f"{value.name} has no grid"
        return grid

    def call(self, target: Callable[..., object], *args: object, **kwargs: Any) -> Node:
        """A new call in place of the node."""
        return self.editor.call(target, *args, like=self.node, **kwargs)

    def lookup(self, source: Node, table: Tensor) -> Node:
        """A table lookup of an integer value."""
        name = self.editor.free_name(f"tables.{self.node.name}")
        made = self.call(
            qpc_ops.lookup.default, source, self.editor.buffer(name, table, before=self.node)
        )
        update_info(made, qparams=self.grid)
        return made


def _compute(form: IntegerForm) -> Node:
    layer = float_layer(form.node)
    assert layer is not None
    gm, source, grid = form.editor.gm, form.grid_of(layer.input), form.grid
    rounded = layer.weight  # fake_quantize(weight, scale, zero_point, lo, hi, axis)
    name = str(rounded.args[0].target)  # type: ignore[union-attr]  # its inputs are nodes
    scales = attribute(gm, str(rounded.args[1].target))  # type: ignore[union-attr]  # its inputs are nodes
    layout = (layer.output_axis, layer.groups)
    real_weight = outputs_first(attribute(gm, name).detach(), *layout)
    weight = quantize_weight(real_weight, scales, _weight_bits(form.node))
    bias = torch.zeros(weight.shape[0])
    if layer.bias is not None:
        bias = attribute(gm, str(layer.bias.target)).detach()
    attributes = _attributes(form, name, source, weight, scales, bias, layout)
    ends = (source.zero_point, grid.zero_point, grid.lo, grid.hi)
    x = form.integers[layer.input]
    if isinstance(layer, Linear):
        return form.call(qpc_ops.linear.default, x, *attributes, *ends)
    assert isinstance(layer, Conv2d | ConvTranspose2d)
    window, dilation = [list(layer.stride), list(layer.padding)], list(layer.dilation)
    if isinstance(layer, ConvTranspose2d):
        geometry = [*window, list(layer.output_padding), layer.groups, dilation]
        return form.call(qpc_ops.conv_transpose2d.default, x, *attributes, *geometry, *ends)
    geometry = [*window, dilation, layer.groups]
    return form.call(qpc_ops.conv2d.default, x, *attributes, *geometry, *ends)


def _attributes(
    form: IntegerForm,
    name: str,
    source: QParams,
    weight: Tensor,
    scales: Tensor,
    real_bias: Tensor,
    layout: tuple[int, int] = (0, 1),
) -> list[Node]:
    """Weight, bias and multiplier of a layer whose float weight has this name.

    weight: int8[out, in/groups, *kernel], to be stored in `layout`; scales: float32[out] or [1];
    real_bias: float32[out].
    """
    outputs = weight.shape[0]
    try:
        bias = quantize_bias(real_bias, source.scale, scales)
        multiplier = requant_multiplier(source.scale, scales, form.grid.scale).expand(outputs)
    except QPCError as e:
        raise type(e)(e.what, node=form.node, fix=_KEEP_FLOAT.format(_module(form.node))) from e
    _prove_no_overflow(form.node, weight, bias, source)
    owner = f"integers.{name.rpartition('.')[0] or form.node.name}"
    owner = form.editor.free_name(owner) if _taken(form, f"{owner}.weight") else owner
    return [
        form.editor.buffer(f"{owner}.{leaf}", value.contiguous(), before=form.node)
        for leaf, value in (
            ("weight", own_layout(weight, *layout)),
            ("bias", bias),
            ("multiplier", multiplier),
        )
    ]


def _taken(form: IntegerForm, name: str) -> bool:
    return form.editor.free_name(name) != name


def _affine(form: IntegerForm) -> Node:
    """A depthwise convolution of one tap, whose integer weights are +-127, or 0.

    A single weight with a scale of its own is rounded to nothing, so that the bits which the
    configuration gives to weights do not matter.
    """
    affine = ChannelAffine.of(form.node)
    assert affine is not None
    source, grid = form.grid_of(affine.input), form.grid
    factor, offset = (v.float() for v in affine.coefficients(form.editor.gm))
    factor = factor.reshape(-1, 1, 1, 1)
    try:
        scales = floor_scales_for_bias(weight_scales(factor, _EXACT), offset, source.scale)
    except QPCError as e:
        raise type(e)(e.what, node=form.node, fix=_KEEP_FLOAT.format(_module(form.node))) from e
    weight = quantize_weight(factor, scales, _EXACT.bits)
    name = str(affine.constants[0].target)
    attributes = _attributes(form, name, source, weight, scales, offset)
    shape = info(form.node).shape or ()
    x = form.integers[affine.input]
    if len(shape) != 4:
        pixels = math.prod(size for size in shape[2:] if isinstance(size, int))  # they all are
        x = _reshaped(form, x, (*shape[:2], 1, pixels))
    geometry = ([1, 1], [0, 0], [1, 1], len(factor))
    ends = (source.zero_point, grid.zero_point, grid.lo, grid.hi)
    made = form.call(qpc_ops.conv2d.default, x, *attributes, *geometry, *ends)
    if len(shape) == 4:
        return made
    update_info(made, qparams=grid)
    return _reshaped(form, made, shape)


def _reshaped(form: IntegerForm, value: Node, shape: Shape) -> Node:
    sizes = [size if isinstance(size, int) else -1 for size in shape]
    made = form.call(aten.reshape.default, value, sizes)
    update_info(made, qparams=info(value).qparams)
    return made


_EXACT = WeightConfig()
_KEEP_FLOAT = "keep the layer in float: Override(module={!r}, use='float')"


def _module(node: Node) -> str:
    return info(node).module_path or node.name


def _weight_bits(node: Node) -> int:
    config = info(node).config
    assert config is not None
    assert weight_limit(config.weight.bits) > 0
    return config.weight.bits


def _prove_no_overflow(node: Node, weight: Tensor, bias: Tensor, source: QParams) -> None:
    least, greatest = accumulator_bounds(weight, bias, source.zero_point, source.lo, source.hi)
    worst = max(int(greatest.max()), -int(least.min()))
    if worst > INT32_MAX:
        raise OverflowProofError(
            f"the accumulator of {label(node)} can reach {worst}, which does not fit 32 bits",
            node=node,
            fix=_KEEP_FLOAT.format(_module(node)) + ", or use fewer weight bits",
        )


def _combine(form: IntegerForm) -> Node:
    if Cat.matches(form.node):
        return _cat(form)
    view = Add.of(form.node) or Sub.of(form.node) or Mul(form.node)
    assert isinstance(view.b, Node)
    a, b, grid = form.grid_of(view.a), form.grid_of(view.b), form.grid
    operands = (form.integers[view.a], form.integers[view.b], a.zero_point, b.zero_point)
    ends = (grid.zero_point, grid.lo, grid.hi)
    if not isinstance(view, Mul):
        plus, other, shift = add_multipliers((a.scale, b.scale), grid.scale)
        other = -other if isinstance(view, Sub) else other
        return form.call(qpc_ops.add.default, *operands, plus, other, shift, *ends)
    factor = _multiplier(form, a.scale * b.scale)
    return form.call(qpc_ops.mul.default, *operands, factor, *ends)


def _cat(form: IntegerForm) -> Node:
    view = Cat(form.node)
    pieces = []
    for value in view.tensors:
        piece, grid = form.integers[value], form.grid_of(value)
        same = grid == form.grid
        pieces.append(piece if same else form.lookup(piece, requant_table(grid, form.grid)))
    return form.call(form.node.target, pieces, view.dim)  # type: ignore[arg-type]  # its target is an operator


def _reduce(form: IntegerForm) -> Node:
    grid = form.grid
    ends = (grid.zero_point, grid.lo, grid.hi)
    if mean := Mean.of(form.node):
        source, value = form.grid_of(mean.input), form.integers[mean.input]
        numbers = (source.zero_point, source.scale, grid.scale, *ends)
        return form.call(qpc_ops.mean.default, value, list(mean.dims), mean.keepdim, *numbers)
    if total := Sum.of(form.node):
        source, value = form.grid_of(total.input), form.integers[total.input]
        count, how = 1, [list(total.dims), total.keepdim]
        target = qpc_ops.sum.default
    else:
        pool = AvgPool2d(form.node)
        source, value = form.grid_of(pool.input), form.integers[pool.input]
        count = pool.divisor_override or math.prod(pool.kernel_size)
        how = [list(pool.kernel_size), list(pool.stride), list(pool.padding)]
        target = qpc_ops.avg_pool2d.default
    factor = _multiplier(form, source.scale, count)
    return form.call(target, value, *how, source.zero_point, factor, *ends)


def _multiplier(form: IntegerForm, input_scale: float, count: int = 1) -> float:
    """What requantizes sums at `input_scale`, which stand for `count` times the result."""
    try:
        return average_multiplier(input_scale, form.grid.scale, count)
    except OverflowProofError as e:
        fix = f"keep it in float: Override(op={op_name(form.node)!r}, use='float')"
        raise OverflowProofError(e.what, node=form.node, fix=fix) from e


def _clamp(form: IntegerForm) -> Node:
    value = form.node.args[0]
    assert isinstance(value, Node)
    if form.grid_of(value) != form.grid:
        return _pointwise(form)
    lo: float | None = 0.0
    hi: float | None = None
    if clamp := Clamp.of(form.node):
        lo, hi = clamp.min, clamp.max
    ends = (_grid_point(form.grid, lo, form.grid.lo), _grid_point(form.grid, hi, form.grid.hi))
    return form.call(qpc_ops.clamp.default, form.integers[value], *ends)


def _grid_point(grid: QParams, real: float | None, default: int) -> int:
    if real is None:
        return default
    return int(grid.quantize(torch.tensor(float(real), dtype=torch.float32)))


def _move(form: IntegerForm) -> Node:
    value = form.node.all_input_nodes[0]
    if UpsampleNearest2d.matches(form.node) or PadByValues.matches(form.node):
        return _resize(form)
    if pool := MaxPool2d.of(form.node):
        window = [pool.kernel_size, pool.stride, pool.padding, pool.dilation]
        return form.call(
            qpc_ops.max_pool2d.default, form.integers[value], *map(list, window), pool.ceil_mode
        )
    if pad := Pad.of(form.node):
        zero = form.grid.zero_point
        return form.call(pad.node.target, form.integers[value], list(pad.pad), zero)  # type: ignore[arg-type]  # its target is an operator
    args = map_arg(form.node.args, lambda n: form.integers[n])
    return form.call(form.node.target, *args, **form.node.kwargs)  # type: ignore[arg-type]  # its target is an operator


def _resize(form: IntegerForm) -> Node:
    """The places are those at which the operator itself finds the values of a ramp."""
    (value,) = form.node.all_input_nodes
    sizes = [size for size in (info(value).shape or ())[2:] if isinstance(size, int)]
    ramp = torch.meshgrid(*(torch.arange(float(size)) for size in sizes), indexing="ij")
    rest = form.node.args[1:]
    samples = [form.node.target(x[None, None], *rest)[0, 0] for x in ramp]  # type: ignore[operator]  # its target is an operator
    places = {"rows": samples[0][:, 0], "columns": samples[1][0]}
    name = form.editor.free_name(f"places.{form.node.name}")
    constants = [
        form.editor.buffer(
            f"{name}.{axis}", (place * POSITIONS).round().to(torch.int32), before=form.node
        )
        for axis, place in places.items()
    ]
    return form.call(qpc_ops.resize2d.default, form.integers[value], *constants, sizes)


def _pointwise(form: IntegerForm) -> Node:
    """Any function of one value at a time, tabulated over the whole input grid."""
    (value,) = (n for n in form.node.all_input_nodes if n.op != "get_attr")

    def function(real: Tensor) -> Tensor:
        def operand(node: Node) -> Tensor:
            if node is value:
                return real
            return attribute(form.editor.gm, str(node.target)).detach().reshape(1)

        args = map_arg(form.node.args, operand)
        result: Tensor = form.node.target(*args, **form.node.kwargs)  # type: ignore[operator]  # its target is an operator
        return result

    table = lookup_table(function, form.grid_of(value), form.grid)
    return form.lookup(form.integers[value], table)


FORMS: dict[Role, Callable[[IntegerForm], Node]] = {
    Role.COMPUTE: _compute,
    Role.AFFINE: _affine,
    Role.COMBINE: _combine,
    Role.REDUCE: _reduce,
    Role.CLAMP: _clamp,
    Role.MOVE: _move,
    Role.INTERPOLATE: _resize,
    Role.POINTWISE: _pointwise,
}
