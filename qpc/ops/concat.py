"""Concatenation."""

from __future__ import annotations

from torch.fx import Node

from qpc.calls import Arg, OpView, aten
from qpc.registry import Role, specs_of_views


class Cat(OpView, of=aten.cat.default):
    """Concatenation along `dim`."""

    tensors = Arg[list[Node]]()
    dim = Arg[int]()


SPECS = specs_of_views((Cat, "cat", Role.COMBINE))
