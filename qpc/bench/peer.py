"""What a model in another runtime is."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Peer:
    """A model in another runtime.

    run: the outputs for the inputs that it was made with. call: from inputs of the same shapes to
    outputs, numpy arrays both.
    ready_s: seconds from the bytes of the file to this.
    integer_layers: how many convolutions and linear layers run in integers; float_layers: how many
    do not.
    kernels: how many of which kernels it runs.
    """

    name: str
    version: str
    run: Callable[[], list[Array]]
    ready_s: float
    integer_layers: int
    float_layers: int
    kernels: Mapping[str, int]
    call: Callable[[Sequence[Array]], list[Array]]
