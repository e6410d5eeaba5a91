"""How the conformance set of channel pruning is written down.

A case is a function that returns a network and its inputs' shapes; its name says what it shows.
Inputs are given without the batch. `conformance` collects all cases.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from qpc.testing import randomized

Shapes = tuple[tuple[int, ...], ...]
Built = tuple[nn.Module, Shapes]
IMAGE: Shapes = ((3, 8, 8),)
TOKENS: Shapes = ((6, 8),)


@dataclass(frozen=True)
class Case:
    """One network.

    build: makes it anew; heads: passed on to the analysis; quick: part of the default test run, as
    the first variant of everything is.
    """

    name: str
    build: Callable[[], Built]
    heads: tuple[str, ...] = ()
    quick: bool = True

    def network(self) -> tuple[nn.Module, tuple[Tensor, ...]]:
        """The network with random weights, and two samples."""
        torch.manual_seed(0)
        model, shapes = self.build()
        counts = any(isinstance(module, nn.Embedding) for module in model.modules())
        make = partial(torch.randint, 0, 7) if counts else torch.randn
        return randomized(model), tuple(make((2, *shape)) for shape in shapes)


CASES: list[Case] = []
"""All cases of the modules that have been imported; see `conformance`."""


def case(build: Callable[[], Built]) -> Callable[[], Built]:
    """Add a network under the name of its function."""
    CASES.append(Case(build.__name__, build))
    return build


def cases(
    variants: dict[str, Any], *, heads: bool = False
) -> Callable[[Callable[[Any], Built]], None]:
    """Add one network for each variant, named after the function and the variant."""

    def add(build: Callable[[Any], Built]) -> None:
        for position, (name, variant) in enumerate(variants.items()):
            full = f"{build.__name__}_{name}"
            chosen = ("*",) if heads else ()
            CASES.append(Case(full, partial(build, variant), chosen, position == 0))

    return add


class Net(nn.Module):
    """Layers and parameters by name, and a forward method given as a function of them."""

    def __init__(self, function: Callable[..., Any], **parts: nn.Module | Tensor | None) -> None:
        super().__init__()
        self.function = function
        for name, part in parts.items():
            if isinstance(part, nn.Parameter):
                self.register_parameter(name, part)
            elif isinstance(part, Tensor):
                self.register_buffer(name, part)
            else:
                self.add_module(name, part)

    def forward(self, *inputs: Tensor) -> Any:
        return self.function(self, *inputs)


def conv(i: int, o: int, k: int = 3, **options: Any) -> nn.Conv2d:
    return nn.Conv2d(i, o, k, padding=options.pop("padding", k // 2), **options)


def conv_bn(i: int, o: int, k: int = 3, **options: Any) -> nn.Sequential:
    return nn.Sequential(conv(i, o, k, bias=False, **options), nn.BatchNorm2d(o), nn.ReLU())


def weight(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(shape))


def images(function: Callable[..., Any], **parts: nn.Module | Tensor | None) -> Built:
    """A network on an image; layers `a` (3 to 8 channels) and `z` (8 to 2) need not be given."""
    parts = {"a": conv(3, 8), "z": conv(8, 2)} | parts
    return Net(function, **parts), IMAGE


def tokens(function: Callable[..., Any], **parts: nn.Module | Tensor | None) -> Built:
    """A network on 6 tokens; layers `a` (8 to 8 features) and `z` (8 to 2) need not be given."""
    parts = {"a": nn.Linear(8, 8), "z": nn.Linear(8, 2)} | parts
    return Net(function, **parts), TOKENS


def shuffled(x: Tensor, groups: int) -> Tensor:
    n, c, h, w = x.shape
    return x.view(n, groups, c // groups, h, w).transpose(1, 2).reshape(n, c, h, w)


def heads_of(x: Tensor, heads: int) -> Tensor:
    return x.reshape(x.shape[0], x.shape[1], heads, -1).transpose(1, 2)


def merged(x: Tensor) -> Tensor:
    return x.transpose(1, 2).reshape(x.shape[0], x.shape[2], -1)
