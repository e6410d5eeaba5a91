"""Models in half precision, which integer graphs and CPUs have no use for."""

from __future__ import annotations

import copy
import logging

import torch
from torch import Tensor, nn

from qpc.errors import TraceError
from qpc.types import dtype_name

_log = logging.getLogger(__name__)
_HALVES = (torch.float16, torch.bfloat16)


def in_single_precision(
    model: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Tensor]
) -> tuple[nn.Module, tuple[Tensor, ...], dict[str, Tensor]]:
    """The model and its inputs, as a copy in float32 if it has parameters in half precision.

    What has other types, such as float64 or integers, keeps them. Raises TraceError if such a model
    cannot be copied.
    """
    halves = {p.dtype for p in model.parameters() if p.dtype in _HALVES}
    if not halves:
        return model, args, kwargs
    try:
        single = copy.deepcopy(model)
    except Exception as e:
        raise TraceError(
            f"{type(model).__name__} is in half precision, and cannot be copied to be made float32:"
            f" {type(e).__name__}: {e}",
            fix="qpc.trace(model.float(), example_inputs.float())",
        ) from e
    single._apply(_widened)
    names = " and ".join(sorted(map(dtype_name, halves)))
    _log.warning("%s is in %s: it is taken as float32", type(model).__name__, names)
    return single, tuple(map(_widened, args)), {name: _widened(x) for name, x in kwargs.items()}


def _widened(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.dtype in _HALVES else tensor
