"""What operators of a saved graph may be given, once the shapes of their inputs are known.

The tensors here have no data. PyTorch checks most of what it is given, but not all: where it does
not, a wrong size reads or writes memory that belongs to something else.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload

from qpc.storage.operators import MOST_ELEMENTS, RefusedCallError

_PIECES = frozenset(
    {
        "chunk",
        "split",
        "split_with_sizes",
        "tensor_split",
        "unbind",
        "unsafe_chunk",
        "unsafe_split",
        "unsafe_split_with_sizes",
    }
)
_NORMS = frozenset(
    {
        "native_batch_norm",
        "_native_batch_norm_legit",
        "_native_batch_norm_legit_no_training",
    }
)
_WEIGHT_NORMS = frozenset({"_weight_norm", "_weight_norm_interface"})
_SIZE_LIMIT = 2**63
_SCALES = ("scales", "scales_h", "scales_w", "scales_d", "scale_factors")  # of interpolation
_LARGEST_SCALE = 1e6


def check_operands(target: object, args: Sequence[object], kwargs: Mapping[str, object]) -> None:
    """Raise RefusedCallError for what PyTorch would take although it must not."""
    if not isinstance(target, OpOverload):
        _check_sizes(target, args)
        return
    name = target._schema.name.partition("::")[2]
    given: dict[str, Any] = dict(
        zip((p.name for p in target._schema.arguments), args, strict=False)
    ) | dict(kwargs)
    if name in _PIECES:
        _check_pieces(target, given)
    elif name in _NORMS:
        _check_norm(target, given)
    elif name in _WEIGHT_NORMS:
        _check_weight_norm(target, given)
    _check_scales(target, given)


def _check_sizes(target: object, args: Sequence[object]) -> None:
    """Arithmetic is on whole numbers that fit into 64 bits, so that it has an end."""
    if target is operator.getitem:
        if not isinstance(args[0], tuple | list) or not isinstance(args[1], int):
            raise RefusedCallError("operator.getitem takes what returns several values")
    elif not all(type(a) is int and abs(a) < _SIZE_LIMIT for a in args):
        raise RefusedCallError("arithmetic takes sizes that fit into 64 bits")


def _check_pieces(target: OpOverload, given: Mapping[str, Any]) -> None:
    """There are not very many pieces: each of them would be an object."""
    source, dim = given.get("self"), given.get("dim", 0)
    if not isinstance(source, Tensor) or not isinstance(dim, int) or not source.dim():
        return
    length = source.shape[dim] if -source.dim() <= dim < source.dim() else 0
    size, count = given.get("split_size"), given.get("chunks", given.get("sections", length))
    if isinstance(size, int):
        count = length // max(size, 1)
    if isinstance(count, int) and min(count, length) > MOST_ELEMENTS:
        raise RefusedCallError(f"{target} would make more than {MOST_ELEMENTS} pieces")


def _check_norm(target: OpOverload, given: Mapping[str, Any]) -> None:
    x = given["input"]
    channels = x.shape[1] if isinstance(x, Tensor) and x.dim() > 1 else -1
    for name in ("weight", "bias", "running_mean", "running_var"):
        value = given.get(name)
        if value is not None and not (
            isinstance(value, Tensor) and value.shape == torch.Size([channels])
        ):
            raise RefusedCallError(f"{target} takes one number for each channel for {name!r}")


def _check_weight_norm(target: OpOverload, given: Mapping[str, Any]) -> None:
    v, g, dim = given["v"], given["g"], given.get("dim", 0)
    if not isinstance(v, Tensor) or not isinstance(g, Tensor):
        raise RefusedCallError(f"{target} takes tensors")
    rank = v.dim()
    if not rank or not -1 <= dim < rank:  # -1 is the norm of all, in one number
        raise RefusedCallError(f"{target} takes an axis of 'v' for 'dim', or -1")
    if g.numel() != (1 if dim == -1 else v.shape[dim]):
        raise RefusedCallError(f"{target} takes one number for each slice of 'v' for 'g'")


def _check_scales(target: OpOverload, given: Mapping[str, Any]) -> None:
    for name in _SCALES:
        value = given.get(name)
        for scale in value if isinstance(value, list | tuple) else (value,):
            inside = isinstance(scale, int | float) and scale >= 1 / _LARGEST_SCALE
            if scale is not None and not (inside and scale <= _LARGEST_SCALE):
                raise RefusedCallError(f"{target} takes no {scale!r} for {name!r}")
