"""The conversion of one operator to integers: what the homes of operators need for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.fx import Node

from qpc.analysis.roundings import rounding_of, unrounded
from qpc.calls import aten, qpc_ops
from qpc.edit import Editor
from qpc.errors import OverflowProofError, QPCError
from qpc.layers import Weighted, outputs_first, own_layout
from qpc.meta import attribute, info, label, update_info
from qpc.quant.arithmetic import average_multiplier
from qpc.quant.config import WeightConfig
from qpc.quant.fixedpoint import (
    INT32_MAX,
    accumulator_bounds,
    add_multipliers,
    floor_scales_for_bias,
    joined_multipliers,
    lookup_table,
    quantize_bias,
    quantize_weight,
    real_table,
    requant_multiplier,
    requant_table,
    require_finite,
    sum_scale,
    weight_scales,
)
from qpc.quant.grid import QParams
from qpc.registry import op_name
from qpc.types import Shape

Endings: TypeAlias = tuple[Callable[..., object], Callable[..., object]]
"""An operator that ends on a grid, and the same one that ends in float32."""

_EXACT = WeightConfig()
_KEEP_FLOAT = "keep the layer in float: Override(module={!r}, use='float')"


@dataclass(frozen=True)
class Conversion:
    """One conversion.

    node: the float operator, whose place the integer one takes.
    integers: the integers made so far, by the float values that they stand for.
    """

    editor: Editor
    node: Node
    integers: Mapping[Node, Node]

    # --- values and their grids -----------------------------------------------------------------

    @property
    def rounds(self) -> bool:
        """Whether the values that the operator makes have a grid; else they are float32."""
        return info(self.node).qparams is not None

    @property
    def grid(self) -> QParams:
        """The grid of the values that the operator makes."""
        return self.grid_of(self.node)

    @property
    def ends(self) -> tuple[int, int, int]:
        """Zero point, lowest and highest point of that grid: how many integer operators end."""
        return self.grid.zero_point, self.grid.lo, self.grid.hi

    @property
    def output_scale(self) -> float:
        """The scale of that grid, or 1.0 for values that are float32."""
        return self.grid.scale if self.rounds else 1.0

    def grid_of(self, value: Node) -> QParams:
        """The grid of a quantized value."""
        grid = info(value).qparams
        assert grid is not None, f"{value.name} has no grid"
        return grid

    def tensor(self, node: Node) -> Tensor:
        """A parameter or buffer that the operator reads."""
        return attribute(self.editor.gm, str(node.target)).detach()

    # --- new calls and constants ----------------------------------------------------------------

    def call(self, target: Callable[..., object], *args: object, **kwargs: Any) -> Node:
        """A new call in place of the node."""
        return self.editor.call(target, *args, like=self.node, **kwargs)

    def ended(self, targets: Endings, *args: object) -> Node:
        """A new call in place of the node, of the operator that ends as the node's values want it.

        args: all arguments but those of the end.
        """
        on_grid, in_float = targets
        if self.rounds:
            return self.call(on_grid, *args, *self.ends)
        return self.call(in_float, *args, None, None)

    def again(self, *args: object, **kwargs: Any) -> Node:
        """A new call of the same operator, with other arguments."""
        assert callable(self.node.target)
        return self.call(self.node.target, *args, **kwargs)

    def constant(self, name: str, value: Tensor) -> Node:
        """A buffer of this name, which must be free."""
        return self.editor.buffer(name, value.contiguous(), before=self.node)

    def reshaped(self, value: Node, shape: Shape) -> Node:
        """The integers `value` in another shape."""
        sizes = [size if isinstance(size, int) else -1 for size in shape]
        made = self.call(torch.ops.aten.reshape.default, value, sizes)
        update_info(made, qparams=info(value).qparams)
        return made

    def permuted(self, value: Node, order: Sequence[int]) -> Node:
        """The integers `value` with their axes in another order."""
        if list(order) == sorted(order):
            return value
        made = self.call(torch.ops.aten.permute.default, value, list(order))
        update_info(made, qparams=info(value).qparams)
        return made

    def tabulated(self, value: Node, function: Callable[[Tensor], Tensor]) -> Node:
        """A function of single values, as a table over the whole grid of the float `value`."""
        source = self.grid_of(value)
        if self.rounds:
            table = lookup_table(function, source, self.grid)
        else:
            table = real_table(function, source)
        return self._lookup(self.integers[value], table)

    def brought_to_grid(self, value: Node) -> Node:
        """The integers of `value` on the grid of the result."""
        grid, made = self.grid_of(value), self.integers[value]
        return made if grid == self.grid else self._lookup(made, requant_table(grid, self.grid))

    def _lookup(self, source: Node, table: Tensor) -> Node:
        name = self.editor.free_name(f"tables.{self.node.name}")
        made = self.call(qpc_ops.lookup.default, source, self.constant(name, table))
        update_info(made, qparams=info(self.node).qparams)
        return made

    # --- numbers --------------------------------------------------------------------------------

    def multiplier(self, input_scale: float, count: int = 1) -> float:
        """What requantizes sums at `input_scale`, which stand for `count` times the result."""
        try:
            return average_multiplier(input_scale, self.output_scale, count)
        except OverflowProofError as e:
            fix = f"keep it in float: Override(op={op_name(self.node)!r}, use='float')"
            raise OverflowProofError(e.what, node=self.node, fix=fix) from e

    def sum_multipliers(self, a: Node, b: Node) -> tuple[int, int, int | float]:
        """The integers that bring two summands to a common grid, and what follows the sum.

        That is a shift to the result's grid, or for float32 values the scale of the sum.
        """
        scales = (self.grid_of(a).scale, self.grid_of(b).scale)
        if self.rounds:
            return add_multipliers(scales, self.grid.scale)
        return sum_scale(scales)

    # --- layers ---------------------------------------------------------------------------------

    def joined(self, target: Callable[..., object], layer: Weighted, *geometry: object) -> Node:
        """A new call of a layer that does the addition too, which the node is.

        geometry: the layer's arguments between its multiplier and the zero point of its input.
        """
        other = next(n for n in self.node.all_input_nodes if n is not layer.node)
        grid, source = self.grid_of(other), self.grid_of(layer.input)
        factor, shift = joined_multipliers(grid.scale, self.grid.scale)
        factor = -factor if self.node.target is aten.sub.Tensor else factor
        operands = replace(self, node=layer.node).layer(layer, self.grid.scale / 2.0**shift)
        numbers = [grid.zero_point, factor, shift, *self.ends]
        made = [*operands, *geometry, source.zero_point, self.integers[other], *numbers]
        found = self.call(target, *made)
        update_info(found, module_path=info(layer.node).module_path)
        return found

    def layer(self, layer: Weighted, output_scale: float | None = None) -> list[Node]:
        """Input, weight, bias and multiplier of a layer whose weight is fake-quantized.

        output_scale: what the layer's values are brought to, if not to the grid of the result.
        """
        rounded = layer.weight  # fake_quantize(weight, scale, zero_point, lo, hi, axis)
        real, scale = rounded.all_input_nodes[:2]
        scales = self.tensor(scale)
        layout = (layer.output_axis, layer.groups)
        real_weight = self.tensor(real)
        require_finite("weight", real_weight)
        points = rounding_of(self.editor.gm, rounded).points(real_weight)
        weight = outputs_first(points, *layout).to(torch.int8)
        bias = torch.zeros(weight.shape[0])
        if layer.bias is not None:
            bias = self.tensor(unrounded(layer.bias))
        name, source = str(real.target), self.grid_of(layer.input)
        ends = output_scale or self.output_scale
        constants = self._constants(name, source, weight, scales, bias, ends, layout)
        return [self.integers[layer.input], *constants]

    def channel_scales(
        self, name: str, source: QParams, factor: Tensor, offset: Tensor
    ) -> list[Node]:
        """Weight, bias and multiplier of a depthwise convolution of one tap.

        name: of the parameter that they are made of; source: the grid of the input; factor, offset:
        float32[channels]. The integer weights are +-127, or 0: a single weight with a scale of its
        own is rounded to nothing, so that the bits which the configuration gives to weights do not
        matter.
        """
        factor = factor.reshape(-1, 1, 1, 1)
        try:
            scales = floor_scales_for_bias(weight_scales(factor, _EXACT), offset, source.scale)
        except QPCError as e:
            raise self._in_words(e) from e
        weight = quantize_weight(factor, scales, _EXACT.bits)
        return self._constants(name, source, weight, scales, offset, self.output_scale)

    def _constants(
        self,
        name: str,
        source: QParams,
        weight: Tensor,
        scales: Tensor,
        real_bias: Tensor,
        output_scale: float,
        layout: tuple[int, int] = (0, 1),
    ) -> list[Node]:
        """Weight, bias and multiplier of a layer whose float weight has this name.

        weight: int8[out, in/groups, *kernel], to be stored in `layout`; scales: float32[out] or
        [1]; real_bias: float32[out].
        """
        outputs = weight.shape[0]
        try:
            bias = quantize_bias(real_bias, source.scale, scales)
            multiplier = requant_multiplier(source.scale, scales, output_scale).expand(outputs)
        except QPCError as e:
            raise self._in_words(e) from e
        self._prove_no_overflow(weight, bias, source)
        owner = f"integers.{name.rpartition('.')[0] or self.node.name}"
        taken = self.editor.free_name(f"{owner}.weight") != f"{owner}.weight"
        owner = self.editor.free_name(owner) if taken else owner
        return [
            self.constant(f"{owner}.{leaf}", value)
            for leaf, value in (
                ("weight", own_layout(weight, *layout)),
                ("bias", bias),
                ("multiplier", multiplier),
            )
        ]

    def _prove_no_overflow(self, weight: Tensor, bias: Tensor, source: QParams) -> None:
        bounds = accumulator_bounds(weight, bias, source.zero_point, source.lo, source.hi)
        worst = max(int(bounds[1].max()), -int(bounds[0].min()))
        if worst > INT32_MAX:
            raise OverflowProofError(
                f"the accumulator of {label(self.node)} can reach {worst},"
                " which does not fit 32 bits",
                node=self.node,
                fix=self._keep_float + ", or use fewer weight bits",
            )

    def _in_words(self, error: QPCError) -> QPCError:
        return type(error)(error.what, node=self.node, fix=self._keep_float)

    @property
    def _keep_float(self) -> str:
        return _KEEP_FLOAT.format(info(self.node).module_path or self.node.name)
