"""The smallest networks that have parts of every kind."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from qpc.testing import randomized, traced


class Residual(nn.Module):
    """Two convolutions that end in one sum, and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.b = nn.Conv2d(8, 8, 3, padding=1)
        self.relu = nn.ReLU()
        self.fc = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.norm(self.a(x)))
        y = self.relu(self.b(y) + y)
        scores: Tensor = self.fc(y.mean((2, 3)))
        return scores


def residual() -> tuple[GraphModule, list[Tensor]]:
    """The network above, traced, and two batches."""
    torch.manual_seed(0)
    batches = [torch.randn(4, 3, 8, 8) for _ in range(2)]
    return traced(randomized(Residual()), batches[0]), batches


class Shared(nn.Module):
    """One convolution that is called twice, and another with the weight of a third."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(4, 4, 1)
        self.b = nn.Conv2d(4, 4, 1)
        self.c = nn.Conv2d(4, 4, 1)
        self.c.weight = self.b.weight

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.c(self.b(self.a(self.a(x))))
        return y


def chain(*widths: int) -> tuple[GraphModule, list[Tensor]]:
    """Linear layers one after the other, and a batch."""
    torch.manual_seed(0)
    layers = [nn.Linear(a, b) for a, b in itertools.pairwise(widths)]
    x = torch.randn(8, widths[0])
    return traced(nn.Sequential(*layers), x), [x]
