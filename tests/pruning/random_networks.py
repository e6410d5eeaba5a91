"""Random networks of the layers that tie channels in many ways."""

from __future__ import annotations

import random
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qpc.testing import randomized
from tests.pruning.cases import conv, shuffled

_SIDE = 6


class RandomNetwork(nn.Module):
    """Grows a pool of images [n, c, 6, 6] by random layers; a classifier reads the last ones.

    Calls of `forward` repeat the steps that were chosen when it was built.
    """

    def __init__(self, seed: int, steps: int) -> None:
        super().__init__()
        self._choose = random.Random(seed)
        self._layers = nn.ModuleList()
        self._steps: list[Callable[[list[Tensor]], Tensor]] = []
        self._channels = [3]
        torch.manual_seed(seed)
        kinds = (
            *(self._conv,) * 3,
            *(self._add,) * 3,
            self._grouped,
            self._depthwise,
            self._linear,
            self._norm,
            self._mul,
            self._gate,
            self._cat,
            self._split,
            self._shuffle,
            self._attention,
        )
        self._conv()
        while len(self._steps) < steps:
            self._choose.choice(kinds)()
        last = range(max(1, len(self._channels) - 2), len(self._channels))
        head = self._layer(nn.Linear(sum(self._channels[i] for i in last) * _SIDE**2, 5))
        self._head: Callable[[list[Tensor]], Tensor] = lambda pool: head(
            torch.cat([pool[i].flatten(1) for i in last], 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        pool = [x]
        for step in self._steps:
            pool.append(step(pool))
        y: Tensor = self._head(pool)
        return y

    # --- steps: each chooses an image, adds a function that makes another, notes its channels -----

    def _pick(self) -> int:
        """One of the last images, by its place in the pool."""
        return self._choose.randrange(max(1, len(self._channels) - 4), len(self._channels))

    def _layer(self, module: nn.Module) -> nn.Module:
        self._layers.append(module)
        return module

    def _step(self, channels: int, function: Callable[[list[Tensor]], Tensor]) -> None:
        self._channels.append(channels)
        self._steps.append(function)

    def _conv(self) -> None:
        source, channels = len(self._channels) - 1, self._choose.choice((4, 6, 8, 12))
        kernel = self._choose.choice((1, 3))
        layer = self._layer(conv(self._channels[source], channels, kernel))
        self._step(channels, lambda pool: layer(pool[source]).relu())

    def _grouped(self) -> None:
        source = self._pick()
        channels = self._channels[source]
        groups = self._choose.choice([d for d in (2, 3, 4) if channels % d == 0] or [1])
        outputs = groups * self._choose.choice((1, 2, 3))
        layer = self._layer(conv(channels, outputs, groups=groups))
        self._step(outputs, lambda pool: layer(pool[source]))

    def _depthwise(self) -> None:
        source = self._pick()
        channels = self._channels[source]
        outputs = channels * self._choose.choice((1, 1, 2))
        layer = self._layer(conv(channels, outputs, groups=channels))
        self._step(outputs, lambda pool: layer(pool[source]))

    def _linear(self) -> None:
        source, outputs = self._pick(), self._choose.choice((4, 6, 8))
        layer = self._layer(nn.Linear(self._channels[source], outputs))

        def step(pool: list[Tensor]) -> Tensor:
            y: Tensor = layer(pool[source].permute(0, 2, 3, 1))
            return y.permute(0, 3, 1, 2)

        self._step(outputs, step)

    def _norm(self) -> None:
        source = self._pick()
        channels = self._channels[source]
        layer = self._layer(nn.BatchNorm2d(channels))
        self._step(channels, lambda pool: layer(pool[source]).relu())

    def _partner(self, source: int) -> Callable[[list[Tensor]], Tensor]:
        """An image with as many channels as another: one that there is, or a new convolution's."""
        channels = self._channels[source]
        twins = [i for i in range(1, len(self._channels)) if self._channels[i] == channels]
        if self._choose.random() < 0.5:
            twin = self._choose.choice(twins)
            return lambda pool: pool[twin]
        other = self._pick()
        layer = self._layer(conv(self._channels[other], channels))
        return lambda pool: layer(pool[other])

    def _add(self) -> None:
        source = self._pick()
        partner = self._partner(source)
        self._step(self._channels[source], lambda pool: pool[source] + partner(pool))

    def _mul(self) -> None:
        source = self._pick()
        partner = self._partner(source)
        self._step(self._channels[source], lambda pool: pool[source] * partner(pool).tanh())

    def _gate(self) -> None:
        source = self._pick()
        channels = self._channels[source]
        layer = self._layer(conv(channels, channels, 1))

        def step(pool: list[Tensor]) -> Tensor:
            gate: Tensor = layer(pool[source].mean((2, 3), keepdim=True))
            return pool[source] * gate.sigmoid()

        self._step(channels, step)

    def _cat(self) -> None:
        sources = [self._pick() for _ in range(self._choose.choice((2, 2, 3)))]
        channels = sum(self._channels[i] for i in sources)
        self._step(channels, lambda pool: torch.cat([pool[i] for i in sources], 1))

    def _split(self) -> None:
        """Two pieces; the first goes through a convolution, and they come together swapped."""
        source = self._pick()
        channels = self._channels[source]
        place = self._choose.randrange(1, channels) if channels > 1 else 0
        if place == 0:
            return
        layer = self._layer(conv(place, place))

        def step(pool: list[Tensor]) -> Tensor:
            first, second = pool[source].split([place, channels - place], 1)
            return torch.cat([second, layer(first)], 1)

        self._step(channels, step)

    def _shuffle(self) -> None:
        source = self._pick()
        channels = self._channels[source]
        groups = self._choose.choice([d for d in range(1, channels + 1) if channels % d == 0])
        self._step(channels, lambda pool: shuffled(pool[source], groups))

    def _attention(self) -> None:
        source = self._pick()
        channels, heads = self._channels[source], self._choose.choice((1, 2))
        qkv = self._layer(nn.Linear(channels, 3 * 8))
        out = self._layer(nn.Linear(8, channels))

        def step(pool: list[Tensor]) -> Tensor:
            tokens = pool[source].flatten(2).transpose(1, 2)
            parts = qkv(tokens).reshape(-1, _SIDE**2, 3, heads, 8 // heads).permute(2, 0, 3, 1, 4)
            q, k, v = parts.unbind(0)
            y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(-1, _SIDE**2, 8)
            mixed: Tensor = (tokens + out(y)).transpose(1, 2)
            return mixed.reshape(-1, channels, _SIDE, _SIDE)

        self._step(channels, step)


def random_network(seed: int, steps: int = 12) -> tuple[nn.Module, tuple[Tensor, ...]]:
    """A network and two samples."""
    network = randomized(RandomNetwork(seed, steps), seed)
    for parameter in network.parameters():
        parameter.data /= 2  # or products of products grow beyond measure
    generator = torch.Generator().manual_seed(seed)
    return network, (torch.randn(2, 3, _SIDE, _SIDE, generator=generator),)
