"""Which operators write to their arguments and which return views, read off their schemas."""

from __future__ import annotations

import torch
from torch._ops import OpOverload
from torch.fx import Node

# Returns its input itself when it has nothing to do, though its schema does not say so.
_SOMETIMES_ALIAS = frozenset(
    {torch.ops.aten.dropout.default, torch.ops.aten.feature_dropout.default}
)


def written_argument(node: Node) -> Node | None:
    """The tensor that an in-place operator writes to, or None if the operator is functional."""
    if not isinstance(node.target, OpOverload):
        return None
    for position, parameter in enumerate(node.target._schema.arguments):
        if parameter.alias_info is not None and parameter.alias_info.is_write:
            value = _argument(node, position, parameter.name)
            return value if isinstance(value, Node) else None
    return None


def aliased_inputs(node: Node) -> list[Node]:
    """The inputs whose memory the value of `node` may share."""
    if not isinstance(node.target, OpOverload):
        return node.all_input_nodes if node.op == "call_function" else []  # getitem of a split
    schema = node.target._schema
    shared = {name for r in schema.returns if r.alias_info for name in r.alias_info.before_set}
    found = []
    for position, parameter in enumerate(schema.arguments):
        value = _argument(node, position, parameter.name)
        if not isinstance(value, Node):
            continue
        may_be_input = node.target in _SOMETIMES_ALIAS and position == 0
        names = parameter.alias_info
        # "*" stands for the elements of a list that the operator returns, as split does
        if may_be_input or (names and (names.before_set & shared or "*" in names.after_set)):
            found.append(value)
    return found


def functional_form(target: OpOverload) -> OpOverload | None:
    """The operator that returns what in-place `target` would write: relu for relu_."""
    namespace, _, name = target._schema.name.partition("::")
    if not name.endswith("_") or name.endswith("__"):
        return None
    packet = getattr(getattr(torch.ops, namespace), name.removesuffix("_"), None)
    overload = target._overloadname
    return getattr(packet, overload, None) if packet is not None else None


def _argument(node: Node, position: int, name: str) -> object:
    return node.args[position] if position < len(node.args) else node.kwargs.get(name)
