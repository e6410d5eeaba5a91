"""What the tests of channel rules share: the channels of a value, written down shortly."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from qpc.calls import is_shape_arithmetic
from qpc.channels.atoms import along, varying_axes
from qpc.channels.flow import Flow
from qpc.testing import traced

Forward = Callable[..., Tensor]
Seen = tuple[int | None, str]


class Net(nn.Module):
    """Parts by name and a function of them; layer `a` makes the four channels looked at."""

    def __init__(self, function: Forward, **parts: nn.Module | Tensor) -> None:
        super().__init__()
        self.function = function
        for name, part in parts.items():
            setattr(self, name, nn.Parameter(part) if isinstance(part, Tensor) else part)

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.function(self, *inputs)


def image_graph(function: Forward, /, **parts: nn.Module | Tensor) -> GraphModule:
    """A graph of [batch, 4, 4, 2] values; more inputs of that kind are made as `a` is."""
    parts = {"a": nn.Conv2d(3, 4, 1)} | parts
    return traced(Net(function, **parts), torch.randn(2, 3, 4, 2))


def token_graph(function: Forward, /, **parts: nn.Module | Tensor) -> GraphModule:
    """A graph of [batch, 3, 4] values: three tokens of four channels."""
    parts = {"a": nn.Linear(5, 4)} | parts
    return traced(Net(function, **parts), torch.randn(2, 3, 5))


def flowed(gm: GraphModule) -> Flow:
    """The labels of all values, outputs not pinned."""
    flow = Flow(gm)
    for node in gm.graph.nodes:
        if node.op == "placeholder":
            flow.values[node] = (torch.tensor(-1).expand(flow.shape(node)),)
        elif node.op == "call_function" and not flow.waits(node):
            if flow.is_tensor(node):
                assert flow.of(node).shape == flow.shape(node)
            elif not is_shape_arithmetic(node):
                flow.visit(node)
    return flow


def seen(gm: GraphModule) -> Seen:
    """The channel axis of the result, and its channels: a letter for each, "." for none.

    Layer `a`, the first, makes "abcd". United channels have the letter of the first.
    """
    ((axis, channels),) = every(gm).items()
    return axis, channels


def every(gm: GraphModule) -> dict[int | None, str]:
    """The same for each axis of the result that has channels."""
    flow = flowed(gm)
    (result,) = gm.graph.output_node().all_input_nodes
    found: dict[int | None, str] = {}
    for labels in flow.every(result):
        axes = varying_axes(labels)
        assert len(axes) < 2
        line = along(labels, axes[0]) if axes else labels.flatten()[:1]
        found[axes[0] if axes else None] = _letters(flow, line)
    return found


def _letters(flow: Flow, line: Tensor) -> str:
    pinned = flow.atoms.pins()
    text = ["." if atom < 0 else chr(ord("a") + atom) for atom in line.tolist()]
    shown = zip(text, line.tolist(), strict=True)
    return "".join(t.upper() if atom in pinned else t for t, atom in shown)


def reasons(gm: GraphModule) -> set[str]:
    """Why channels are pinned."""
    return set(flowed(gm).atoms.pins().values())
