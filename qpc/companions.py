"""Companions: buffers that belong to a parameter although no node reads them.

The weight mask of `conv.weight` is the buffer `weight_masks.conv.weight`, the channel mask of its
axis 0 is `masks.conv.weight.axis_0`. As buffers they are copied, moved and saved with the graph.
They live as long as a node reads their parameter.
"""

from __future__ import annotations

from torch.fx import GraphModule

CHANNEL_MASKS = "masks"
"""Holds `masks.<parameter>.axis_<n>`: bool[size of the axis]."""
WEIGHT_MASKS = "weight_masks"
"""Holds `weight_masks.<parameter>`: bool, of the shape of the parameter."""
ELEMENTWISE = (WEIGHT_MASKS,)
"""Holders whose buffers have the shape of their parameter, and are sliced whenever it is."""


def parameter_of(buffer: str) -> str | None:
    """The parameter that the buffer of this name accompanies; None if it is no companion."""
    holder, _, rest = buffer.partition(".")
    if holder in ELEMENTWISE:
        return rest
    return rest.rpartition(".")[0] if holder == CHANNEL_MASKS else None


def elementwise_companions(gm: GraphModule, parameter: str) -> list[str]:
    """The names of the buffers that have the shape of `parameter` and change with it."""
    return [name for holder in ELEMENTWISE if _is_buffer(gm, name := f"{holder}.{parameter}")]


def channel_mask(gm: GraphModule, parameter: str, axis: int) -> str | None:
    """The name of the mask of an axis of a parameter; None if it has none."""
    name = f"{CHANNEL_MASKS}.{parameter}.axis_{axis}"
    return name if _is_buffer(gm, name) else None


def _is_buffer(gm: GraphModule, name: str) -> bool:
    try:
        gm.get_buffer(name)
    except AttributeError:
        return False
    return True
