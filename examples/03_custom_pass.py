"""Write a pass of your own, outside QPC, with nothing but public names.

It folds zero padding into the convolution that reads it, which saves an operator.
`docs/write-your-own-pass.md` explains the parts.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.fx import GraphModule, Node

import qpc
from qpc.edit import Editor
from qpc.facts import CORE_FORM
from qpc.ops.convolution import Conv2d
from qpc.ops.padding import Pad
from qpc.rewrite import Rule, apply_rules


@dataclass(frozen=True)
class PadThenConv(Rule[Conv2d]):
    """A convolution that reads padded values."""

    def match(self, gm: GraphModule, node: Node) -> Conv2d | None:
        """Return what is found at `node`, the last one of the pattern."""
        conv = Conv2d.of(node)
        return conv if conv is not None and Pad.matches(conv.input) else None

    def refuse(self, gm: GraphModule, found: Conv2d) -> str | None:
        """Say what is in the way, if anything is."""
        pad = Pad(found.input)
        left, right, top, bottom = (*pad.pad, 0, 0, 0, 0)[:4]
        even = len(pad.pad) <= 4 and left == right and top == bottom and min(left, top) >= 0
        return None if even and pad.value == 0 else f"pads by {pad.pad} with {pad.value:g}"

    def replace(self, editor: Editor, found: Conv2d) -> str:
        """Let the convolution pad, and read what was padded."""
        pad, (height, width) = Pad(found.input), found.padding
        left, _, top, _ = (*pad.pad, 0, 0)[:4]
        found.padding, found.input = (height + top, width + left), pad.input
        return f"pads by {found.padding} itself"


def _unfolded(gm: GraphModule) -> str | None:
    rule = PadThenConv()
    found = [conv for node in gm.graph.nodes if (conv := rule.match(gm, node))]
    left = [conv.node.name for conv in found if rule.refuse(gm, conv) is None]
    return f"{left[0]} reads padding that could be folded" if left else None


PADDING_FOLDED = qpc.Fact("padding-folded", _unfolded)
"""No convolution reads padding that it could do itself."""


@dataclass(frozen=True)
class FoldPadding(
    qpc.Pass, name="fold-padding", requires={CORE_FORM}, establishes={PADDING_FOLDED}
):
    """Fold zero padding into the convolutions that read it."""

    def apply(self, gm: GraphModule, ctx: qpc.PassContext) -> bool:
        """Edit `gm` in place; return whether anything changed."""
        return apply_rules((PadThenConv(),), self, gm, ctx)


def main() -> None:
    """Run the pass on a model with padding that can be folded and padding that cannot."""
    model = nn.Sequential(
        nn.ZeroPad2d(1), nn.Conv2d(3, 8, 3), nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(8, 8, 3)
    )
    x = torch.randn(2, 3, 8, 8)
    gm, ctx = qpc.trace(model, x), qpc.PassContext()
    folded = qpc.Pipeline((FoldPadding(),)).run(gm, ctx)  # a copy; `gm` stays as it is
    print(ctx)
    print(qpc.format_graph(folded))
    print(f"same output: {torch.equal(gm(x), folded(x))}")


if __name__ == "__main__":
    main()
