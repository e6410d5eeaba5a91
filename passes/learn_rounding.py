"""Learn for each weight whether it is rounded up or down.

Before:  conv2d(x, fake_quantize(W)), whose weights are rounded to nearest
After:   the same with a W of grid points, which give outputs nearer to those in float
Keeps:   scales, but where a bias needs another; weights that are 0
Leaves:  layers in float, shared weights, grids that training moves; layers of more than `bits`
Cost:    two forward passes on the samples; `steps` of gradient descent for each layer

AdaRound: Nagel et al. 2020, arXiv:2004.10568, layer by layer, with its rectified sigmoid and its
annealed regulariser, on inputs of the quantized graph and targets of the float one, behind the
clamp that follows a layer. No labels are needed. The mean error of each channel is taken out of the
bias.
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
from qpc.quant.weight_points import Learning, learned_points
from qpc.settings import require_count, require_number


@dataclass(frozen=True)
class LearnRounding(Pass, name="learn-rounding", requires={FAKE_QUANTIZED}):
    """Choose the rounding of weights by AdaRound on `batches`.

    batches: as `Calibrate` takes them; the first ones that make up `samples` are used.
    rows: at how many places (pixels of images) each layer is looked at, at most.
    steps, batch: of gradient descent for each layer, and the number of rows in each.
    rate: of Adam.
    regulariser: how strongly weights are driven to grid points, next to an error of 1 if all were
    rounded to nearest.
    bits: the most bits of the weights that are rounded so.
    reference: the graph in float whose outputs are aimed at; by default this graph's own weights.
    """

    batches: Iterable[Batch] = field(repr=False)
    samples: int = 32
    rows: int = 4096
    steps: int = 300
    batch: int = 256
    rate: float = 0.1
    regulariser: float = 3.0
    bits: int = 8
    reference: GraphModule | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        for name in ("samples", "rows", "steps", "batch"):
            require_count(name, getattr(self, name))
        require_count("bits", self.bits, 2)
        require_number("rate", self.rate, 0.0, above=True)
        require_number("regulariser", self.regulariser, 0.0)

    def apply(self, gm: GraphModule, ctx: PassContext) -> bool:
        given = Samples(self.batches, self.samples, self.reference, "learn rounding")
        turns = layers_in_turn(self, gm, ctx, given, wanted=above_bits(self.bits))
        return round_layers(turns, ctx, self.rows, self._points)

    def _points(self, turn: Turn, rows: Rows, scales: Tensor) -> Tensor:
        return learned_points(
            rows.grouped(turn.weight),
            rows.grouped(turn.bias),
            scales,
            turn.limit,
            rows.inputs,
            rows.targets,
            turn.clamp,
            Learning(self.steps, self.batch, self.regulariser, self.rate),
        )
