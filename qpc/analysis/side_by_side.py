"""A fake-quantized graph, evaluated node by node in float and rounded, side by side.

What looks at one layer after the other, and may change it before the next, walks here: bias
correction, and all that chooses how weights are rounded. A value lives until its last reader has
been evaluated, so that the samples' values of a few layers are in memory, never those of all.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node
from torch.fx.node import map_arg

from qpc.batches import Batch, batch_length, inputs_of
from qpc.calls import qpc_ops
from qpc.errors import CalibrationError, PassError
from qpc.facts import require_graph
from qpc.meta import attribute, info
from qpc.types import BatchDim


def first_samples(
    gm: GraphModule, batches: Iterable[Batch], samples: int, purpose: str
) -> list[list[Tensor]]:
    """The first samples as one batch, or in the batches given if those cannot be joined.

    purpose: what they are for, as errors say it. Raises CalibrationError if there are none.
    """
    placeholders = [n for n in gm.graph.nodes if n.op == "placeholder"]
    gathered: list[list[Tensor]] = []
    found = 0
    for number, batch in enumerate(batches):
        gathered.append(inputs_of(gm, batch, number))
        found += batch_length(gathered[-1])
        if found >= samples:
            break
    if not gathered:
        raise CalibrationError(
            f"there are no batches to {purpose} on",
            fix="pass a list; a generator that calibration has used up is empty",
        )
    if not found:
        raise CalibrationError(
            f"the batches to {purpose} on hold no samples",
            fix="pass batches of at least one sample",
        )
    if any((info(n).shape or (None,))[0] != BatchDim() for n in placeholders):
        return gathered
    return [[torch.cat(tensors)[:samples] for tensors in zip(*gathered, strict=True)]]


def held_out(samples: list[list[Tensor]]) -> tuple[list[list[Tensor]], list[list[Tensor]]]:
    """What `first_samples` returned, as three quarters to learn from and one to judge by.

    Every fourth sample is held out, or batch if they cannot be joined; if there are fewer than
    four, all serve for both.
    """
    if len(samples) >= _JUDGED:
        kept = [s for i, s in enumerate(samples) if i % _JUDGED != _JUDGED - 1]
        return kept, samples[_JUDGED - 1 :: _JUDGED]
    lengths = {len(t) if t.dim() else 0 for batch in samples for t in batch}
    count = min(lengths, default=0)
    if len(samples) != 1 or len(lengths) != 1 or count < _JUDGED:
        return samples, samples
    chosen = torch.arange(count) % _JUDGED == _JUDGED - 1
    (tensors,) = samples
    return [[t[~chosen] for t in tensors]], [[t[chosen] for t in tensors]]


_JUDGED = 4


class SideBySide:
    """Runs a fake-quantized graph as it was in float, and rounded.

    reference: the graph whose parameters are those of the float side; without it they are those of
    `gm` itself as they are when they are come to.
    activations: whether the rounded side also rounds activations, not weights alone.
    real: whether the float side is evaluated too; without it `self.real` stays empty.

    For each node in the order of the graph: `evaluate`, whatever is to be looked at or changed,
    `release`. `real[node][i]` and `rounded[node][i]` are its values for batch i; the two are one
    tensor as long as nothing has been rounded on the way to it.
    """

    def __init__(
        self,
        gm: GraphModule,
        batches: Sequence[Sequence[Tensor]],
        reference: GraphModule | None = None,
        *,
        activations: bool = False,
        real: bool = True,
    ) -> None:
        self._gm, self._activations, self._both = gm, activations, real
        self._float = _parameters(gm, reference)
        placeholders = [n for n in gm.graph.nodes if n.op == "placeholder"]
        self.rounded: dict[Node, list[Any]] = {
            node: list(values)
            for node, values in zip(placeholders, zip(*batches, strict=True), strict=True)
        }
        self.real = dict(self.rounded) if real else {}
        self._readers_left = {node: len(node.users) for node in gm.graph.nodes}
        self._batches = range(len(batches))
        self.samples = sum(map(batch_length, batches))

    def evaluate(self, node: Node) -> None:
        """Find the values of one node; nodes come in the order of the graph."""
        if node.op == "get_attr":
            self._read(node)
        elif node.op == "call_function":
            if node.target is qpc_ops.fake_quantize.default:
                self._round(node)
                return
            if not self._both:
                self.rounded[node] = self._calls(node, self.rounded)
                return
            self.real[node] = self._calls(node, self.real)
            alike = all(self.real[n] is self.rounded[n] for n in node.all_input_nodes)
            self.rounded[node] = self.real[node] if alike else self._calls(node, self.rounded)

    def evaluate_again(self, layer: Node) -> None:
        """Find the rounded values of a layer anew, whose parameters have changed since."""
        for part in layer.all_input_nodes:
            if part.op == "get_attr":
                self._read(part)
            elif part.target is qpc_ops.fake_quantize.default:
                constants = part.all_input_nodes
                if all(n.op == "get_attr" for n in constants):
                    for constant in constants:
                        self._read(constant)
                    self.rounded[part] = self._calls(part, self.rounded)
        self.rounded[layer] = self._calls(layer, self.rounded)

    def shift(self, node: Node, axis: int, error: Tensor) -> None:
        """Subtract a number for each channel from a layer's rounded values."""
        if self.rounded[node] is self.real.get(node):
            self.rounded[node] = [value.clone() for value in self.real[node]]
        for value in self.rounded[node]:
            value.sub_(error.to(value.dtype).reshape(_along(value.dim(), axis)))

    def release(self, node: Node) -> None:
        """Forget what only this node had still to read."""
        for source in node.all_input_nodes:
            self._readers_left[source] = self._readers_left.get(source, len(source.users)) - 1
            if not self._readers_left[source]:
                self.real.pop(source, None)
                self.rounded.pop(source, None)

    def _read(self, node: Node) -> None:
        name = str(node.target)
        value = attribute(self._gm, name).detach()
        if not self._both:
            self.rounded[node] = [value for _ in self._batches]
            return
        real = value if self._float is None else self._float.get(name, torch.zeros_like(value))
        self.rounded[node] = [value for _ in self._batches]
        same = real is value or (real.dtype == value.dtype and torch.equal(real, value))
        self.real[node] = self.rounded[node] if same else [real for _ in self._batches]

    def _round(self, node: Node) -> None:
        source = node.all_input_nodes[0]
        if self._both:
            self.real[node] = self.real[source]
        if source.op == "get_attr" or self._activations:
            self.rounded[node] = self._calls(node, self.rounded)
        else:
            self.rounded[node] = self.rounded[source]

    def _calls(self, node: Node, values: Mapping[Node, list[Any]]) -> list[Any]:
        return [_call(node, {n: values[n][i] for n in node.all_input_nodes}) for i in self._batches]


