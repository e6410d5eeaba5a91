"""A small compiled model that uses its threads, with inputs and the right answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.fx import GraphModule

from qpc.backends import reference, tvm
from qpc.targets import Target
from tests.generators import IntegerGraph
from tests.sharing import sharing_freely

if TYPE_CHECKING:
    from qpc.backends.tvm.runtime.model import CompiledModel

SHAPE = (3, 12, 12)


def small_graph() -> GraphModule:
    """Two convolutions, added, a mean and a linear layer; two outputs."""
    g = IntegerGraph()
    q = g.quantize(g.input(*SHAPE))
    q = g.add(g.conv2d(q, 16, padding=(1, 1)), g.conv2d(q, 16, (1, 1)))
    return g.module(g.dequantize(g.linear(g.mean(q, (2, 3)), 10)), q)


def small_model(threads: int = 1) -> CompiledModel:
    """The graph, compiled so that every layer is shared among the threads."""
    return tvm.compile_graph(small_graph(), sharing_freely(Target.native()), threads=threads)


class Answers:
    """Inputs, and what the reference backend makes of them."""

    def __init__(self, count: int = 8) -> None:
        generator = torch.Generator().manual_seed(0)
        model = reference.compile_graph(small_graph())
        self.inputs = [torch.randn(1, *SHAPE, generator=generator) for _ in range(count)]
        self._outputs = [model(x) for x in self.inputs]

    def right(self, number: int, outputs: Sequence[Tensor]) -> bool:
        """Whether these are the outputs for one of the inputs."""
        return all(map(torch.equal, outputs, self._outputs[number]))

    def wrong_calls(self, model: CompiledModel, count: int, seed: int) -> int:
        """How many of so many calls give a wrong value."""
        order = torch.Generator().manual_seed(seed)
        numbers = torch.randint(len(self.inputs), (count,), generator=order).tolist()
        return sum(not self.right(n, model(self.inputs[n])) for n in numbers)
