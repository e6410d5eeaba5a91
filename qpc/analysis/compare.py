"""Where does the error come in? Two stages of a model, compared value by value."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.fx import GraphModule, Interpreter, Node

from qpc.batches import Batch, checked_batches, inputs_of
from qpc.calls import qpc_ops
from qpc.errors import PassError
from qpc.facts import require_graph
from qpc.meta import info, label, value_name
from qpc.modes import ordinary_torch
from qpc.registry import op_name
from qpc.terminal.notebook import Shown

_BRIDGES = frozenset({qpc_ops.dequantize.default, qpc_ops.observe.default})


@dataclass(frozen=True)
class LayerError:
    """How one value of the second graph differs from the first graph's.

    sqnr_db: signal-to-quantization-noise ratio, 10 log10(sum r^2 / sum (r - t)^2); inf where they
    are equal.
    cosine: cosine of the angle between the two values as vectors.
    max_error: the largest absolute difference.
    value: the traced graph's name of the value; empty for outputs.
    """

    name: str
    op: str
    sqnr_db: float
    cosine: float
    max_error: float
    value: str = ""


@dataclass(frozen=True, repr=False)
class Comparison(Shown):
    """All values that two graphs have in common, worst first."""

    layers: tuple[LayerError, ...]
    outputs: tuple[LayerError, ...]

    def _bars(self) -> tuple[str, Iterator[tuple[str, float]]]:
        return "max error", ((row.name, row.max_error) for row in self.layers)

    def __str__(self) -> str:
        return self.table()

    def table(self, most: int | None = None) -> str:
        """The worst `most` layers, or all, and the outputs, as aligned text."""
        rows = [*self.layers[:most], *self.outputs]
        width = max((len(row.name) for row in rows), default=4)
        numbers = f"{'SQNR dB':>8}  {'cosine':>9}  {'max error':>10}"
        head = f"{'layer':<{width}}  {'operator':<12}  {numbers}"
        return "\n".join([head, *(_format(row, width) for row in rows)])


@ordinary_torch()
def compare(
    reference: GraphModule,
    other: GraphModule,
    batches: Tensor | Iterable[Batch],
) -> Comparison:
    """Run two stages of one model on the same inputs and compare every value that both compute.

    reference, other: any two of the traced float graph, the fake-quantized and the integer graph
    (or graphs in which passes have replaced nodes by equivalent ones). Integers are compared as the
    reals they stand for.
    batches: one tensor, or an iterable of batches; the errors are those over all of them together.

    Raises PassError if the graphs have nothing in common or are not stages of one model, if there
    are no batches, or if a batch does not fit the graphs' inputs.
    """
    require_graph(reference, "compare")
    require_graph(other, "compare")
    sums: dict[str, _Sums] = {}
    nodes = _by_value(reference)
    common = nodes.keys() & _by_value(other).keys()
    if not common:
        raise PassError(
            "the two graphs have no value in common", fix="compare stages of the same traced model"
        )
    outputs: list[_Sums] = []
    given = [batches] if isinstance(batches, Tensor) else checked_batches(batches, "compare")
    for number, batch in enumerate(given):
        inputs = inputs_of(reference, batch, number)
        ours, our_outputs = _values(reference, inputs, common)
        theirs, their_outputs = _values(other, inputs, common)
        for name in ours.keys() & theirs.keys():
            _check_same_shape(ours[name], theirs[name], label(nodes[name]))
            sums.setdefault(name, _Sums()).add(ours[name], theirs[name])
        if len(our_outputs) != len(their_outputs):
            raise PassError(
                f"one graph has {len(our_outputs)} outputs that are tensors, "
                f"the other {len(their_outputs)}",
                fix="compare stages of the same traced model",
            )
        outputs = outputs or [_Sums() for _ in our_outputs]
        for place, (a, b) in enumerate(zip(our_outputs, their_outputs, strict=True)):
            _check_same_shape(a, b, f"output {place}")
            outputs[place].add(a, b)
    if not outputs:
        raise PassError("there are no batches to compare on")
    layers = [
        total.result(label(nodes[name]), op_name(nodes[name]), name) for name, total in sums.items()
    ]
    layers.sort(key=lambda row: (row.sqnr_db, row.name))
    results = [total.result(f"output {i}", "output") for i, total in enumerate(outputs)]
    return Comparison(tuple(layers), tuple(results))


@dataclass
class _Sums:
    """Running sums over batches, in float64."""

    signal: float = 0.0
    noise: float = 0.0
    other: float = 0.0
    product: float = 0.0
    largest: float = 0.0

    def add(self, reference: Tensor, other: Tensor) -> None:
        r, t = reference.double().flatten(), other.double().flatten()
        self.signal += float(r @ r)
        self.other += float(t @ t)
        self.product += float(r @ t)
        difference = r - t
        self.noise += float(difference @ difference)
        self.largest = max(self.largest, float(difference.abs().max()) if r.numel() else 0.0)

    def result(self, name: str, op: str, value: str = "") -> LayerError:
        if self.noise == 0.0:
            return LayerError(name, op, math.inf, 1.0, 0.0, value)
        norm = math.sqrt(self.signal * self.other)
        sqnr = 10 * math.log10(self.signal / self.noise) if self.signal else -math.inf
        cosine = self.product / norm if norm else 0.0
        return LayerError(name, op, sqnr, cosine, self.largest, value)


def _by_value(gm: GraphModule) -> dict[str, Node]:
    """The last node that holds each value: a rounded value stands for the value itself."""
    return {
        name: node
        for node in gm.graph.nodes
        if node.op == "call_function"
        and node.target not in _BRIDGES
        and (name := value_name(node)) is not None
    }


class _Recorder(Interpreter):
    def __init__(self, gm: GraphModule, wanted: Mapping[Node, str]) -> None:
        super().__init__(gm)
        self._wanted = wanted
        self.found: dict[str, Tensor] = {}

    def run_node(self, n: Node) -> object:
        value = super().run_node(n)
        if n in self._wanted and isinstance(value, Tensor):
            self.found[self._wanted[n]] = _as_real(n, value)
        return value


def _values(
    gm: GraphModule, inputs: Sequence[Tensor], common: Iterable[str]
) -> tuple[dict[str, Tensor], list[Tensor]]:
    nodes = _by_value(gm)
    recorder = _Recorder(gm, {nodes[name]: name for name in common})
    with torch.no_grad():
        result = recorder.run(*inputs)
    flat = torch.utils._pytree.tree_leaves(result)
    return recorder.found, [v for v in flat if isinstance(v, Tensor)]


def _as_real(node: Node, value: Tensor) -> Tensor:
    grid = info(node).qparams
    if grid is None or value.is_floating_point():
        return value
    return grid.dequantize(value)


def _check_same_shape(ours: Tensor, theirs: Tensor, name: str) -> None:
    if ours.shape != theirs.shape:
        raise PassError(
            f"{name} has shape {tuple(ours.shape)} in one graph and {tuple(theirs.shape)} in the"
            " other",
            fix="compare stages of the same traced model",
        )


def _format(row: LayerError, width: int) -> str:
    return (
        f"{row.name:<{width}}  {row.op:<12}  {row.sqnr_db:8.2f}  {row.cosine:9.6f}"
        f"  {row.max_error:10.4g}"
    )
