"""Batch norms that normalise with the statistics of the batches of all processes together."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.fx import GraphModule, Interpreter, Node

from qpc.compression.parallel import World
from qpc.ops.affine import BatchNorm


def with_shared_norms(gm: GraphModule, world: World) -> Callable[..., Any]:
    """What runs `gm` so that batch norms in training see the batches of all processes.

    Together the processes then compute what one would compute for the whole batch, to float
    rounding. With one process it is the graph itself.
    """
    if world.size == 1 or not any(map(BatchNorm.of, gm.graph.nodes)):
        return gm
    return _Shared(gm).run


class _Shared(Interpreter):
    """Runs a graph node by node, batch norms in training by `_shared_norm`."""

    def run_node(self, n: Node) -> Any:
        norm = BatchNorm.of(n)
        if norm is None or not norm.training:
            return super().run_node(n)
        args, kwargs = self.fetch_args_kwargs_from_env(n)
        return _shared_norm(*args, **kwargs)


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
