"""Express one operator call through simpler operators, mostly by PyTorch's own decompositions."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

from torch._ops import OpOverload
from torch.fx import Node

from qpc.backends.common.decompose import Decomposition, decomposed
from qpc.backends.tvm.lowering.rules import FLOATS
from qpc.calls import aten
from qpc.types import Concrete


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
    table = {k: v for k, v in _decompositions().items() if not kept(k)}
    target = table.get(node.target, node.target)
    try:
        made = decomposed(node, target, numbers, type_of, table)
    except (RuntimeError, NotImplementedError, TypeError):
        return None  # no fake implementation: the caller says that there is no rule
    return None if made is None or any(n.target is node.target for n in made.calls) else made


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
