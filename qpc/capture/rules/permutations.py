"""Operators that reorder axes: one `permute`; turns of images mirror them, too."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.fx import Node

from qpc.capture.rules.call import Call, table

aten = torch.ops.aten


def _permute(call: Call, order: Sequence[int]) -> Node | None:
    source = call.source()
    if list(order) == list(range(len(order))):
        return source
    return call.emit(aten.permute.default, source, list(order))


def _transpose(call: Call) -> Node | None:
    rank = call.rank
    order = list(range(rank))
    if rank >= 2:
        first, second = (call.args[n] % rank for n in call.args if n != "self")
        order[first], order[second] = order[second], order[first]
    return _permute(call, order)


def _reverse(call: Call) -> Node | None:
    return _permute(call, range(call.rank)[::-1])


def _matrix_transpose(call: Call) -> Node | None:
    rank = call.rank
    return _permute(call, [*range(rank - 2), rank - 1, rank - 2])


def _movedim(call: Call) -> Node | None:
    rank = call.rank

    def axes(value: Any) -> list[int]:
        return [v % rank for v in ([value] if isinstance(value, int) else value)]

    source, destination = axes(call.args["source"]), axes(call.args["destination"])
    rest = iter(a for a in range(rank) if a not in source)
    where = dict(zip(destination, source, strict=True))
    return _permute(call, [where[i] if i in where else next(rest) for i in range(rank)])


def _normal_permute(call: Call) -> Node | None:
    order = [d % call.rank for d in call.args["dims"]]
    if order == list(range(len(order))):
        return call.source()
    return None if order == call.args["dims"] else _permute(call, order)


def _turn(call: Call) -> Node | None:
    """A quarter turn mirrors the axes that it exchanges; half a turn mirrors both."""
    first, second = (int(d) % call.rank for d in call.args["dims"])
    quarters = int(call.args["k"]) % 4
    if quarters == 0:
        return call.source()
    mirrored = {1: [second], 2: [first, second], 3: [first]}[quarters]
    made = call.emit(aten.flip.default, call.source(), mirrored)
    if quarters == 2:
        return made
    order = list(range(call.rank))
    order[first], order[second] = order[second], order[first]
    return call.emit(aten.permute.default, made, order)


RULES = table(
    (_turn, "rot90.default"),
    (_transpose, "transpose.int swapaxes.default swapdims.default"),
    (_reverse, "t.default numpy_T.default"),
    (_matrix_transpose, "mT.default"),
    (_movedim, "movedim.int movedim.intlist moveaxis.int moveaxis.intlist"),
    (_normal_permute, "permute.default"),
)
