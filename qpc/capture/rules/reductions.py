"""Sums, means and extremes over axes."""

from __future__ import annotations

import torch
from torch._ops import OpOverload
from torch.fx import Node
from torch.fx.node import Argument

from qpc.calls import arguments
from qpc.capture.rules.call import Call, Rule, shape_of, table
from qpc.types import BatchDim

aten = torch.ops.aten


def over_a_stack(call: Call, dims: list[int] | None, target: OpOverload) -> Node | None:
    """The same over values that are stacked behind the batch, not in front of it.

    As in `torch.stack([x, y]).mean(0)`: reductions over the first axis are taken for such over the
    batch.
    """
    source, rank = call.source(), call.rank
    if dims is None or [d % rank for d in dims] != [0] or call.args["keepdim"]:
        return None
    if source.target is not aten.cat.default or arguments(source)["dim"] != 0:
        return None
    pieces = [_unstacked(piece) for piece in arguments(source)["tensors"]]
    behind = []
    for piece in pieces:
        if piece is None:
            return None
        sizes = [d for d in shape_of(piece)[1:] if isinstance(d, int)]
        behind.append(call.emit(aten.reshape.default, piece, [-1, 1, *sizes]))
    stacked = call.emit(aten.cat.default, behind, 1)
    return call.emit(target, stacked, [1], False, **_dtype(call))


def _unstacked(piece: Node) -> Node | None:
    """What was given an axis in front of its batch; None if it was not."""
    if piece.target is not aten.reshape.default:
        return None
    (source,) = piece.all_input_nodes
    shape = shape_of(source)
    fits = shape_of(piece) == (1, *shape) and isinstance(shape[0], BatchDim)
    return source if fits and all(isinstance(d, int) for d in shape[1:]) else None


def _mean_all(call: Call) -> Node | None:
    rank = call.rank
    return call.emit(aten.mean.dim, call.source(), list(range(rank)), False, **_dtype(call))


def _mean(call: Call) -> Node | None:
    if (made := over_a_stack(call, call.args["dim"], aten.mean.dim)) is not None:
        return made
    rank = call.rank
    given = call.args["dim"]
    dims = sorted(d % rank for d in given) if given else list(range(rank))
    if dims == given:
        return None
    return call.emit(aten.mean.dim, call.source(), dims, call.args["keepdim"], **_dtype(call))


def _reduced(target: OpOverload) -> Rule:
    def rule(call: Call) -> Node | None:
        return over_a_stack(call, call.args["dim"], target)

    return rule


def _extreme(target: OpOverload) -> Rule:
    """The greatest or least values along an axis, where nobody asks at which places they are."""

    def rule(call: Call) -> list[Node] | None:
        if any(user.args[1] != 0 for user in call.node.users):
            return None
        axis = int(call.args["dim"]) % max(call.rank, 1)
        made = over_a_stack(call, [axis], target)
        return [made or call.emit(target, call.source(), [axis], call.args["keepdim"])]

    return rule


def _dtype(call: Call) -> dict[str, Argument]:
    return {} if call.args.get("dtype") is None else {"dtype": call.args["dtype"]}


RULES = table(
    (_mean_all, "mean.default"),
    (_mean, "mean.dim"),
    (_reduced(aten.sum.dim_IntList), "sum.dim_IntList"),
    (_reduced(aten.amin.default), "amin.default"),
    (_extreme(aten.amax.default), "max.dim"),
    (_extreme(aten.amin.default), "min.dim"),
)
