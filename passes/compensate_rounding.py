"""Round weights one after the other, and make up for each error with those that are left.

Before:  conv2d(x, fake_quantize(W)), whose weights are rounded to nearest
After:   the same with a W of grid points, which give outputs nearer to those in float
Keeps:   scales, but where a bias needs another; weights that are 0
Leaves:  layers in float, shared weights, grids that training moves; layers of more than `bits`
Cost:    two forward passes on the samples; for each layer of n inputs (times the size of its
         kernel) a few times n^3 operations

GPTQ: Frantar et al. 2022, arXiv:2210.17323, for linear layers and, on patches, convolutions. Inputs
are those of the quantized graph, rounded and behind layers that have been rounded before. The mean
error of each channel is left to the bias, which is corrected by it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from torch import Tensor
from torch.fx import GraphModule

from qpc.analysis.layer_rows import Rows
from qpc.analysis.layers_in_turn import Samples, Turn, above_bits, layers_in_turn, round_layers
from qpc.base import Pass, PassContext
from qpc.batches import Batch
from qpc.facts import FAKE_QUANTIZED
from qpc.quant.weight_points import Compensation, compensated_points
from qpc.settings import require_count, require_kind, require_number


@dataclass(frozen=True)
class CompensateRounding(Pass, name="compensate-rounding", requires={FAKE_QUANTIZED}):
    """Choose the rounding of weights by GPTQ on `batches`.

    batches: as `Calibrate` takes them; the first ones that make up `samples` are used.
    rows: at how many places (pixels of images) each layer's inputs are looked at, at most.
    damping: this share of the mean of its diagonal is added to that of each Hessian.
    block: this many inputs are worked on before those behind them are brought up to date.
    ordered: take inputs in the order of their size, the largest first ("act order").
    aim: let weights make up for the errors of what reaches them too, not for their own alone.
    bits: the most bits of the weights that are rounded so.
    reference: the graph in float whose outputs are aimed at; by default this graph's own weights.
    """

    batches: Iterable[Batch] = field(repr=False)
    samples: int = 32
    rows: int = 4096
    damping: float = 0.01
    block: int = 128
    ordered: bool = True
    aim: bool = False
    bits: int = 8
    reference: GraphModule | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        for name in ("samples", "rows", "block"):
            require_count(name, getattr(self, name))
        require_count("bits", self.bits, 2)
        require_number("damping", self.damping, 0.0, above=True)
        for name in ("ordered", "aim"):
            require_kind(name, getattr(self, name), bool, "True or False")

    def apply(self, gm: GraphModule, ctx: PassContext) -> bool:
        given = Samples(self.batches, self.samples, self.reference, "compensate rounding")
        turns = layers_in_turn(self, gm, ctx, given, wanted=above_bits(self.bits))
        return round_layers(turns, ctx, self.rows, self._points)

    def _points(self, turn: Turn, rows: Rows, scales: Tensor) -> Tensor:
        how = Compensation(self.damping, self.block, self.ordered)
        weight = rows.grouped(turn.weight)
        targets = rows.targets if self.aim else None
        return compensated_points(weight, scales, turn.limit, rows.inputs, how, targets)
