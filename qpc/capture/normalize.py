"""One spelling per operator: rewrite a functional ATen graph into core form.

Every rule (see `qpc.capture.rules`) is a small function from a call to what stands for it. The
rules see concrete shapes, so that squeeze, unsqueeze, flatten, view and unflatten all become one
`reshape`, and chunk, split and unbind become slices.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping

from torch._ops import OpOverload
from torch.fx import GraphModule, Node

from qpc.capture.rules import (
    arithmetic,
    assignments,
    permutations,
    reductions,
    shapes,
    slices,
    windows,
)
from qpc.capture.rules.call import Call, Rule
from qpc.shapes import infer_shapes

RULES: Mapping[OpOverload, Rule] = {
    **shapes.RULES,
    **permutations.RULES,
    **slices.RULES,
    **assignments.RULES,
    **arithmetic.RULES,
    **reductions.RULES,
    **windows.RULES,
}
"""The rule of each operator that has another spelling in core form, or may have one."""


def normalize(gm: GraphModule) -> None:
    """Rewrite `gm` into core form, in place. Node info must carry shapes."""
    for node in list(gm.graph.nodes):
        if node.op != "call_function" or not isinstance(node.target, OpOverload):
            continue
        rule = RULES.get(node.target)
        replacement = rule(Call(gm, node)) if rule is not None else None
        if replacement is not None:
            _replace(gm, node, replacement)
    shapes.drop_expansions(gm)
    gm.graph.eliminate_dead_code()
    infer_shapes(gm, only_missing=True)


def _replace(gm: GraphModule, node: Node, replacement: Node | list[Node]) -> None:
    if isinstance(replacement, list):
        for item in list(node.users):
            index = item.args[1]
            assert item.target is operator.getitem
            assert isinstance(index, int)
            item.replace_all_uses_with(replacement[index])
            gm.graph.erase_node(item)
    elif replacement is not node:
        node.replace_all_uses_with(replacement)
    if not node.users and replacement is not node:
        gm.graph.erase_node(node)
