"""Weight masks: which single weights stay, kept beside a graph and obeyed while it trains.

A weight mask is a bool buffer of the shape of its parameter, True where the weight stays. Masks
compose: a weight stays if every mask so far lets it. Training moves masked weights away from zero
unless one of two things is done:

    handle = mask_gradients(gm)     # once, before training; handle.remove() ends it
    remask(gm)                      # after every step of the optimizer

The first needs an optimizer that leaves a weight alone whose value and gradients have always been
zero, which is true of SGD and Adam with and without weight decay. The second always works.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import TracebackType

import torch
from torch import Tensor
from torch.fx import GraphModule
from torch.utils.hooks import RemovableHandle

from qpc.bits import pack_mask as pack_mask
from qpc.bits import unpack_mask as unpack_mask
from qpc.companions import WEIGHT_MASKS
from qpc.edit import Editor
from qpc.errors import ConfigError
from qpc.facts import Fact, named_tensor
from qpc.meta import attribute
from qpc.settings import require_kind


def weight_masks(gm: GraphModule) -> Iterator[tuple[str, Tensor]]:
    """All weight masks of a graph: parameter name, bool of the parameter's shape, True stays."""
    for name, buffer in list(gm.named_buffers()):
        if name.startswith(f"{WEIGHT_MASKS}."):
            yield name.removeprefix(f"{WEIGHT_MASKS}."), buffer


def weight_mask(gm: GraphModule, name: str) -> Tensor | None:
    """The mask of one parameter, or None."""
    try:
        return gm.get_buffer(f"{WEIGHT_MASKS}.{name}")
    except AttributeError:
        return None


def add_weight_mask(gm: GraphModule, name: str, keep: Tensor) -> bool:
    """Mask the parameter `name` in addition to masks it has; return whether anything changed.

    keep: bool of the parameter's shape, True where a weight stays. The others become zero at once.
    Raises ConfigError if the mask does not fit.
    """
    parameter, old = named_tensor(gm, name), weight_mask(gm, name)
    require_kind("keep", keep, Tensor, "a tensor of bool", fix="torch.tensor([True, ...])")
    if keep.dtype != torch.bool or keep.shape != parameter.shape:
        raise ConfigError(
            f"the weight mask of {name!r} must be bool{list(parameter.shape)}, "
            f"got {keep.dtype} of shape {list(keep.shape)}"
        )
    new = keep.clone() if old is None else keep & old
    same = bool(new.all()) if old is None else torch.equal(new, old)
    if not same:
        Editor(gm, "").set_tensor(f"{WEIGHT_MASKS}.{name}", new)
    return _zero(parameter, new) or not same


def clear_weight_masks(gm: GraphModule) -> None:
    """Forget all weight masks; the weights are left as they are."""
    if WEIGHT_MASKS in gm._modules:
        delattr(gm, WEIGHT_MASKS)


def remask(gm: GraphModule) -> None:
    """Set masked weights to zero again, in place."""
    with torch.no_grad():
        for name, keep in weight_masks(gm):
            attribute(gm, name).masked_fill_(~keep, 0)


class MaskedGradients:
    """Hooks that zero the gradients of masked weights until `remove`, or the end of a `with`."""

    def __init__(self, handles: tuple[RemovableHandle, ...]) -> None:
        self._handles = handles

    def remove(self) -> None:
        """Let gradients through again."""
        for handle in self._handles:
            handle.remove()

    def __enter__(self) -> MaskedGradients:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.remove()


def mask_gradients(gm: GraphModule) -> MaskedGradients:
    """Zero the gradients of masked weights from now on. Copies of the graph have no such hooks."""
    masked = [(name, attribute(gm, name)) for name, _ in weight_masks(gm)]
    return MaskedGradients(
        tuple(p.register_hook(_hook(gm, name)) for name, p in masked if p.requires_grad)
    )


def _zero(parameter: Tensor, keep: Tensor) -> bool:
    """Zero what does not stay, in place; return whether that changed anything."""
    with torch.no_grad():
        changed = bool(((parameter != 0) & ~keep).any())
        if changed:
            parameter.masked_fill_(~keep, 0)
    return changed


def _hook(gm: GraphModule, name: str) -> Callable[[Tensor], Tensor | None]:
    def masked(gradient: Tensor) -> Tensor | None:
        keep = weight_mask(gm, name)  # looked up each time, since the graph may move to a device
        return None if keep is None else gradient.masked_fill(~keep, 0)

    return masked


def _masked_weights_are_zero(gm: GraphModule) -> str | None:
    for name, keep in weight_masks(gm):
        try:
            weight = attribute(gm, name)
        except (AttributeError, TypeError):
            return f"{name!r} has a weight mask, but is no tensor of the graph"
        if weight.shape != keep.shape:
            return (
                f"the weight mask of {name!r} has shape {list(keep.shape)}, "
                f"the weight {list(weight.shape)}"
            )
        if count := int(((weight != 0) & ~keep).sum()):
            return f"{count} masked weights of {name!r} are not 0; call remask after training"
    return None


WEIGHTS_MASKED = Fact("weights-masked", _masked_weights_are_zero)
"""Every weight that a weight mask removes is zero."""
