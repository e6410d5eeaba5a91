from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from qpc.ops.affine import BatchNorm, ChannelAffine
from qpc.testing import randomized, traced
from tests.small_models import Call

IMAGE = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))
BUFFERS = {
    "factor": torch.tensor([2.0, -0.5, 4.0])[:, None, None],
    "mean": torch.tensor([1.0, 0.0, -3.0]),
    "var": torch.tensor([0.5, 2.0, 1.0]),
}


def batch_norm(x: Tensor, mean: Tensor, var: Tensor, weight: Tensor | None = None) -> Tensor:
    return F.batch_norm(x, mean, var, weight, eps=0.1)


AFFINE: dict[str, Callable[..., Tensor]] = {
    "batch norm without parameters": lambda x, factor, mean, var: batch_norm(x, mean, var),
    "batch norm with a weight": lambda x, factor, mean, var: batch_norm(x, mean, var, weight=var),
    "product": lambda x, factor, mean, var: x * factor,
    "product, the other way round": lambda x, factor, mean, var: factor * x,
    "quotient": lambda x, factor, mean, var: x / factor,
    "sum": lambda x, factor, mean, var: factor + x,
    "difference": lambda x, factor, mean, var: x - factor,
    "difference, the other way round": lambda x, factor, mean, var: factor - x,
    "features": lambda x, factor, mean, var: x[:, :, 0, 0] * var,
    "sequences": lambda x, factor, mean, var: x[:, :, 0] + factor[:, :, 0],
}


@pytest.mark.parametrize("name", AFFINE)
def test_the_coefficients_are_those_of_the_operator(name: str) -> None:
    gm = traced(Call(AFFINE[name], **BUFFERS), IMAGE)
    (found,) = (view for n in gm.graph.nodes if (view := ChannelAffine.of(n)))
    assert all(n.op == "get_attr" for n in found.constants)
    x = IMAGE.requires_grad_(False)
    x = {"features": x[:, :, 0, 0], "sequences": x[:, :, 0]}.get(name, x)
    factor, offset = (v.reshape(3, *[1] * (x.dim() - 2)) for v in found.coefficients(gm))
    assert factor.dtype == torch.float64
    torch.testing.assert_close((x * factor + offset).float(), gm(IMAGE), rtol=1e-5, atol=1e-6)


OTHERS: dict[str, Callable[..., Tensor]] = {
    "divisor": lambda x, factor, mean, var: factor / x,
    "along two axes": lambda x, factor, mean, var: x * (factor * factor.reshape(3)[:1].expand(5)),
    "along the first axis": lambda x, factor, mean, var: x * factor.flatten()[:2, None, None, None],
    "two values": lambda x, factor, mean, var: x * x,
    "number": lambda x, factor, mean, var: x * 2,
    "more axes than the value": lambda x, factor, mean, var: x * factor[None, None],
    "one axis": lambda x, factor, mean, var: x.sum((1, 2, 3)) * mean[:1],
    "parameters only": lambda x, factor, mean, var: factor * mean,
    "statistics of the batch": lambda x, factor, mean, var: F.batch_norm(
        x, None, None, training=True
    ),
    "computed parameter": lambda x, factor, mean, var: batch_norm(
        x, mean, var, weight=x[0, :, 0, 0]
    ),
    "batch norm of a parameter": lambda x, factor, mean, var: batch_norm(factor[None], mean, var),
    "another operator": lambda x, factor, mean, var: x.relu(),
}


@pytest.mark.parametrize("name", OTHERS)
def test_anything_else_is_none(name: str) -> None:
    gm = traced(Call(OTHERS[name], **BUFFERS), IMAGE)
    assert [n for n in gm.graph.nodes if ChannelAffine.of(n)] == []


def test_a_batch_norm_in_training_is_none() -> None:
    gm = traced(randomized(nn.Sequential(nn.BatchNorm2d(3))), IMAGE)
    (norm,) = (view for n in gm.graph.nodes if (view := BatchNorm.of(n)))
    assert ChannelAffine.of(norm.node) is not None
    norm.training = True
    assert ChannelAffine.of(norm.node) is None
