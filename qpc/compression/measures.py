"""What a model costs: multiplications, parameters, bytes, and milliseconds on this machine."""

from __future__ import annotations

import math
from collections.abc import Callable
from numbers import Real
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.fx import GraphModule

from qpc.channels.cost import cost
from qpc.compiler import compile as compiled
from qpc.compression.recipe import Compile
from qpc.compression.result import Row
from qpc.errors import CompressionError
from qpc.hashing import fingerprint
from qpc.meta import copied

Timer = Callable[[GraphModule, Compile], float]
"""From a graph to the milliseconds of a call of it, compiled."""


def measured(
    gm: GraphModule, name: str, metric: float, *, candidate: bool, latency_ms: float | None
) -> Row:
    """The row of a model."""
    total = cost(gm)
    return Row(
        name,
        candidate,
        metric,
        total.macs,
        total.parameters,
        tensor_bytes(gm),
        latency_ms,
        fingerprint(gm),
    )


def tensor_bytes(gm: GraphModule) -> int:
    """Bytes of all parameters and buffers, each counted once."""
    storages: dict[int, Tensor] = {id(t): t for t in (*gm.parameters(), *gm.buffers())}
    return sum(t.numel() * t.element_size() for t in storages.values())


def latency_ms(gm: GraphModule, options: Compile) -> float:
    """The median time of a call of the compiled graph on this machine, on random inputs."""
    model = compiled(gm, options.target, batch_sizes=(options.batch_size,), threads=options.threads)
    return float(model.benchmark(repeats=options.repeats).median_ms)


def save_compiled(gm: GraphModule, options: Compile, path: Path) -> None:
    """Compile a graph and save it, if its backend can."""
    model = compiled(gm, options.target, batch_sizes=(options.batch_size,), threads=options.threads)
    save = getattr(model, "save", None)
    if save is not None:
        save(path)


def judged(
    gm: GraphModule, evaluate: Callable[[GraphModule], float], name: str, device: torch.device
) -> float:
    """What the user's function says of a copy of the graph.

    Raises CompressionError if that is no finite number.
    """
    copy = copied(gm)
    if any(True for _ in gm.parameters()):
        copy = copy.to(device)  # graphs of integers have buffers only, and run on the CPU
    with torch.no_grad():
        value: object = evaluate(copy)
    if isinstance(value, Tensor | np.ndarray) and math.prod(value.shape) == 1:
        value = value.item()
    if isinstance(value, bool | np.bool_) or not isinstance(value, Real):
        raise CompressionError(
            f"evaluate returned {type(value).__name__} for {name!r}, not a number",
            fix="return one number, such as the share of samples that are right",
        )
    if not math.isfinite(value):
        raise CompressionError(
            f"evaluate returned {float(value)} for {name!r}",
            fix="return a finite number; if the model itself has become NaN, lower the learning"
            " rate of the step before",
        )
    return float(value)
