"""Normalisation of values by their own statistics."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.fx import Node

from qpc.calls import arguments, aten, set_arguments
from qpc.channels.atoms import Labels, spread, varying_axes
from qpc.channels.flow import describe
from qpc.ops.convolution import shrink_groups
from qpc.registry import OpSpec, overloads

if TYPE_CHECKING:
    from qpc.channels.flow import Flow
    from qpc.channels.removal import Removal

# --- channels -------------------------------------------------------------------------------------


def _layer_norm(flow: Flow, node: Node) -> list[Labels]:
    """Layer norm goes on over the channels kept; those on axes before pass."""
    given, shape = arguments(node), flow.shape(node)
    first = len(shape) - len(given["normalized_shape"])
    inside = {a for every in flow.every(given["input"]) for a in varying_axes(every) if a >= first}
    axis = max(inside, default=len(shape) - 1)
    line, others = flow.across(node, given["input"], axis)
    if len(inside) > 1:
        line, others = flow.line(node, given["input"], axis), []
    for name in ("weight", "bias"):  # rms norm has no bias
        flow.attach(node, given.get(name), axis - first, line)
    return [spread(line, axis, shape), *flow.passed(node, others)]


def _group_norm(flow: Flow, node: Node) -> list[Labels]:
    """Whole groups go, or the same channels of every group; whichever leaves more units."""
    given = arguments(node)
    line = flow.line(node, given["input"], 1)
    grouped = line.reshape(int(given["num_groups"]), -1)
    groups, size = grouped.shape
    if groups > 1 and size > 1:
        reference = grouped[:, :1] if groups >= size else grouped[:1]
        flow.atoms.unite(grouped, reference, f"{describe(node)} has equal groups")
    for part in (given["weight"], given["bias"]):
        flow.attach(node, part, 0, line)
    return [spread(line, 1, flow.shape(node))]


def _shrink_layer_norm(removal: Removal, node: Node) -> None:
    length = len(arguments(node)["normalized_shape"])
    set_arguments(node, normalized_shape=removal.counts(node)[-length:])


# --- files ----------------------------------------------------------------------------------------


def _refuse_sizes(given: Mapping[str, Any]) -> str | None:
    x = given["input"]
    channels = x.shape[1] if isinstance(x, Tensor) and x.dim() > 1 else -1
    for name in ("weight", "bias", "running_mean", "running_var"):
        value = given.get(name)
        if value is not None and not (
            isinstance(value, Tensor) and value.shape == torch.Size([channels])
        ):
            return f"takes one number for each channel for {name!r}"
    return None


def _refuse_slices(given: Mapping[str, Any]) -> str | None:
    v, g, dim = given["v"], given["g"], given.get("dim", 0)
    if not isinstance(v, Tensor) or not isinstance(g, Tensor):
        return "takes tensors"
    rank = v.dim()
    if not rank or not -1 <= dim < rank:  # -1 is the norm of all, in one number
        return "takes an axis of 'v' for 'dim', or -1"
    if g.numel() != (1 if dim == -1 else v.shape[dim]):
        return "takes one number for each slice of 'v' for 'g'"
    return None


_BATCH_NORMS = (
    "native_batch_norm _native_batch_norm_legit.no_stats _native_batch_norm_legit_no_training"
)
SPECS = (
    *(
        OpSpec(t, channels_together=_layer_norm, shrink=_shrink_layer_norm)
        for t in overloads("layer_norm rms_norm")
    ),
    OpSpec(aten.group_norm.default, channels_together=_group_norm, shrink=shrink_groups),
    *(OpSpec(t, refuse_in_files=_refuse_sizes) for t in overloads(_BATCH_NORMS)),
    *(
        OpSpec(t, refuse_in_files=_refuse_slices)
        for t in overloads("_weight_norm _weight_norm_interface")
    ),
)