def _along(dims: int, axis: int) -> list[int]:
    """The shape of one number for each index of an axis."""
    shape = [1] * dims
    shape[axis] = -1
    return shape


def output_error(
    gm: GraphModule, batches: Sequence[Sequence[Tensor]], reference: GraphModule | None = None
) -> float:
    """The squared error of a fake-quantized graph's outputs over the square of those in float.

    The mean of that of all outputs that are floats. 0.0 is perfect, 1.0 is what outputs of 0 have;
    infinite where outputs are not finite.
    """
    walk = SideBySide(gm, batches, reference, activations=True)
    errors = []
    with torch.no_grad():
        for node in gm.graph.nodes:
            if node.op != "output":
                walk.evaluate(node)
                walk.release(node)
                continue
            errors += [
                _relative_error(walk.rounded[value], walk.real[value])
                for value in node.all_input_nodes
                if info(value).dtype in _FLOATS
            ]
    mean = sum(errors) / max(len(errors), 1)
    return mean if math.isfinite(mean) else math.inf


_FLOATS = (torch.float32, torch.float64)


def decibels(error: float) -> float:
    """A relative squared error as a signal-to-noise ratio in dB."""
    return math.inf if error == 0.0 else -10.0 * math.log10(error)


def _relative_error(made: Sequence[Tensor], wanted: Sequence[Tensor]) -> float:
    pairs = list(zip(made, wanted, strict=True))
    noise = sum(float((a - b).square().sum(dtype=torch.float64)) for a, b in pairs)
    signal = sum(float(b.square().sum(dtype=torch.float64)) for _, b in pairs)
    if noise == 0.0:
        return 0.0
    return noise / signal if signal else math.inf


def _call(node: Node, values: Mapping[Node, Any]) -> object:
    assert callable(node.target)
    result: object = node.target(
        *map_arg(node.args, values.__getitem__), **map_arg(node.kwargs, values.__getitem__)
    )
    return result


def require_reference(gm: GraphModule, reference: object, what: str) -> None:
    """Raise PassError unless `reference` is the graph that `gm` was in float, or None."""
    if reference is None:
        return
    require_graph(reference, what)
    assert isinstance(reference, GraphModule)
    theirs = {n.name: n.target for n in reference.graph.nodes if n.op == "call_function"}
    for node in gm.graph.nodes:
        ours = node.op == "call_function" and node.target is not qpc_ops.fake_quantize.default
        if ours and theirs.get(node.name) is not node.target:
            raise PassError(
                f"the reference of {what} is not this graph in float: it has no {node.name!r}",
                fix="pass the graph from which the fake-quantized one was made, with batch norms "
                "folded: qpc.recipes.prepare().run(gm)",
            )


def _parameters(gm: GraphModule, reference: GraphModule | None) -> dict[str, Tensor] | None:
    """The float side's tensors by name; a parameter that is missing there counts as zeros."""
    if reference is None:
        return None
    found = {name: value.detach() for name, value in gm.named_buffers()}
    for name, value in reference.named_buffers():
        found[name] = value.detach()
    for name, value in reference.named_parameters(remove_duplicate=False):
        found[name] = value.detach()
    return found
