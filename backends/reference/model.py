"""The reference backend: the graph itself, run by PyTorch, called like a compiled model.

It defines the right integer answer; every other backend must return the same bits. It is slow.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.fx import GraphModule, Node
from torch.fx.node import map_arg

from qpc.backends.common.plan import Plan
from qpc.backends.compiled import CallableModel, Signature, output_nodes, signature_of
from qpc.meta import attribute, copied


class ReferenceModel(CallableModel):
    """A core-form graph that PyTorch runs node by node."""

    def __init__(self, gm: GraphModule, signature: Signature) -> None:
        super().__init__(signature)
        self._gm = gm

    @property
    def plan(self) -> Plan:
        """There is nothing to decide: the definitions of the operators run one by one."""
        return Plan("the reference backend plans nothing: PyTorch runs the graph node by node", {})

    def run_tensors(self, batch: int, inputs: Sequence[Tensor]) -> Sequence[Tensor]:
        with torch.no_grad():
            values = _evaluate(self._gm, inputs)
        return [values[node] for node in output_nodes(self._gm)]


def compile_graph(gm: GraphModule, *, batch_sizes: Sequence[int] = (1,)) -> ReferenceModel:
    """Return `gm` as a model for these batch sizes, called as those of other backends are."""
    return ReferenceModel(copied(gm), signature_of(gm, batch_sizes))


def _evaluate(gm: GraphModule, inputs: Sequence[Tensor]) -> dict[Node, Tensor]:
    values: dict[Node, Tensor] = {}
    remaining = iter(inputs)
    last = _last_reads(gm)
    for node in gm.graph.nodes:
        if node.op == "placeholder":
            values[node] = next(remaining)
        elif node.op == "get_attr":
            values[node] = attribute(gm, str(node.target)).detach()
        elif node.op == "call_function":
            args = map_arg(node.args, values.__getitem__)
            kwargs = map_arg(node.kwargs, values.__getitem__)
            assert callable(node.target)
            values[node] = node.target(*args, **kwargs)
        for read in last.get(node, ()):
            del values[read]  # a large batch would not find room for all of them at once
    return values


def _last_reads(gm: GraphModule) -> Mapping[Node, Sequence[Node]]:
    """Which values each node is the last to read; outputs stay."""
    reader: dict[Node, Node] = {}
    for node in gm.graph.nodes:
        if node.op != "output":
            reader |= dict.fromkeys(node.all_input_nodes, node)
    kept = set(output_nodes(gm))
    last: dict[Node, list[Node]] = defaultdict(list)
    for value, node in reader.items():
        if value not in kept:
            last[node].append(value)
    return last
