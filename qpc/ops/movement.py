"""Operators that move values without changing them."""

from __future__ import annotations

from torch.fx import Node

from qpc.calls import Arg, OpView, aten
from qpc.registry import Role, specs_of_names, specs_of_views


class Reshape(OpView, of=aten.reshape.default):
    """View, flatten, squeeze and unsqueeze are reshapes in core form."""

    input = Arg[Node]("self")
    shape = Arg[list[int | Node]]()


class Dropout(OpView, of=aten.dropout.default):
    """Dropout; the identity unless `train`."""

    input = Arg[Node]()
    p = Arg[float]()
    train = Arg[bool]()


_NAMES = """
permute slice.Tensor select.int flip roll pixel_shuffle pixel_unshuffle channel_shuffle
"""
SPECS = (
    *specs_of_views((Reshape, "reshape", Role.MOVE), (Dropout, "dropout", Role.MOVE)),
    *specs_of_names(_NAMES, Role.MOVE),
)
