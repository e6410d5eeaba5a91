"""Let grids follow the values that training sees.

Before:  x -> fake_quantize(scale, zero point) -> conv2d(fake_quantize(W, scales))
After:   the same; in training each call first moves its range and brings its grid to it
Keeps:   the output, bit for bit, until it is trained
Leaves:  grids that are learned; those of weights with one step for all channels, behind which a
         batch norm is to be folded
Cost:    one walk over the graph; in training one more look at every value

Ranges of activations are exponential moving averages of the least and the greatest value, which
begin at the grids of the calibration; those of weights are the weights' own at every step. Jacob et
al. 2018, arXiv:1712.05877, section 3.1. `qpc.freeze_ranges` ends it in a later phase of a loop,
`FreezeGrids` in a pipeline.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.fx import GraphModule, Node

from qpc.analysis.roundings import grid_tensor, rounding_of
from qpc.base import Pass, PassContext
from qpc.calls import arguments, qpc_ops, set_arguments
from qpc.edit import Editor
from qpc.errors import ConfigError
from qpc.facts import FAKE_QUANTIZED
from qpc.meta import attribute, info
from qpc.registry import Role, role_of
from qpc.settings import require_kind, require_number


@dataclass(frozen=True)
class FollowRanges(Pass, name="follow-ranges", requires={FAKE_QUANTIZED}):
    """Make moving averages of the ranges of a fake-quantized graph.

    activations, weights: which ranges.
    decay: the weight of the past at each batch, from 0.0 to below 1.0, for activations.
    synchronized: in data-parallel training the processes take the ranges of their batches together,
    so that they hold the same grids, those of one process that sees the whole batch. All of them
    have to run the graph in training then, equally often.
    """

    activations: bool = True
    weights: bool = True
    decay: float = 0.99
    synchronized: bool = True

    def __post_init__(self) -> None:
        for name in ("activations", "weights", "synchronized"):
            require_kind(name, getattr(self, name), bool, "True or False")
        require_number("decay", self.decay, 0, 1)
        if self.decay >= 1:
            raise ConfigError(
                "decay must be below 1.0, where a range would never move, got 1.0",
                fix="decay=0.99, or leave the ranges as they are",
            )

    def apply(self, gm: GraphModule, ctx: PassContext) -> bool:
        editor = Editor(gm, self.name)
        groups = _by_grid(gm, activations=self.activations, weights=self.weights)
        count = 0
        for name, calls in groups.items():
            if isinstance(attribute(gm, name), torch.nn.Parameter):
                ctx.decline(calls[0], "its grid is learned")
            elif arguments(calls[0])["scale"].target is qpc_ops.unfold_step.default:
                ctx.decline(calls[0], "its steps depend on a batch norm that is folded later")
            elif arguments(calls[0])["range"] is None:
                self._follow(editor, name, calls)
                count += 1
        ctx.summarize(f"{count} grids follow their values")
        return bool(count)

    def _follow(self, editor: Editor, scale: str, calls: Sequence[Node]) -> None:
        """Let the calls that round to one grid move it."""
        gm, config = editor.gm, info(calls[0]).config
        is_weight = info(calls[0]).observer is None
        grid = rounding_of(gm, calls[0])
        ends = [(end - grid.zero_point.float()) * grid.step for end in (grid.lo, grid.hi)]
        name = f"{scale.removesuffix('.scale')}.range"
        start = torch.stack(ends).expand(len(calls), 2, -1).contiguous()
        editor.set_tensor(name, start)
        for member, node in enumerate(calls):
            set_arguments(
                node,
                range=editor.get(name, before=node),
                member=member,
                decay=0.0 if is_weight else float(self.decay),
                symmetric=config is None or config.activation.symmetric,
                synchronized=self.synchronized and not is_weight,
            )


def _by_grid(gm: GraphModule, *, activations: bool, weights: bool) -> dict[str, list[Node]]:
    """The calls that round values to the same grid, by the name of its scale.

    Not those of interpolated values, which lie between others that are rounded to the grid.
    """
    found: dict[str, list[Node]] = {}
    for node in gm.graph.find_nodes(op="call_function", target=qpc_ops.fake_quantize.default):
        wanted = weights if info(node).observer is None else activations
        if wanted and role_of(node.all_input_nodes[0]) is not Role.INTERPOLATE:
            found.setdefault(str(grid_tensor(node, "scale").target), []).append(node)
    return found
