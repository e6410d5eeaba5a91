"""Operators that scale and shift each channel, such as batch norms."""

from __future__ import annotations

from torch.fx import Node

from qpc.calls import Arg, OpView, aten
from qpc.registry import Role, specs_of_views


class BatchNorm(OpView, of=aten.batch_norm.default):
    """Normalises over every axis but 1 with running statistics."""

    input = Arg[Node]()
    weight = Arg[Node | None]()
    bias = Arg[Node | None]()
    running_mean = Arg[Node | None]()
    running_var = Arg[Node | None]()
    training = Arg[bool]()
    momentum = Arg[float]()
    eps = Arg[float]()


SPECS = specs_of_views((BatchNorm, "batch_norm", Role.FLOAT))
