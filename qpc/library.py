"""Definitions of the operators `qpc::...` in PyTorch: schema, body, and a body for shapes alone.

The PyTorch bodies of integer operators *are* the definition of the right answer. Every backend must
return the same bits as these functions, which are written to be obvious, not fast. Integer sums are
formed in floats where PyTorch has no integer kernel: all partial sums are integers that these hold
exactly, so the order does not matter. For layers `qpc.quant.exact_sums` proves it; others sum in
float64, far below 2**53. What the bodies share is in `qpc.quant.arithmetic`.

Activations are uint8 or int8 of the logical shape that the float operator had (images are NCHW).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload

NAMESPACE = "qpc"
GRID = "int output_zero_point, int lo, int hi"
"""The last arguments of operators that make values on a new grid, in a schema."""
REALS = "float? least, float? greatest"
"""The last arguments of operators that make float32 values, in a schema: what they clamp to."""
LIBRARY = torch.library.Library(NAMESPACE, "FRAGMENT")
"""Keeps the operators for as long as this module is loaded."""


def define(
    schema: str,
    body: Callable[..., Tensor],
    fake: Callable[..., Tensor],
    *,
    trains: bool = False,
) -> OpOverload[..., Any]:
    """Define an operator and return it.

    schema: as PyTorch writes it, without the namespace: "abs(Tensor q) -> Tensor".
    body: the definition, which works on tensors on the CPU.
    fake: returns an empty tensor of the result's shape and dtype, for tensors that have no data.
    trains: the operator is part of graphs that are trained, and works on tensors anywhere.
    """
    name = schema.partition("(")[0]
    LIBRARY.define(schema)
    LIBRARY.impl(name, body, "CompositeExplicitAutograd" if trains else "CPU")
    torch.library.register_fake(f"{NAMESPACE}::{name}", fake, lib=LIBRARY)
    found: OpOverload[..., Any] = getattr(getattr(torch.ops, NAMESPACE), name).default
    return found


def in_float(fake: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The `fake` of an operator whose results have the same shapes, and are float32."""

    def made(*args: Any, **kwargs: Any) -> Tensor:
        return fake(*args, **kwargs).to(torch.float32)

    return made


def like_first(q: Tensor, *_: object) -> Tensor:
    """The `fake` of operators whose result has the shape and dtype of their first argument."""
    return torch.empty_like(q)
