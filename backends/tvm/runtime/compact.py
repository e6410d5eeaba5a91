"""Saved weights without what can be computed from the rest.

Weights of minimal filtering are 9 values of 8 bits, from which 16 or 36 of 16 bits were made: up to
eight times the bytes. What is saved are the 9, and loading makes the others again.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from qpc.backends.tvm.kernels.conv.filtering import FILTERINGS

_BY_PLACES = {filtering.places: filtering for filtering in FILTERINGS.values()}
_DIMENSIONS = 6  # WinogradPlan.pack_weight


def compact(weights: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, int]]:
    """Tensors to save, and by name the places that some of them are to be spread to again.

    Only what `spread` restores to the last bit is replaced, so a tensor that merely looks like
    weights of minimal filtering is safe.
    """
    saved, places = dict(weights), {}
    for name, tensor in weights.items():
        if tensor.dtype != torch.int16 or tensor.dim() != _DIMENSIONS:
            continue
        filtering = _BY_PLACES.get(tensor.shape[1])
        taps = filtering.taps(tensor.numpy()) if filtering else None
        if taps is not None:
            saved[name] = torch.from_numpy(taps)
            places[name] = tensor.shape[1]
    return saved, places


def spread(saved: Mapping[str, Tensor], places: Mapping[str, int]) -> dict[str, Tensor]:
    """The weights that `compact` was given."""
    made = {
        name: torch.from_numpy(_BY_PLACES[count].spread(saved[name].numpy()))
        for name, count in places.items()
    }
    return dict(saved) | made
