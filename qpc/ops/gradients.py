"""Gradients at the operators that quantization puts between float ones."""

from __future__ import annotations

from typing import Any, NoReturn

import torch
from torch import Tensor

from qpc.errors import PassError


def register(library: torch.library.Library) -> None:
    """Tell autograd what `qpc::observe` and `qpc::fake_quantize` do, in the library of both.

    An observer passes gradients on. Rounding has the gradient 0 wherever it has one, so that a
    model would learn nothing and say nothing: a backward pass through it is an error.
    """
    torch.library.register_autograd("qpc::observe", _pass_on, lib=library)
    torch.library.register_autograd("qpc::fake_quantize", _refuse, lib=library)


def _pass_on(context: Any, gradient: Tensor) -> tuple[Tensor, None]:
    return gradient, None


def _refuse(context: Any, gradient: Tensor) -> NoReturn:
    raise PassError(
        "gradients cannot pass qpc::fake_quantize: rounding has none that a model could learn from",
        fix="train or prune the float graph that qpc.trace returned, then quantize it",
    )
