"""What each integer operator does to the outputs by itself, everything else in float.

A value's grid belongs to the operator that makes the value. So an operator is given the float
values rounded to the grids on which it reads them, and what it makes of them is compared with what
the float model makes of the same rounded values. That difference, and nothing else, is its own
error: of its weights, bias and multiplier, and of the grid of its result. Added to the float value
it goes through the rest of the float model, to the outputs.

The rests of a network of n operators are n/2 networks. Where that is much for all samples, the
errors of the first samples alone go through them; everything else is found out on all samples. The
float model runs without its batch norms, which are folded into the layers before them.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from qpc.batches import Batch, checked_batches
from qpc.channels.cost import node_macs
from qpc.effort import tidying
from qpc.errors import PassError
from qpc.explanation.float_runs import (
    affected,
    all_values,
    nodes_of_values,
    output_of,
    run_rest,
    watched,
)
from qpc.explanation.inspection import in_integers
from qpc.explanation.one_operator import INTEGERS, QUANTIZE, OneOperator
from qpc.explanation.pieces import Piece, pieces_of
from qpc.meta import info, value_name
from qpc.pipeline import Pipeline
from qpc.precision.partial_runs import NoiseSums, require_finite, tensors_of
from qpc.quant.grid import QParams
from qpc.registry import Role, role_of

_SOME = 2  # samples, between which something may differ
MOST_MACS = 200_000_000_000
"""What the rests of a network may take: some seconds of one core. ResNet-50 takes 150 for a sample,
MobileNetV2 10."""
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
    need. span: the least and the greatest of them, or zero.
    """

    node: str
    value: str
    noise: float
    local_noise: float
    gain: float
    clipped: float
    reach: float
    used: float
    span: tuple[float, float]


@dataclass(frozen=True)
class Errors:
    """The own errors of all operators.

    noise: of the whole integer model, as in `OwnError`. varying: the share of the outputs' squares
    that is not the same for all samples; 1 for a single sample, of which nobody can tell. samples:
    of how many these are, and own_samples, of how many of them the noise of `operators` is.
    together: squared error of each value over its squares in the whole integer model, by the traced
    model's name for it.
    """

    operators: tuple[OwnError, ...]
    noise: float
    varying: float
    samples: int = 1
    own_samples: int = 1
    together: Mapping[str, float] = field(default_factory=dict)


def measurable(reference: GraphModule, integer: GraphModule) -> list[Node]:
    """The integer operators that make a value which the float model has, too."""
    known = nodes_of_values(reference)
    found = []
    for node in integer.graph.nodes:
        if node.op != "call_function" or value_name(node) not in known:
            continue
        on_grid = info(node).dtype in INTEGERS and info(node).qparams is not None
        real = info(node).dtype is torch.float32
        if on_grid or (real and in_integers(_maker(node, known))):
            found.append(node)
    last = {value_name(node): node for node in found if node.target is not QUANTIZE}
    return [n for n in found if n.target is QUANTIZE or last[value_name(n)] is n]


def _maker(node: Node, known: Container[str | None]) -> Node:
    """What makes a value that is only moved on the way, if the float model does not know it so.

    A convolution over one axis is one of images, whose result gets its shape back afterwards.
    """
    while role_of(node) is Role.MOVE and value_name(node.all_input_nodes[0]) not in known:
        node = node.all_input_nodes[0]
    return node


