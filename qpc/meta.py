"""Node info: everything QPC itself knows about a node, in one frozen record.

`copy.deepcopy` of a GraphModule shares meta values between the copies, so a record is replaced,
never changed. This module is the only place that touches the key in `node.meta`.
"""

from __future__ import annotations

import copy
import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node

from qpc.types import Shape

if TYPE_CHECKING:
    from qpc.quant.config import LayerConfig
    from qpc.quant.grid import QParams

_KEY = "qpc"


@dataclass(frozen=True)
class NodeInfo:
    """What QPC knows about one node.

    shape, dtype: of the node's value; None where the value is not one tensor.
    module_path: the user's module that the node came from, such as `layer1.0.conv1`; empty at the
    top.
    origin: the pass that made the node; empty for nodes of the traced model.
    value: name of the traced model's node whose value this node computes, where that is not its own
    name.
    declined: why the operator stays in float; empty where it does not, or nobody has decided yet.
    integer: whether the operator is to become an integer operator; set when observers are inserted.
    config: how the node's value and weight are to be quantized; None for values that stay in float.
    observer: name of the observer whose statistics set the value's grid; several values may share
    one.
    qparams: the grid of the value, once calibration has fixed it.
    frozen: whether training leaves a batch norm in inference, with the statistics that it has.
    """

    shape: Shape | None = None
    dtype: torch.dtype | None = None
    module_path: str = ""
    origin: str = ""
    value: str = ""
    declined: str = ""
    integer: bool = False
    config: LayerConfig | None = None
    observer: str | None = None
    qparams: QParams | None = None
    frozen: bool = False


def info(node: Node) -> NodeInfo:
    """The record of `node`; an empty one if nothing is known yet."""
    found = node.meta.get(_KEY)
    return found if isinstance(found, NodeInfo) else NodeInfo()


def update_info(node: Node, **changes: Any) -> NodeInfo:
    """Replace fields of the record of `node` and return the new record."""
    changed = dataclasses.replace(info(node), **changes)
    node.meta[_KEY] = changed
    return changed


def inherit(node: Node, source: Node, *, origin: str) -> None:
    """Give a new node the module path and source line of the node that it stands for."""
    old = info(source)
    update_info(node, module_path=old.module_path, origin=origin)
    if source.stack_trace:
        node.stack_trace = source.stack_trace


def value_name(node: Node) -> str | None:
    """The traced model's name for the value that `node` computes; None if it has none there."""
    about = info(node)
    return about.value or (None if about.origin else node.name)


def copied(gm: GraphModule) -> GraphModule:
    """A copy that shares nothing with `gm` but the records of its nodes, which never change."""
    made = copy.deepcopy(gm)
    # GraphModule makes the buffers at its top persistent when it is copied.
    made._non_persistent_buffers_set = set(gm._non_persistent_buffers_set)
    return made


def attribute(gm: nn.Module, name: str) -> Tensor:
    """The parameter or buffer that a `get_attr` node names."""
    *path, leaf = name.split(".")
    owner: nn.Module | None = gm
    for (
        part
    ) in path:  # `get_submodule` looks at much more on its way, and is needed for errors only
        owner = owner._modules.get(part) if owner is not None else None
    value = getattr(gm.get_submodule(".".join(path)) if owner is None else owner, leaf)
    if not isinstance(value, Tensor):
        raise TypeError(f"attribute {name!r} is {type(value).__name__}, not a tensor")
    return value


def label(node: Node) -> str:
    """How reports name a node: its module path and operator, or its name at the top level."""
    path = info(node).module_path
    return f"{path} ({node.name})" if path else node.name
