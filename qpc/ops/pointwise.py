"""Functions of one value at a time, which become tables."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.fx import Node
from torch.fx.node import map_arg

from qpc.analysis.origins import activations
from qpc.calls import arguments
from qpc.channels.atoms import Labels
from qpc.errors import BackendError
from qpc.library import define
from qpc.meta import info
from qpc.registry import OpSpec, Quantization, Role, overloads

if TYPE_CHECKING:
    from qpc.analysis.integer_proofs import IntegerProof
    from qpc.channels.flow import Flow
    from qpc.conversion import Conversion


def _lookup(q: Tensor, table: Tensor) -> Tensor:
    return table[q.to(torch.int64) - torch.iinfo(q.dtype).min]


def _fake_lookup(q: Tensor, table: Tensor) -> Tensor:
    return torch.empty_like(q, dtype=table.dtype)


LOOKUP = define(
    "lookup(Tensor q, Tensor table) -> Tensor",
    _lookup,
    _fake_lookup,
)


def is_one_number(node: Node) -> bool:
    """Whether a value has one element."""
    return all(size == 1 for size in info(node).shape or ())


def _refuse(node: Node) -> str | None:
    if len(activations(node)) != 1:
        return "it has more than one tensor input"
    for constant in node.all_input_nodes:
        if constant.op == "get_attr" and not is_one_number(constant):
            return f"its parameter {constant.target} has more than one number"
    if len(info(node).shape or ()) != len(info(activations(node)[0]).shape or ()):
        return "its parameter adds axes"
    return None


def tabulate(conversion: Conversion) -> Node:
    """Any function of one value at a time, tabulated over the whole input grid."""
    node = conversion.node
    (value,) = activations(node)

    def function(real: Tensor) -> Tensor:
        def operand(source: Node) -> Tensor:
            return real if source is value else conversion.tensor(source).reshape(1)

        args = map_arg(node.args, operand)
        result: Tensor = node.target(*args, **node.kwargs)  # type: ignore[operator]  # it is an overload
        return result

    return conversion.tabulated(value, function)


POINTWISE = Quantization(Role.POINTWISE, _refuse, tabulate, ends_in_float=True)
"""Of functions of one value at a time."""

# --- channels -------------------------------------------------------------------------------------


def first_input(flow: Flow, node: Node) -> Labels:
    """The value has the channels of the first argument."""
    return flow.of(node.all_input_nodes[0])


# --- proofs ---------------------------------------------------------------------------------------


def _check_lookup(proof: IntegerProof, node: Node) -> None:
    dtype = proof.type(arguments(node)["q"]).dtype
    if proof.type(node).dtype is torch.float32:
        dtype = torch.float32
    table = proof.tensor(node, "table", dtype)
    if table.numel() != 256:
        raise BackendError(f"a table has 256 entries, not {table.numel()}")


def _looked_up(proof: IntegerProof, node: Node) -> tuple[int, int]:
    table = proof.tensor(node, "table", proof.type(node).dtype)
    return int(table.min()), int(table.max())


_TABULATED = (
    "sigmoid tanh silu hardswish hardsigmoid gelu leaky_relu elu softplus mish exp sqrt celu selu "
    "log_sigmoid hardshrink softshrink threshold square reciprocal rsqrt exp2 expm1 log log1p log2 "
    "erf sin cos atan sinh cosh floor ceil round trunc sign tan asin acos asinh acosh atanh frac "
    "erfc logit sgn sinc"
)
_FLOAT = (
    "logical_not zero fill.Scalar zeros_like ones_like full_like "
    "softmax.int log_softmax.int nan_to_num isnan isinf isfinite to.dtype"
)
SPECS = (
    *(OpSpec(t, quantization=POINTWISE, channels=first_input) for t in overloads(_TABULATED)),
    # These change the sign at most.
    *(
        OpSpec(t, quantization=POINTWISE, channels=first_input, exact=True)
        for t in overloads("abs neg")
    ),
    *(OpSpec(t, channels=first_input) for t in overloads(_FLOAT)),
    OpSpec(LOOKUP, exact=True, bounds=_looked_up, check=_check_lookup),
)
