"""Runs of a fake-quantized graph in which only some values are rounded, from the first of them on.

The graph in float runs once for a batch; what of it the rest of the graph needs is kept, and every
rounding is then tried on that rest alone. So at most one batch's values are held.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from collections.abc import Set as AbstractSet

import torch
from torch import Tensor
from torch.fx import GraphModule, Interpreter, Node
from torch.utils import _pytree as pytree

from qpc.calls import qpc_ops
from qpc.edit import Editor
from qpc.errors import CalibrationError
from qpc.meta import copied


def output_noise(
    batches: Iterable[Sequence[Tensor]],
    graphs: Sequence[GraphModule],
    active: Callable[[GraphModule], list[Node]],
) -> list[float]:
    """What rounding does to the outputs, for each graph: noise over signal.

    batches: the inputs of the graphs. graphs: one fake-quantized graph with different grids.
    active: the calls of a graph that round; all others let their values pass.

    The ratio is sum (r - t)^2 / sum r^2 over all batches, averaged over the outputs; inf if an
    output is not finite. Raises CalibrationError if one is not without rounding either.
    """
    runs = [_Rest(gm, active(gm)) for gm in graphs]
    kept = set().union(*(run.needed for run in runs))
    sums = [NoiseSums() for _ in graphs]
    with torch.no_grad():
        for number, inputs in enumerate(batches):
            whole = _Keeping(graphs[0], kept)
            exact = tensors_of(whole.run(*inputs))
            require_finite(exact, number)
            for run, noise in zip(runs, sums, strict=True):
                noise.add(exact, tensors_of(run.outputs(inputs, whole.kept)))
    return [noise.ratio() for noise in sums]


class NoiseSums:
    """Squares of outputs and of their errors, added up in float64 over batches."""

    def __init__(self) -> None:
        self._signal: list[float] = []
        self._noise: list[float] = []

    def add(self, exact: Sequence[Tensor], other: Sequence[Tensor]) -> None:
        """The outputs for one batch."""
        if not self._signal:
            self._signal, self._noise = [0.0] * len(exact), [0.0] * len(exact)
        for place, (r, t) in enumerate(zip(exact, other, strict=True)):
            real = r.detach().double()
            self._signal[place] += float(real.square().sum())
            self._noise[place] += float((real - t.detach().double()).square().sum())

    def ratio(self) -> float:
        """The mean over the outputs of noise over signal; inf if it is no number."""
        ratios = [
            (noise / signal if signal else math.inf) if noise else 0.0
            for noise, signal in zip(self._noise, self._signal, strict=True)
        ]
        mean = sum(ratios) / len(ratios) if ratios else 0.0
        return mean if math.isfinite(mean) else math.inf


def tensors_of(outputs: object) -> list[Tensor]:
    """The tensors among the outputs of a graph."""
    return [value for value in pytree.tree_leaves(outputs) if isinstance(value, Tensor)]


def require_finite(outputs: Iterable[Tensor], batch: int) -> None:
    """Raise CalibrationError for outputs to which nothing can be compared."""
    if not all(bool(value.isfinite().all()) for value in outputs):
        raise CalibrationError(
            f"the outputs for batch {batch} are not finite, in float already",
            fix="preprocess the data exactly like the model's inputs, or mend the model",
        )


def only_rounded(gm: GraphModule, active: Iterable[Node]) -> GraphModule:
    """A copy of a fake-quantized graph that rounds by some of its calls only."""
    names = {node.name for node in active}
    made = copied(gm)
    editor = Editor(made, "only-rounded")
    for node in made.graph.find_nodes(op="call_function", target=_ROUND):
        if node.name not in names:
            editor.replace(node, node.args[0])
    editor.drop_unused()
    made.recompile()
    return made


_ROUND = qpc_ops.fake_quantize.default


class _Keeping(Interpreter):
    """Runs a graph without any rounding, and keeps some values by name."""

    def __init__(self, gm: GraphModule, wanted: AbstractSet[str]) -> None:
        super().__init__(gm)
        self._wanted = wanted
        self.kept: dict[str, object] = {}

    def run_node(self, n: Node) -> object:
        value = self.env[n.all_input_nodes[0]] if n.target is _ROUND else super().run_node(n)
        if n.name in self._wanted:
            self.kept[n.name] = value
        return value


class _Rest(Interpreter):
    """Runs what depends on some roundings, given all other values."""

    def __init__(self, gm: GraphModule, active: Iterable[Node]) -> None:
        super().__init__(gm)
        self._active = set(active)
        # Graphs have different constants under equal names: the scales of their grids.
        self._affected: set[Node] = set(gm.graph.find_nodes(op="get_attr"))
        for node in gm.graph.nodes:
            values = (source for source in node.all_input_nodes if source.op != "get_attr")
            if node in self._active or not self._affected.isdisjoint(values):
                self._affected.add(node)
        self._affected.update(gm.graph.find_nodes(op="output"))
        inputs = (source for node in self._affected for source in node.all_input_nodes)
        self._frontier = {node for node in inputs if node not in self._affected}
        self.needed = {node.name for node in self._frontier}

    def outputs(self, inputs: Sequence[Tensor], values: dict[str, object]) -> object:
        """The outputs for inputs, given what `_Keeping` kept of them."""
        return self.run(*inputs, initial_env={n: values[n.name] for n in self._frontier})

    def run_node(self, n: Node) -> object:
        if n not in self._affected:
            return None  # nobody asks for it
        if n.target is _ROUND and n not in self._active:
            return self.env[n.all_input_nodes[0]]
        return super().run_node(n)
