"""What ONNX models compute from constants alone, computed when they are read.

Exporters write out how the sizes of a padding are turned around, step by step. While a model is
traced such numbers would be values of tensors, which nobody knows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from qpc.errors import QPCError
from qpc.importers.onnx.operators import RULES
from qpc.importers.onnx.values import Call

_MOST = 64  # numbers in a constant that a shape may be made of
_KINDS = (
    *("Add", "Cast", "Concat", "ConstantOfShape", "Gather", "Identity", "Mul", "Neg"),
    *("Reshape", "Slice", "Squeeze", "Sub", "Transpose", "Unsqueeze"),
)
_WHOLE = {"int64": torch.int64, "int32": torch.int32}


def folded(calls: Sequence[Call], constants: dict[str, Any]) -> Iterator[Call]:
    """The calls that are left; adds to `constants` what the others compute: few whole numbers."""
    for call in calls:
        made = _computed(call, constants)
        if made is None:
            yield call
        else:
            constants[call.outputs[0]] = made.numpy()


def _computed(call: Call, constants: Mapping[str, Any]) -> Tensor | None:
    """What a call returns; None unless that is known, and small."""
    given = [constants.get(name) for name in call.inputs if name]
    if call.kind not in _KINDS or "" in call.inputs or not given or len(call.outputs) > 1:
        return None
    if any(a is None or str(a.dtype) not in _WHOLE or a.size > _MOST for a in given):
        return None
    tensors = [torch.from_numpy(a.copy()) for a in given if a is not None]
    if call.kind == "ConstantOfShape" and tensors[0].double().prod().abs() > _MOST:
        return None
    try:
        made = RULES[call.kind](call, *tensors)
    except (QPCError, RuntimeError, TypeError, ValueError, KeyError, IndexError):
        return None  # and whoever runs the model is told why
    made = torch.tensor(made) if isinstance(made, list) else made
    whole = isinstance(made, Tensor) and made.dtype in _WHOLE.values()
    return made if whole and made.numel() <= _MOST else None
