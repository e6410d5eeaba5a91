"""How many layers become integer, and what stands in the way of the others."""

from __future__ import annotations

from collections.abc import Sequence

from torch.fx import GraphModule, Node

from qpc.analysis.origins import multiplies_by_parameter
from qpc.analysis.places import LAYERS
from qpc.analysis.quantization import KEPT_IN_FLOAT, QuantizationPlan
from qpc.errors import PassError
from qpc.meta import info, label
from qpc.registry import Role, role_of

_MOST = 3
"""Reasons that a message gives at most; reports have all."""


def layers_with_weights(gm: GraphModule) -> list[Node]:
    """The calls that multiply values by weights of their own, whether they can be integer or not.

    Convolution, linear and recurrent layers, and matrix products with a parameter.
    """
    return [
        n
        for n in gm.graph.nodes
        if role_of(n) in (*LAYERS, Role.RECURRENT) or multiplies_by_parameter(n)
    ]


def is_quantized(layer: Node) -> bool:
    """Whether a layer is to be integer, or has integer weights already."""
    return info(layer).integer or role_of(layer) is Role.STORED


def kind_of(layers: Sequence[Node]) -> str:
    """What reports call these layers."""
    plain = all(role_of(n) in LAYERS for n in layers)
    return "convolution and linear layers" if plain else "layers with weights"


def left_unwillingly(layers: Sequence[Node]) -> list[Node]:
    """Those of the layers that stay in float although the configuration would quantize them."""
    return [n for n in layers if not is_quantized(n) and info(n).declined != KEPT_IN_FLOAT]


def reasons_of(layers: Sequence[Node]) -> str:
    """Why these layers stay in float: the first few reasons, each with a layer."""
    texts = [f"{label(n)}: {info(n).declined or 'not planned'}" for n in layers]
    more = [f"and {len(texts) - _MOST} more"] if len(texts) > _MOST else []
    return "; ".join(texts[:_MOST] + more)


def require_some(layers: Sequence[Node], plan: QuantizationPlan) -> None:
    """Raise PassError, with the commonest reasons and what to do, if no operator is integer."""
    if plan.integer or any(map(is_quantized, layers)):
        return
    if not layers:
        raise PassError(
            "nothing can be quantized: the graph has no layer with weights",
            fix="quantization needs convolution or linear layers",
        )
    reasons = {n: plan.declined.get(n, "not planned") for n in layers}
    common = sorted(set(reasons.values()), key=list(reasons.values()).count, reverse=True)
    texts = [f"{why} ({list(reasons.values()).count(why)} of {len(layers)})" for why in common]
    first = next(n for n in layers if reasons[n] == common[0])
    raise PassError(
        f"nothing would be quantized: none of the {len(layers)} {kind_of(layers)} can be integer: "
        + "; ".join(texts[:_MOST]),
        node=first,
        fix=_remedy(first, common[0]),
    )


def _remedy(layer: Node, why: str) -> str:
    dtype = info(layer).dtype
    if why == KEPT_IN_FLOAT:
        return 'remove the overrides with use="float" that select everything'
    if role_of(layer) is Role.RECURRENT:
        return "recurrent layers run in float; quantization needs convolution or linear layers"
    if dtype is not None and "works on" in why:
        return "trace the model in float32: qpc.trace(model.float(), example_inputs.float())"
    if "batch dimension" in why:
        return "qpc.trace(model, example_input[None]), and batches likewise"
    if "FoldWeights" in why:
        return "gm = qpc.Pipeline((qpc.passes.FoldWeights(),)).run(gm)"
    return "see the reasons above; print(qpc.format_graph(gm)) shows the graph"
