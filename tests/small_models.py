"""Models and graphs that several test files use."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Graph, GraphModule, Node

from qpc.meta import update_info
from qpc.shapes import infer_shapes
from qpc.types import BatchDim


class Call(nn.Module):
    """A model that calls a function; tensors given by name become its buffers."""

    def __init__(self, function: Callable[..., Any], **buffers: Tensor) -> None:
        super().__init__()
        self.function = function
        for name, value in buffers.items():
            self.register_buffer(name, value)

    def forward(self, x: Tensor, *others: Tensor) -> Any:
        return self.function(x, *others, **dict(self.named_buffers()))


class Recurrent(nn.Module):
    """An LSTM over sequences[N, steps, 8], and a linear layer `head` on each step if wanted."""

    def __init__(self, *, head: bool = True) -> None:
        super().__init__()
        self.rnn = nn.LSTM(8, 8, batch_first=True)
        self.head: nn.Module = nn.Linear(8, 4) if head else nn.Identity()

    def forward(self, x: Tensor) -> Any:
        return self.head(self.rnn(x)[0])


def graph_of(
    build: Callable[[Graph, Node], object],
    *sizes: int,
    root: nn.Module | None = None,
    dtype: torch.dtype = torch.float32,
) -> GraphModule:
    """A graph with one input `x` of shape (N, *sizes), and the output that `build` returns."""
    graph = Graph()
    x = graph.placeholder("x")
    update_info(x, shape=(BatchDim(), *sizes), dtype=dtype)
    result: Any = build(graph, x)
    graph.output(result)
    gm = GraphModule(root if root is not None else nn.Module(), graph)
    infer_shapes(gm)
    return gm


def nodes_of(gm: GraphModule, target: object) -> list[Node]:
    """The nodes that call an operator."""
    return [node for node in gm.graph.nodes if node.target is target]


def only(gm: GraphModule, target: object) -> Node:
    """The only node that calls an operator."""
    (node,) = nodes_of(gm, target)
    return node
