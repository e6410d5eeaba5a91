"""What the analyses before code generation need to know of an operator and its kernel, as data.

A backend registers these traits beside the kernel of each integer operator, and gives them to the
analyses of this package, which know no operator by name. So an operator that a backend learns,
one of another package too, is fused, placed and stored like the others without an edit here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:  # see `qpc.backends.tvm.custom`
    from torch.fx import Node


class MemoryOrder(Enum):
    """In which order a kernel wants the axes of its tensors to lie in memory."""

    LOGICAL = "as the operator numbers them"
    IMAGES = "NHWC for tensors of four axes, which are images, and as numbered for others"
    KEPT = "as those of its input, whatever they are: what its own readers want counts"
    ANY = "whatever they are: it makes no difference"


class StageKind(Enum):
    """How a kernel can do an operator to its results, before it stores them (an epilogue)."""

    CLAMP = "to the arguments `lo` and `hi`"
    TABLE = "by the 256 entries of the argument `table`"
    SUM = "with a tensor of the same shape; the operands are the arguments `a` and `b`"


@dataclass(frozen=True)
class Traits:
    """What an operator's kernel can do.

    order: how its tensors lie in memory.
    in_place: it reads images that are some of the channels of larger ones where they are, and
    writes its result among the channels of larger ones (in-place concatenation).
    epilogue: it does the operators behind it that have a `stage` before it stores its result.
    stage: how other kernels do this operator in their epilogues; None if they cannot.
    pads_with: the argument that holds the integer with which it pads images by itself, so that
    padding by the same integer in front of it can become part of it (fused padding).
    constants: the arguments that must be parameters or buffers, of which its kernel is built.
    moves: it only moves integers, and has the same meaning for every element type.
    joined: the argument that it adds before it stores its result, of the result's shape.
    """

    order: MemoryOrder = MemoryOrder.ANY
    in_place: bool = False
    epilogue: bool = False
    stage: StageKind | None = None
    pads_with: str | None = None
    constants: tuple[str, ...] = ()
    moves: bool = False
    joined: str | None = None


TraitTable: TypeAlias = Mapping[object, Traits]
"""The traits of operators, by operator (what `node.target` is); of others, nothing is assumed."""

_NOTHING = Traits()


def traits_of(node: Node, table: TraitTable) -> Traits:
    """The traits of the operator that `node` calls; those that promise nothing if it has none."""
    return table.get(node.target, _NOTHING) if node.op == "call_function" else _NOTHING
