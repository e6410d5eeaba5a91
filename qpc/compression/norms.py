"""Batch norms that normalise with the statistics of the batches of all processes together."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.overrides import TorchFunctionMode

from qpc.calls import aten
from qpc.compression.parallel import World

_TRAINING = 5  # which argument of a batch norm says so


def shared_norms(world: World) -> AbstractContextManager[object]:
    """While this lasts, batch norms in training see the batches of all processes.

    Together the processes then compute what one would compute for the whole batch, to float
    rounding. All must run the same graph. With one process nothing is different.
    """
    return _Shared() if world.size > 1 else nullcontext()


class _Shared(TorchFunctionMode):
    """Calls `_shared_norm` in place of batch norms in training."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        training = func is aten.batch_norm.default and len(args) > _TRAINING and args[_TRAINING]
        return (_shared_norm if training else func)(*args, **(kwargs or {}))


def _shared_norm(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    training: bool,
    momentum: float,
    eps: float,
    cudnn_enabled: bool = False,
) -> Tensor:
    """`aten.batch_norm` in training over all processes; x[batch, channels, ...]."""
    others = [axis for axis in range(x.dim()) if axis != 1]
    own = torch.tensor([x.numel() // max(x.shape[1], 1)], dtype=torch.float64)
    dist.all_reduce(own)
    count = float(own)
    mean = _sum(x.sum(others)) / count
    centred = x - _channels(mean, x)
    variance = _sum(centred.square().sum(others)) / count
    with torch.no_grad():
        if running_mean is not None and running_var is not None:
            unbiased = variance * (count / max(count - 1, 1))
            running_mean.lerp_(mean, momentum)
            running_var.lerp_(unbiased, momentum)
    result = centred * _channels(torch.rsqrt(variance + eps), x)
    if weight is not None:
        result = result * _channels(weight, x)
    return result if bias is None else result + _channels(bias, x)


def _channels(values: Tensor, like: Tensor) -> Tensor:
    return values.reshape(1, -1, *[1] * (like.dim() - 2))


def _sum(value: Tensor) -> Tensor:
    total: Tensor = _Sum.apply(value)  # type: ignore[no-untyped-call]  # torch has no types for it
    return total


class _Sum(torch.autograd.Function):
    """The sum over all processes; so is that of its gradients."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        total = value.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].clone()
        dist.all_reduce(total)
        return total
