"""Truth values in files and messages: eight to the byte."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from qpc.errors import ConfigError


def pack_mask(mask: Tensor) -> Tensor:
    """A bool tensor as uint8[ceil(elements / 8)]: element 8 * i + j is bit j of byte i."""
    if mask.dtype != torch.bool:
        raise ConfigError(f"a mask must be bool, got {mask.dtype}")
    return torch.from_numpy(np.packbits(mask.cpu().numpy().reshape(-1), bitorder="little"))


def unpack_mask(packed: Tensor, shape: tuple[int, ...] | torch.Size) -> Tensor:
    """The bool tensor of this shape that `pack_mask` packed."""
    count = math.prod(shape)
    if packed.dtype != torch.uint8 or packed.shape != (-(-count // 8),):
        raise ConfigError(
            f"a packed mask of {count} elements must be uint8[{-(-count // 8)}], "
            f"got {packed.dtype} of shape {list(packed.shape)}"
        )
    bits = np.unpackbits(packed.cpu().numpy(), count=count, bitorder="little")
    return torch.from_numpy(bits.astype(np.bool_)).reshape(shape)
