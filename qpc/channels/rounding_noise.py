"""The scales of channels with which rounding to grids is expected to harm layers least.

A layer reads values that have one grid for all channels, of the step `d`, and has weights with one
grid for each output, of the step `d[o]`. If the errors of rounding are spread evenly over a step
and independent, those of channels that are divided by s[c], and their weights multiplied, add to
the power of what the layer makes

    d**2 / 12 * sum W[o, c]**2 * s[c]**2     with   d = max |x[c]| / s[c] / 255
    d[o]**2 / 12 * sum x[c]**2 / s[c]**2     with   d[o] = max |W[o, c]| * s[c] / 127

where sums are over outputs too. A residual stream hands the errors of each of its sums on to the
layers behind. What all layers that read a group of channels suffer, each relative to the power of
what it makes, is a smooth function of s, once maxima are norms of a high power; it is minimised by
gradient descent from s = 1, so that scales that are good stay.

Channels that were hardly seen are not trusted: they count as having an eighth of the largest range
at least, and no factor is beyond 8. What a few images do not reach others may.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.fx import GraphModule, Interpreter, Node

from qpc.batches import Batch
from qpc.calls import aten
from qpc.channels.extents import run_batches
from qpc.channels.scaling import Columns, Scaling, layer_of
from qpc.errors import CalibrationError
from qpc.layers import outputs_first
from qpc.meta import attribute, label

_STEPS, _RATE = 100, 0.05
_MOST = 8.0  # the largest factor, and by how much ranges of channels are taken to differ
_POWER = 16.0  # of the norm that stands for a maximum
_OUTPUTS = 128  # of a layer, so many are looked at for the steps of its weights
_SUMS = (aten.add.Tensor, aten.sub.Tensor)


@dataclass
class Statistics:
    """Of a value, by channel, and of a layer as a whole, over all batches.

    largest: magnitude, float64[channels]. squares: mean, of each channel; or of all, float64[].
    """

    largest: Tensor
    squares: Tensor
    batches: int = 1

    def join(self, other: Statistics) -> None:
        """Count one more batch."""
        self.largest = torch.maximum(self.largest, other.largest)
        self.squares = self.squares + other.squares
        self.batches += 1

    @property
    def power(self) -> Tensor:
        """The mean square over batches."""
        return self.squares / self.batches


def measured_statistics(
    gm: GraphModule, scaling: Scaling, batches: Iterable[Batch], purpose: str
) -> dict[Node, Statistics]:
    """Statistics of all values that layers read as `scaling` has it, and of what these make.

    One batch is in memory at a time. Raises CalibrationError without batches, and for values that
    are not finite.
    """
    watcher = _Watcher(gm, scaling.read)
    run_batches(watcher, gm, batches, purpose)
    return watcher.found


class _Watcher(Interpreter):
    def __init__(self, gm: GraphModule, read: Sequence[Columns]) -> None:
        super().__init__(gm)
        self._axes: dict[Node, int | None] = dict.fromkeys(columns.node for columns in read)
        self._axes |= {columns.value: columns.axis for columns in read}
        self._made = {columns.node for columns in read}
        self.found: dict[Node, Statistics] = {}

    def run_node(self, n: Node) -> object:
        value = super().run_node(n)
        if n in self._axes and isinstance(value, Tensor) and value.numel():
            found = _statistics(value, self._axes[n])
            if not bool(found.squares.isfinite().all()):
                raise CalibrationError(f"the values of {label(n)} are not finite", node=n)
            if n in self.found:
                self.found[n].join(found)
            else:
                self.found[n] = found
        return value


def _statistics(value: Tensor, axis: int | None) -> Statistics:
    if axis is None:
        return Statistics(value.abs().amax().double(), value.double().square().mean())
    rows = value.detach().movedim(axis, 0).flatten(1)
    return Statistics(rows.abs().amax(1).double(), rows.square().mean(1).double())


@dataclass(frozen=True)
class _Reader:
    """A layer; weights float64[groups, out, in], of some outputs only for `largest`.

    shares: by how much the sampled outputs stand for all. power: mean square of what it makes,
    times the number of its outputs.
    """

    value: Node
    channels: Tensor
    largest: Tensor
    squares: Tensor
    shares: float
    taps: int
    power: Tensor


def least_noise_scales(
    gm: GraphModule, part: Scaling, found: Mapping[Node, Statistics], free: Tensor
) -> Tensor:
    """Scales of a part's units, float64[units], 1.0 for those that are not `free`, bool[units].

    found: `measured_statistics`.
    """
    noise, ones = rounding_noise(gm, part, found), torch.ones(part.units, dtype=torch.float64)
    if not part.read or not bool(free.any()):
        return ones
    logs = torch.zeros_like(ones, requires_grad=True)
    most = math.log(_MOST)
    optimizer = torch.optim.Adam([logs], _RATE)
    with torch.enable_grad():
        for _ in range(_STEPS):
            optimizer.zero_grad()
            noise(torch.where(free, logs, 0.0).exp()).backward()
            optimizer.step()
            logs.data.clamp_(-most, most)
    scales = torch.where(free, logs.detach(), 0.0).exp()
    return scales if bool(noise(scales) < noise(ones)) else ones


def rounding_noise(
    gm: GraphModule, part: Scaling, found: Mapping[Node, Statistics]
) -> Callable[[Tensor], Tensor]:
    """What rounding adds to the power of the layers that read a part, each relative to its own.

    As a function of the scales of all units, float64[units] -> float64[].
    """
    order = {node: place for place, node in enumerate(gm.graph.nodes)}
    read = sorted(part.read, key=lambda columns: order[columns.node])
    readers = [_reader(gm, c, found) for c in read if c.node in found and c.value in found]
    return lambda scales: _noise(readers, found, scales)


def _reader(gm: GraphModule, columns: Columns, found: Mapping[Node, Statistics]) -> _Reader:
    layer = layer_of(columns.node)
    weight = attribute(gm, str(layer.weight.target)).detach().double()
    weight = outputs_first(weight, layer.output_axis, layer.groups)
    each = len(weight) // layer.groups
    weight = weight.reshape(layer.groups, each, weight.shape[1], -1)
    sampled = weight[:, :: -(-each // _OUTPUTS)]
    return _Reader(
        columns.value,
        columns.channels,
        sampled.abs().amax(3),
        weight.square().sum((1, 3)),
        each / sampled.shape[1],
        weight.shape[3],
        found[columns.node].power.mean() * layer.groups * each,
    )


def _noise(readers: Sequence[_Reader], found: Mapping[Node, Statistics], scales: Tensor) -> Tensor:
    total, handed_on = torch.zeros((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    values: dict[Node, Tensor] = {}
    for reader in readers:
        about, own = found[reader.value], scales[reader.channels]
        if reader.value not in values:
            ranges = about.largest.clamp_min(float(about.largest.amax()) / _MOST)
            noise = (_maximum(ranges / own, 0) / 255.0).square() / 12.0
            if _of_sum(reader.value):
                noise = handed_on = noise + handed_on
            values[reader.value] = noise
        by_group = own.reshape(len(reader.squares), 1, -1)
        of_values = values[reader.value] * (reader.squares * by_group[:, 0].square()).sum()
        steps = (_maximum(reader.largest * by_group, 2) / 127.0).square() / 12.0
        spread = (about.power / own.square()).reshape(by_group.shape).sum(2) * reader.taps
        total = total + (of_values + reader.shares * (steps * spread).sum()) / reader.power
    return total


def _maximum(values: Tensor, dim: int) -> Tensor:
    largest = values.detach().amax(dim, keepdim=True).clamp_min(1e-30)
    powers = (values / largest).pow(_POWER).sum(dim).clamp_min(1e-30)
    return largest.squeeze(dim) * powers.pow(1.0 / _POWER)


def _of_sum(value: Node) -> bool:
    """Whether a value is a sum, or what a function of one value, such as ReLU, makes of one."""
    return value.target in _SUMS or any(n.target in _SUMS for n in value.all_input_nodes)
