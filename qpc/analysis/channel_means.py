"""The mean of each channel of what layers make, over all samples and places."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from torch import Tensor


@dataclass
class ChannelMeans:
    """Means of layers in float, recorded while something else runs the graph.

    samples: over how many samples, the first ones, at most.
    seen: how many there have been.
    """

    samples: int
    seen: int = 0
    _values: dict[str, tuple[Tensor, int]] = field(default_factory=dict)

    def clear(self) -> None:
        """Forget everything."""
        self.seen = 0
        self._values.clear()

    @property
    def left(self) -> int:
        """How many samples are still to come."""
        return max(self.samples - self.seen, 0)

    def add(self, name: str, value: Tensor, axis: int) -> None:
        """More values of a layer, whose channels lie along `axis`."""
        sums, count = channel_sums(value, axis), value.numel() // max(value.shape[axis], 1)
        if name in self._values:
            earlier, places = self._values[name]
            sums, count = sums + earlier, count + places
        self._values[name] = sums, count

    def covers(self, names: Iterable[str], samples: int) -> bool:
        """Whether the means of all these layers over so many samples are known."""
        return self.samples == samples and all(name in self._values for name in names)

    def of(self, name: str) -> Tensor:
        """The means of a layer, float64[channels]."""
        sums, count = self._values[name]
        return sums / max(count, 1)


def channel_means(values: Sequence[Tensor], axis: int) -> Tensor:
    """The mean of each channel over all of `values`, which are batches: float64[channels]."""
    found = ChannelMeans(samples=0)
    for value in values:
        found.add("", value, axis)
    return found.of("")


def channel_sums(value: Tensor, axis: int) -> Tensor:
    """The sum of each channel, float64[channels].

    The sums over the axes behind the first are formed in float32, by halves, and are off by a few
    parts in 10**7 of the mean magnitude; those over samples in float64.
    """
    axis = axis % value.dim()
    inner = [d for d in range(1, value.dim()) if d != axis]
    partial = value.sum(inner) if inner else value
    return partial.double().sum(0) if axis else partial.double()
