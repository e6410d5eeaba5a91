"""Express one operator call through simpler operators, mostly by PyTorch's own decompositions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.fx import GraphModule, Node
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.node import map_arg

from qpc.backends.tvm.lowering.rules import FLOATS
from qpc.calls import aten
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
        return _type(node.meta.get("val"))


def decompose(
    node: Node,
    value: Callable[[Node], Any],
    type_of: Callable[[Node], Concrete],
    kept: Callable[[OpOverload], bool],
) -> Decomposition | None:
    """The decomposition of a call, or None if PyTorch knows nothing simpler.

    `kept` says which operators need no decomposition.
    """
    if not isinstance(node.target, OpOverload):
        return None
    numbers = {n: v for n in node.all_input_nodes if isinstance(v := value(n), int | float)}
    sources = tuple(n for n in node.all_input_nodes if n not in numbers)
    samples = [_sample(type_of(n)) for n in sources]
    if any(s is None for s in samples):
        return None

    table = {k: v for k, v in _decompositions().items() if not kept(k)}
    target = table.get(node.target, node.target)

    def call(*tensors: Tensor) -> Any:
        known = numbers | dict(zip(sources, tensors, strict=True))
        args, kwargs = map_arg((node.args, node.kwargs), known.__getitem__)
        return target(*args, **kwargs)

    try:
        # Without oneDNN, an LSTM is decomposed instead of becoming a call of that library.
        with torch.no_grad(), _without_onednn():
            module = _trace(call, table, samples)
            if any(_writes(n) for n in module.graph.nodes):
                module = _trace(torch.func.functionalize(module), table, samples)
    except (RuntimeError, NotImplementedError, TypeError):
        return (
            None  # operators without a fake implementation: the caller says that there is no rule
        )
    module.graph.eliminate_dead_code()
    inputs = tuple(n for n in module.graph.nodes if n.op == "placeholder")
    made = Decomposition(module, inputs, sources)
    return None if any(n.target is node.target for n in made.calls) else made


def _trace(
    call: Callable[..., Any], table: Mapping[Any, Any], samples: Sequence[Any]
) -> GraphModule:
    made = make_fx(call, decomposition_table=dict(table), tracing_mode="fake")(*samples)
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
    if not isinstance(node.target, OpOverload):
        return False
    inputs = [values.get(n) for n in node.all_input_nodes]
    random = torch.Tag.nondeterministic_seeded in node.target.tags
    return not random and all(isinstance(v, Tensor | int | float) for v in inputs)


def evaluate(node: Node, values: Mapping[Node, Any]) -> Any:
    """The result of a constant call."""
    args, kwargs = map_arg((node.args, node.kwargs), values.__getitem__)
    assert callable(node.target)
    with torch.no_grad():
        return node.target(*args, **kwargs)


@cache
def _decompositions() -> dict[OpOverload, Callable[..., Any]]:
    from torch._decomp import core_aten_decompositions, get_decompositions

    found = dict(core_aten_decompositions()) | get_decompositions(_BEYOND_CORE)
    found.update((k, rule.decomposition) for k, rule in FLOATS.items() if rule.decomposition)
    return {k: v for k, v in found.items() if isinstance(k, OpOverload)}


# Core operators by PyTorch's definition, which TVM's importer does not have.
_BEYOND_CORE = (
    aten.gru.input,
    aten.lstm.input,
    aten.rnn_relu.input,
    aten.rnn_tanh.input,
    aten.slice_scatter.default,
    aten.grid_sampler_2d.default,
    aten.linalg_vector_norm.default,
    aten.native_batch_norm.default,
    aten.native_group_norm.default,
    aten.native_layer_norm.default,
    aten.upsample_bicubic2d.default,
)


def _sample(found: Concrete) -> Tensor | None:
    return torch.empty(found.shape, dtype=found.dtype) if isinstance(found, TensorType) else None


def _type(value: object) -> Concrete:
    if isinstance(value, Tensor):
        return TensorType(tuple(int(s) for s in value.shape), value.dtype)
    if isinstance(value, tuple | list):
        return tuple(_type(v) for v in value)
    return value if isinstance(value, int | float | bool) else None
