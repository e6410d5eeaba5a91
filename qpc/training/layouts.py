"""The order in which tensors lie in memory, which files of tensors do not tell.

A convolution whose weight lies channels-last adds up in another order than one whose weight does
not, so that the order must come back for results to be the same bits.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor
from torch.fx import GraphModule


def layouts_of(gm: GraphModule) -> dict[str, list[int]]:
    """By name of a tensor the order of its axes in memory, outermost first, if it is not theirs."""
    found = {}
    for name, tensor in _tensors(gm):
        order = _order(tensor)
        if order is not None:
            found[name] = order
    return found


def set_layouts(gm: GraphModule, layouts: Mapping[str, list[int]]) -> None:
    """Lay tensors out in memory as `layouts_of` said. Raises ValueError if that cannot be."""
    known = dict(_tensors(gm))
    for name, order in layouts.items():
        tensor = known.get(name)
        if tensor is None or sorted(order) != list(range(tensor.dim())):
            raise ValueError(f"{name!r} cannot lie in memory in the order {order}")
        tensor.data = torch.empty_permuted(tensor.shape, order, dtype=tensor.dtype).copy_(
            tensor.detach()
        )


def _tensors(gm: GraphModule) -> Iterator[tuple[str, Tensor]]:
    yield from gm.named_parameters()
    yield from gm.named_buffers()


def _order(tensor: Tensor) -> list[int] | None:
    plain = list(range(tensor.dim()))
    strides = tensor.stride()
    by_stride = sorted(plain, key=lambda axis: -strides[axis])
    channels_last = [0, *plain[2:], *plain[1:2]]  # axes of one index have any stride
    for order in (plain, by_stride, channels_last):
        if strides == torch.empty_permuted(tensor.shape, order, device="meta").stride():
            return None if order == plain else order
    return None  # overlapping, or with gaps: it is saved without
