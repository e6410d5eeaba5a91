"""One operator call as a graph of simpler calls."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.fx import GraphModule, Node
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.node import map_arg

from qpc.backends.common.constants import is_constant_call
from qpc.types import Concrete, TensorType


@dataclass(frozen=True)
class Decomposition:
    """A graph that computes what one call computes.

    `inputs` are its placeholders and `sources` the nodes of the original graph that they stand for.
    """

    module: GraphModule
    inputs: tuple[Node, ...]
    sources: tuple[Node, ...]

    @property
    def calls(self) -> list[Node]:
        """The operator calls, in order."""
        return [n for n in self.module.graph.nodes if n.op == "call_function"]

    @property
    def constants(self) -> dict[Node, Tensor]:
        """Tensors that the decomposition brings along."""
        found = [n for n in self.module.graph.nodes if n.op == "get_attr"]
        return {n: getattr(self.module, str(n.target)) for n in found}

    @property
    def result(self) -> Any:
        """What the graph returns: nodes, in the structure of the operator's result."""
        (output,) = [n for n in self.module.graph.nodes if n.op == "output"]
        return output.args[0]

    def type_of(self, node: Node) -> Concrete:
        """What a node of the graph yields."""
        return concrete(node.meta.get("val"))


def decomposed(
    node: Node,
    function: Callable[..., Any],
    numbers: Mapping[Node, float],
    type_of: Callable[[Node], Concrete],
    table: Mapping[Any, Callable[..., Any]],
) -> Decomposition | None:
    """What a call does if `function` does it; None if an argument is not one tensor.

    numbers: arguments that are known numbers. table: how operators are decomposed that `function`
    calls. Raises what `function` and the operators in it raise.
    """
    sources = tuple(n for n in node.all_input_nodes if n not in numbers)
    samples = [_sample(type_of(n)) for n in sources]
    if any(s is None for s in samples):
        return None

    def call(*tensors: Tensor) -> Any:
        known = dict(numbers) | dict(zip(sources, tensors, strict=True))
        args, kwargs = map_arg((node.args, node.kwargs), known.__getitem__)
        return function(*args, **kwargs)

    # Without oneDNN, an LSTM is decomposed instead of becoming a call of that library.
    with torch.no_grad(), _without_onednn():
        module = _trace(call, table, samples)
        if any(_writes(n) for n in module.graph.nodes):
            module = _trace(torch.func.functionalize(module), table, samples)
    module.graph.eliminate_dead_code()
    inputs = tuple(n for n in module.graph.nodes if n.op == "placeholder")
    return Decomposition(module, inputs, sources)


def _trace(
    call: Callable[..., Any], table: Mapping[Any, Any], samples: Sequence[Any]
) -> GraphModule:
    made = make_fx(
        call,
        decomposition_table=dict(table),
        tracing_mode="fake",
        _allow_non_fake_inputs=True,  # tensors that functions of other packages hold
    )(*samples)
    assert isinstance(made, GraphModule)
    return made


@contextmanager
def _without_onednn() -> Iterator[None]:
    # torch.backends.mkldnn.flags also sets a flag that warns on machines without Intel's GPUs.
    before = torch._C._get_mkldnn_enabled()
    torch._C._set_mkldnn_enabled(False)
    try:
        yield
    finally:
        torch._C._set_mkldnn_enabled(before)


def _writes(node: Node) -> bool:
    return isinstance(node.target, OpOverload) and node.target._schema.is_mutable


def is_constant(node: Node, values: Mapping[Node, Any]) -> bool:
    """Whether a call always has the same result: its inputs are numbers and constant tensors."""
    return is_constant_call(node, lambda n: isinstance(values.get(n), Tensor | int | float))


def evaluate(node: Node, values: Mapping[Node, Any]) -> Any:
    """The result of a constant call."""
    args, kwargs = map_arg((node.args, node.kwargs), values.__getitem__)
    assert callable(node.target)
    with torch.no_grad():
        return node.target(*args, **kwargs)


def concrete(value: object) -> Concrete:
    """The type of a value without data."""
    if isinstance(value, Tensor):
        return TensorType(tuple(int(s) for s in value.shape), value.dtype)
    if isinstance(value, tuple | list):
        return tuple(concrete(v) for v in value)
    return value if isinstance(value, int | float | bool) else None


def _sample(found: Concrete) -> Tensor | None:
    return torch.empty(found.shape, dtype=found.dtype) if isinstance(found, TensorType) else None
