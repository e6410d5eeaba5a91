"""Convolution and linear layers that have an integer form, and how their weights are laid out."""

from __future__ import annotations

from typing import TypeAlias

from torch import Tensor
from torch.fx import Node

from qpc.ops import views
from qpc.ops.views import arguments

FloatLayer: TypeAlias = views.Conv2d | views.ConvTranspose2d | views.Linear
IntegerLayer: TypeAlias = views.IntConv2d | views.IntConvTranspose2d | views.IntLinear

_FLOAT: tuple[type[FloatLayer], ...] = (views.Conv2d, views.ConvTranspose2d, views.Linear)
_INTEGER: tuple[type[IntegerLayer], ...] = (
    views.IntConv2d,
    views.IntConvTranspose2d,
    views.IntLinear,
)


def float_layer(node: Node) -> FloatLayer | None:
    """The view of a float layer that can become an integer layer; None for anything else."""
    return next((view for kind in _FLOAT if (view := kind.of(node))), None)


def integer_layer(node: Node) -> IntegerLayer | None:
    """The view of an integer layer; None for anything else."""
    return next((view for kind in _INTEGER if (view := kind.of(node))), None)


def groups_of(layer: views.OpView) -> int:
    """The number of groups; 1 for linear layers."""
    return int(arguments(layer.node).get("groups", 1))


def outputs_first(tensor: Tensor, output_axis: int, groups: int) -> Tensor:
    """A tensor in the layout of a weight, as [out, in/groups, *kernel].

    `output_axis` is 0, or 1 for the weight[in, out/groups, *kernel] of transposed convolutions.
    """
    return _swapped(tensor, groups) if output_axis == 1 else tensor


def own_layout(tensor: Tensor, output_axis: int, groups: int) -> Tensor:
    """What `outputs_first` made, in the weight's own layout again."""
    return _swapped(tensor, groups) if output_axis == 1 else tensor


def _swapped(tensor: Tensor, groups: int) -> Tensor:
    """[groups * a, b, ...] as [groups * b, a, ...]."""
    first, second, *kernel = tensor.shape
    split = tensor.reshape(groups, first // groups, second, *kernel)
    return split.transpose(1, 2).reshape(groups * second, first // groups, *kernel)
