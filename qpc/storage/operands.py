"""What operators of a saved graph may be given, once the shapes of their inputs are known.

The tensors here have no data. PyTorch checks most of what it is given, but not all: where it does
not, a wrong size reads or writes memory that belongs to something else.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from typing import Any

from torch._ops import OpOverload

from qpc.registry import known
from qpc.storage.operators import RefusedCallError

_SIZE_LIMIT = 2**63
_SCALES = ("scales", "scales_h", "scales_w", "scales_d", "scale_factors")  # of interpolation
_LARGEST_SCALE = 1e6


def check_operands(target: object, args: Sequence[object], kwargs: Mapping[str, object]) -> None:
    """Raise RefusedCallError for what PyTorch would take although it must not."""
    if not isinstance(target, OpOverload):
        _check_sizes(target, args)
        return
    given: dict[str, Any] = dict(
        zip((p.name for p in target._schema.arguments), args, strict=False)
    ) | dict(kwargs)
    spec = known(target)
    reason = spec.refuse_in_files(given) if spec and spec.refuse_in_files else None
    if reason is not None:
        raise RefusedCallError(f"{target} {reason}")
    _check_scales(target, given)


def _check_sizes(target: object, args: Sequence[object]) -> None:
    """Arithmetic is on whole numbers that fit into 64 bits, so that it has an end."""
    if target is operator.getitem:
        if not isinstance(args[0], tuple | list) or not isinstance(args[1], int):
            raise RefusedCallError("operator.getitem takes what returns several values")
    elif not all(type(a) is int and abs(a) < _SIZE_LIMIT for a in args):
        raise RefusedCallError("arithmetic takes sizes that fit into 64 bits")


def _check_scales(target: OpOverload, given: Mapping[str, Any]) -> None:
    for name in _SCALES:
        value = given.get(name)
        for scale in value if isinstance(value, list | tuple) else (value,):
            inside = isinstance(scale, int | float) and scale >= 1 / _LARGEST_SCALE
            if scale is not None and not (inside and scale <= _LARGEST_SCALE):
                raise RefusedCallError(f"{target} takes no {scale!r} for {name!r}")