def own_errors(
    reference: GraphModule,
    integer: GraphModule,
    batches: Iterable[Batch],
    *,
    most_macs: float = MOST_MACS,
    told: Callable[[int, int], None] = lambda done, total: None,
) -> Errors:
    """The own error of every measurable operator, and that of the whole integer model.

    reference: the traced float graph. integer: an integer graph made of it. batches: as for
    `qpc.compare`; the values of a part of a batch are kept at a time. most_macs: multiplications
    that may be spent on what follows the operators; at least one sample goes through it. told: how
    many steps are done, of how many.

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
    rests = _Rests(_simpler(reference, integer), integer, nodes)
    pieces = pieces_of(rests.reference, given, rests.samples_for(most_macs))
    total = sum(1 + len(nodes) * piece.longer for piece in pieces)
    done = 0

    def step() -> None:
        nonlocal done
        done += 1
        told(done, total)

    with torch.no_grad():
        for piece in pieces:
            rests.add(piece, step)
    results = tuple(rests.sums[node].result(node) for node in nodes)
    count = sum(piece.samples for piece in pieces)
    own = sum(piece.samples for piece in pieces if piece.longer)
    return Errors(
        operators=results,
        noise=rests.whole.ratio(),
        varying=rests.varying.share(),
        samples=count,
        own_samples=own,
        together={name: sums.ratio() for name, sums in rests.together.items()},
    )


def _simpler(reference: GraphModule, integer: GraphModule) -> GraphModule:
    """The float graph with fewer operators, if it has all values still that the integers have."""
    tidy = Pipeline(tidying()).run(reference)
    known, left = nodes_of_values(reference).keys(), nodes_of_values(tidy).keys()
    wanted = known & {value_name(node) for node in integer.graph.nodes}
    return tidy if wanted <= left else reference


class _Rests:
    """The float graph, what of it follows each operator, and all that is found out about them."""

    def __init__(self, reference: GraphModule, integer: GraphModule, nodes: Sequence[Node]) -> None:
        self.reference, self._integer = reference, integer
        self.sums = {node: _Sums() for node in nodes}
        self.whole, self.varying = NoiseSums(), _Varying()
        self.together: dict[str, NoiseSums] = {}
        self._places = nodes_of_values(reference)
        self._behind = {n: affected(reference, self._places[str(value_name(n))]) for n in nodes}

    def samples_for(self, macs: float) -> int:
        """For how many samples so many multiplications do, in all rests together."""
        costs = node_macs(self.reference)
        one = sum(costs.get(n, 0) for behind in self._behind.values() for n in behind)
        return int(min(macs / max(one, 1), sys.maxsize))

    def add(self, piece: Piece, step: Callable[[], None]) -> None:
        """Some more samples. step: is called when something is done."""
        values = all_values(self.reference, piece.inputs)
        exact = tensors_of(values[output_of(self.reference).name])
        require_finite(exact, piece.batch)
        named = {name: values[place.name] for name, place in self._places.items()}

        def compare(name: str, value: Tensor) -> None:
            if isinstance(named.get(name), Tensor):
                sums = self.together.setdefault(name, NoiseSums())
                sums.add([named[name]], [value.reshape(named[name].shape)])

        self.whole.add(exact, tensors_of(watched(self._integer, piece.inputs, compare)))
        self.varying.add(exact)
        for node, sums in self.sums.items():
            grid = info(node).qparams if info(node).dtype in INTEGERS else None
            sums.look(named[str(value_name(node))], grid)
        step()
        for node in self.sums if piece.longer else ():
            one = OneOperator(self.reference, self._integer, self._places, values, node)
            value, error = named[one.value], one.error()
            self.sums[node].add(value, error)
            changed = {self._places[one.value]: value + error}
            rest = run_rest(self.reference, self._behind[node], values, changed)
            self.sums[node].output.add(exact, tensors_of(rest))
            step()


# --- what adds up ---------------------------------------------------------------------------------


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

    def add(self, value: Tensor, error: Tensor) -> None:
        """The float value, and what the operator adds to it."""
        r, e = value.double().flatten(), error.double().flatten()
        self.signal += float(r @ r)
        self.noise += float(e @ e)
        self.product += float(r @ (r + e))

    def look(self, value: Tensor, grid: QParams | None) -> None:
        """Where the float value lies on the grid; None where it has none."""
        self.count += value.numel()
        if grid is not None:
            self.ends = lo, hi = grid.real_range
            slack = _SLACK * grid.scale
            self.clipped += int(((value < lo - slack) | (value > hi + slack)).sum())
        least, greatest = value.aminmax() if value.numel() else (0.0, 0.0)
        self.least = min(self.least, float(least))
        self.greatest = max(self.greatest, float(greatest))

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
            span=(self.least, self.greatest),
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
