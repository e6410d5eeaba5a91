"""Weights as they are stored in layers whose values stay float: by output channel or in groups."""

from __future__ import annotations

from math import ceil

import torch
from torch import Tensor
from torch.nn import functional as F

from qpc.errors import PassError
from qpc.quant.config import WeightConfig
from qpc.quant.fixedpoint import quantize_weight, weight_scales

PACKED_BITS = 4
"""Weights of so many bits or less are stored two to the byte."""
_NIBBLE, _SIGN = 16, 8


def quantize_in_groups(weight: Tensor, config: WeightConfig) -> tuple[Tensor, Tensor]:
    """Return int8[out, in] and the scales float32[out, groups] of a float32 weight[out, in].

    Every scale is chosen for its own group by the rules of `weight_scales`. Raises PassError for
    NaN and infinite weights.
    """
    outputs, inputs = weight.shape
    size = config.group or max(inputs, 1)
    count = max(ceil(inputs / size), 1)
    padded = F.pad(weight.detach().float(), (0, count * size - inputs))
    rows = padded.reshape(outputs * count, size)
    if config.per_channel:
        scales = weight_scales(rows, config)
    else:
        scales = weight_scales(padded, config).expand(outputs * count)
    integers = quantize_weight(rows, scales, config.bits, safe=config.safe_pairs)
    integers = integers.reshape(outputs, count * size)[:, :inputs].contiguous()
    return integers, scales.reshape(outputs, count).contiguous()


def pack(weight: Tensor) -> Tensor:
    """Return int8[out, in] from -8 to 7 as uint8[out, ceil(in / 2)].

    The four low bits of a byte are the even input, in two's complement; an odd last one is 0.
    """
    even = F.pad(weight, (0, weight.shape[1] % 2)).to(torch.int16) % _NIBBLE
    return (even[:, ::2] + even[:, 1::2] * _NIBBLE).to(torch.uint8)


def unpack(packed: Tensor, inputs: int) -> Tensor:
    """Return what `pack` was given, int8[out, inputs]."""
    numbers = torch.stack((packed % _NIBBLE, packed // _NIBBLE), dim=2).flatten(1)
    signed = (numbers.to(torch.int16) + _SIGN) % _NIBBLE - _SIGN
    return signed[:, :inputs].to(torch.int8)


def stored_integers(weight: Tensor, inputs: int) -> Tensor:
    """The int8[out, inputs] that a stored weight stands for: uint8 is packed, int8 is not."""
    return unpack(weight, inputs) if weight.dtype is torch.uint8 else weight


def require_stored(weight: Tensor, scale: Tensor, bias: Tensor | None, inputs: int) -> None:
    """Raise PassError unless these can be the stored weight, scales and bias of one layer.

    Looks at shapes and dtypes only.
    """
    packed = weight.dtype is torch.uint8
    columns = ceil(inputs / 2) if packed else inputs
    if weight.dim() != 2 or (not packed and weight.dtype is not torch.int8):
        raise PassError(f"a stored weight is int8 or uint8 [out, in], got {_type(weight)}")
    if weight.shape[1] != columns:
        raise PassError(
            f"a stored weight of {inputs} inputs has {columns} columns, got {_type(weight)}"
        )
    if scale.dtype is not torch.float32 or scale.shape[:1] != weight.shape[:1]:
        raise PassError(f"{weight.shape[0]} outputs need float32 scales, got {_type(scale)}")
    if bias is not None and (bias.dtype is not torch.float32 or bias.shape != weight.shape[:1]):
        raise PassError(f"{weight.shape[0]} outputs need a float32 bias each, got {_type(bias)}")


def _type(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')}{list(tensor.shape)}"
