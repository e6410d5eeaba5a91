"""What each integer operator does to the outputs by itself, everything else in float.

A value's grid belongs to the operator that makes the value. So an operator is given the float
values rounded to the grids on which it reads them, and what it makes of them is compared with what
the float model makes of the same rounded values. That difference, and nothing else, is its own
error: of its weights, bias and multiplier, and of the grid of its result. Added to the float value
it goes through the rest of the float model, to the outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from qpc.batches import Batch, checked_batches, inputs_of
from qpc.calls import qpc_ops
from qpc.errors import PassError
from qpc.explanation.float_runs import affected, all_values, depending, output_of, run_rest
from qpc.explanation.inspection import in_integers
from qpc.meta import attribute, info, value_name
from qpc.precision.partial_runs import NoiseSums, require_finite, tensors_of
from qpc.quant.grid import QParams

_SOME = 2  # samples, between which something may differ
_SLACK = 0.5
"""Steps of a grid by which a value may lie outside of it before it counts as clipped."""


@dataclass(frozen=True)
class OwnError:
    """The own error of one integer operator.

    node: its name in the integer graph; value: the float model's name for what it makes.
    noise: squared error of the outputs over their squares, everything else in float.
    local_noise: the same of its own result. gain: by what factor its result is too large, as the
    best fit has it. clipped: share of the float values that lie outside of its grid. reach: the
    greatest of them over the end of the grid on its side; used: the share of the grid that they
    need.
    """

    node: str
    value: str
    noise: float
    local_noise: float
    gain: float
    clipped: float
    reach: float
    used: float


@dataclass(frozen=True)
class Errors:
    """The own errors of all operators.

    noise: of the whole integer model, as in `OwnError`. varying: the share of the outputs' squares
    that is not the same for all samples; 1 for a single sample, of which nobody can tell.
    """

    operators: tuple[OwnError, ...]
    noise: float
    varying: float


def measurable(reference: GraphModule, integer: GraphModule) -> list[Node]:
    """The integer operators that make a value which the float model has, too."""
    known = {node.name for node in reference.graph.nodes if node.op != "get_attr"}
    found = []
    for node in integer.graph.nodes:
        if node.op != "call_function" or value_name(node) not in known:
            continue
        on_grid = info(node).dtype in _INTEGERS and info(node).qparams is not None
        if on_grid or (info(node).dtype is torch.float32 and in_integers(node)):
            found.append(node)
    last = {value_name(node): node for node in found if node.target is not _QUANTIZE}
    return [n for n in found if n.target is _QUANTIZE or last[value_name(n)] is n]


_QUANTIZE = qpc_ops.quantize.default
_INTEGERS = (torch.int8, torch.uint8)


def own_errors(
    reference: GraphModule,
    integer: GraphModule,
    batches: Iterable[Batch],
    *,
    told: Callable[[int, int], None] = lambda done, total: None,
) -> Errors:
    """The own error of every measurable operator, and that of the whole integer model.

    reference: the traced float graph. integer: an integer graph made of it. batches: as for
    `qpc.compare`; one batch's values are kept at a time. told: how many operators are done.

    Raises PassError if the graphs have nothing in common or there are no batches, CalibrationError
    for batches that do not fit and outputs that are not finite.
    """
    nodes = measurable(reference, integer)
    if not nodes:
        raise PassError(
            "the two graphs have no value in common",
            fix="pass the traced graph, and the integer graph that was made of it",
        )
    given = list(checked_batches(batches, "explain"))
    if not given:
        raise PassError("there are no batches to explain with")
    sums = {node: _Sums() for node in nodes}
    whole, varying = NoiseSums(), _Varying()
    downstream = {n: affected(reference, str(value_name(n))) for n in nodes}
    with torch.no_grad():
        for number, batch in enumerate(given):
            inputs = inputs_of(reference, batch, number)
            values = all_values(reference, inputs)
            exact = tensors_of(values[output_of(reference).name])
            require_finite(exact, number)
            whole.add(exact, tensors_of(integer(*inputs)))
            varying.add(exact)
            for place, node in enumerate(nodes):
                one = _One(reference, integer, values, node)
                error, grid = one.error(), one.grid
                sums[node].add(values[one.value], error, grid)
                changed = values[one.value] + error
                rest = run_rest(reference, downstream[node], values, one.value, changed)
                sums[node].output.add(exact, tensors_of(rest))
                told(number * len(nodes) + place + 1, len(given) * len(nodes))
    results = tuple(sums[node].result(node) for node in nodes)
    return Errors(results, whole.ratio(), varying.share())


# --- one operator ---------------------------------------------------------------------------------


@dataclass
class _Sums:
    """What adds up over batches about one operator, in float64."""

    output: NoiseSums = field(default_factory=NoiseSums)
    signal: float = 0.0
    noise: float = 0.0
    product: float = 0.0
    clipped: int = 0
    count: int = 0
    least: float = 0.0
    greatest: float = 0.0
    ends: tuple[float, float] = (0.0, 0.0)

    def add(self, value: Tensor, error: Tensor, grid: QParams | None) -> None:
        r, e = value.double().flatten(), error.double().flatten()
        self.signal += float(r @ r)
        self.noise += float(e @ e)
        self.product += float(r @ (r + e))
        self.count += r.numel()
        if grid is not None:
            self.ends = lo, hi = grid.real_range
            slack = _SLACK * grid.scale
            self.clipped += int(((r < lo - slack) | (r > hi + slack)).sum())
        self.least = min(self.least, float(r.min()) if r.numel() else 0.0)
        self.greatest = max(self.greatest, float(r.max()) if r.numel() else 0.0)

    def result(self, node: Node) -> OwnError:
        lo, hi = self.ends
        over = [v / end for v, end in ((self.least, lo), (self.greatest, hi)) if end]
        width = hi - lo
        return OwnError(
            node=node.name,
            value=str(value_name(node)),
            noise=self.output.ratio(),
            local_noise=self.noise / self.signal if self.signal else float(self.noise > 0),
            gain=self.product / self.signal if self.signal else 1.0,
            clipped=self.clipped / max(self.count, 1),
            reach=max(over, default=0.0),
            used=(self.greatest - self.least) / width if width else 1.0,
        )


class _Varying:
    """How much of the outputs differs between samples, in float64."""

    def __init__(self) -> None:
        self._sums: list[Tensor] = []
        self._squares: list[float] = []
        self._count = 0

    def add(self, outputs: Sequence[Tensor]) -> None:
        """The outputs for one batch, with the samples along the first axis."""
        real = [value.detach().double() for value in outputs if value.dim()]
        if not self._sums:
            self._sums = [torch.zeros_like(value[0]) for value in real]
            self._squares = [0.0] * len(real)
        self._count += len(real[0]) if real else 0
        for place, value in enumerate(real):
            if value.shape[1:] == self._sums[place].shape:
                self._sums[place] = self._sums[place] + value.sum(0)
                self._squares[place] += float(value.square().sum())

    def share(self) -> float:
        """The mean over the outputs of varying squares over all squares."""
        if self._count < _SOME:
            return 1.0
        shares = [
            max(1.0 - float(total.square().sum()) / self._count / squares, 0.0)
            for total, squares in zip(self._sums, self._squares, strict=True)
            if squares
        ]
        return sum(shares) / len(shares) if shares and sum(shares) else 1.0


@dataclass
class _One:
    """One integer operator, and the part of the float graph that it stands for."""

    reference: GraphModule
    integer: GraphModule
    values: Mapping[str, Any]
    node: Node

    @property
    def value(self) -> str:
        """The float model's name for what it makes."""
        return str(value_name(self.node))

    @property
    def grid(self) -> QParams | None:
        """The grid of what it makes; None where that is a float."""
        return info(self.node).qparams if info(self.node).dtype in _INTEGERS else None

    def error(self) -> Tensor:
        """What it adds to the float value by itself."""
        rounded: dict[str, Tensor] = {}
        if self.node.target is _QUANTIZE:
            exact: Tensor = self.values[self.value]
            grid = _grid(self.node)
            return grid.dequantize(grid.quantize(exact)) - exact
        made: Tensor = self._integers(self.node, rounded, top=True)
        exact = self._floats(rounded)
        real = made if self.grid is None else self.grid.dequantize(made)
        return real.reshape(exact.shape) - exact

    def _integers(self, node: Node, rounded: dict[str, Tensor], *, top: bool = False) -> Any:
        """The value of a node of the integer graph, from float values rounded to its grids.

        rounded: receives those, by the names of the float values.
        """
        if node.op == "get_attr":
            return attribute(self.integer, str(node.target))
        name = value_name(node)
        if (
            not top
            and info(node).qparams is not None
            and info(node).dtype in _INTEGERS
            and name in self.values
            and name != self.value
        ):
            grid = _grid(node)
            points = grid.quantize(self.values[str(name)])
            rounded[str(name)] = grid.dequantize(points)
            return points.reshape(_shape(node, points))
        if node.op == "placeholder" or not callable(node.target):
            return self.values[node.name]
        args, kwargs = torch.fx.node.map_arg(
            (node.args, node.kwargs), lambda n: self._integers(n, rounded)
        )
        return node.target(*args, **kwargs)

    def _floats(self, rounded: Mapping[str, Tensor]) -> Any:
        """What the float model makes of the same rounded values."""
        nodes = {n.name: n for n in self.reference.graph.nodes}
        known: dict[Node, Any] = {nodes[name]: value for name, value in rounded.items()}
        depends = depending(nodes[self.value], set(known))

        def of(node: Node) -> Any:
            if node not in known:
                known[node] = self._computed(node, of) if node in depends else self._plain(node)
            return known[node]

        return of(nodes[self.value])

    def _computed(self, node: Node, of: Callable[[Node], Any]) -> Any:
        args, kwargs = torch.fx.node.map_arg((node.args, node.kwargs), of)
        assert callable(node.target)
        return node.target(*args, **kwargs)

    def _plain(self, node: Node) -> Any:
        if node.op == "get_attr":
            return attribute(self.reference, str(node.target))
        return self.values[node.name]


def _grid(node: Node) -> QParams:
    grid = info(node).qparams
    assert grid is not None
    return grid


def _shape(node: Node, like: Tensor) -> Sequence[int]:
    """The shape of an integer value, which may have one axis more than the float one."""
    shape = info(node).shape
    if shape is None or len(shape) == like.dim():
        return like.shape
    return [size if isinstance(size, int) else -1 for size in shape]
