"""Padding, with one value or with values of the input."""

from __future__ import annotations

from torch.fx import Node

from qpc.calls import Arg, Ints, OpView, aten
from qpc.registry import Role, specs_of_views


class Pad(OpView, of=aten.constant_pad_nd.default):
    """Padding with one value; `pad` counts from the last axis: (left, right, top, bottom, ...)."""

    input = Arg[Node]("self")
    pad = Ints()
    value = Arg[float]()


class PadByValues(OpView, of=aten.pad.default):
    """Padding with values of the input: by reflection, by repetition of the border, or around."""

    input = Arg[Node]("self")
    pad = Ints()
    mode = Arg[str]()


SPECS = specs_of_views((Pad, "pad", Role.MOVE), (PadByValues, "pad", Role.MOVE))
