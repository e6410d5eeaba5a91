"""Layers: operators that multiply by a weight of their own, and how their weights are laid out."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor
from torch.fx import Node

from qpc.calls import Arg, OpView, arguments
from qpc.quant.pairs import swap_groups
from qpc.registry import Role, quantization_of, spec_of


class Layer(OpView):
    """What layers have in common, in float and in integers.

    output_axis: the axis of the weight that runs over output channels, 0 or 1.
    channel_axis: the axis of the values that runs over channels, in calls with a batch.
    transposed: whether each weight is used once for each input, not for each output.
    """

    weight = Arg[Node]()
    output_axis: ClassVar[int] = 0
    channel_axis: ClassVar[int] = 1
    transposed: ClassVar[bool] = False

    @property
    def groups(self) -> int:
        """The number of groups; 1 for linear layers."""
        return int(arguments(self.node).get("groups", 1))


class Weighted(Layer):
    """A float layer."""

    input = Arg[Node]()
    bias = Arg[Node | None]()


class IntWeighted(Layer):
    """An integer layer: int8 weight, int32 bias[out], float32 multiplier[out].

    Its results are integers on a grid, or float32 values that nothing rounds.
    """

    input = Arg[Node]("q")
    bias = Arg[Node]()
    multiplier = Arg[Node]()
    input_zero_point = Arg[int]()


def weighted(node: Node) -> Weighted | None:
    """The view of a float layer; None for anything else."""
    view = _layer(node)
    return view if isinstance(view, Weighted) else None


def float_layer(node: Node) -> Weighted | None:
    """The view of a float layer that can become an integer layer; None for anything else."""
    found = quantization_of(node)
    can = found.role is Role.COMPUTE and found.convert is not None
    return weighted(node) if can else None


def integer_layer(node: Node) -> IntWeighted | None:
    """The view of an integer layer; None for anything else."""
    view = _layer(node)
    return view if isinstance(view, IntWeighted) else None


def any_layer(node: Node) -> Weighted | IntWeighted | None:
    """The view of a layer, float or integer; None for anything else."""
    return weighted(node) or integer_layer(node)


def _layer(node: Node) -> OpView | None:
    spec = spec_of(node)
    return spec.view(node) if spec is not None and spec.view is not None else None


def outputs_first(tensor: Tensor, output_axis: int, groups: int) -> Tensor:
    """A tensor in the layout of a weight, as [out, in/groups, *kernel].

    `output_axis` is 0, or 1 for the weight[in, out/groups, *kernel] of transposed convolutions.
    """
    return swap_groups(tensor, groups) if output_axis == 1 else tensor


def own_layout(tensor: Tensor, output_axis: int, groups: int) -> Tensor:
    """What `outputs_first` made, in the weight's own layout again."""
    return swap_groups(tensor, groups) if output_axis == 1 else tensor
