"""Merge tables (lookup tables) and clamps that follow one another into one table.

Before:  x -> qpc::lookup(table 1) -> qpc::clamp(3, 200) -> qpc::lookup(table 2) -> y
After:   x -> qpc::lookup(table 2 of clamped table 1) -> y
Keeps:   the output, bit for bit
Leaves:  a table or clamp whose value is read elsewhere too
Cost:    one walk over the graph, and 256 values for each pair

The merged table says what the two operators make of every integer, rounding in between included.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.fx import GraphModule, Node
from torch.fx.node import map_arg

from qpc.base import Pass, PassContext
from qpc.calls import qpc_ops
from qpc.edit import Editor
from qpc.facts import CORE_FORM, INTEGER
from qpc.meta import attribute, info, label, update_info, value_name
from qpc.rewrite import Rule, apply_rules

_TABLE, _CLAMP = qpc_ops.lookup.default, qpc_ops.clamp.default


@dataclass(frozen=True)
class _Found:
    first: Node
    second: Node


@dataclass(frozen=True)
class TwoTables(Rule[_Found]):
    """A table or clamp behind another, at least one of them a table."""

    def match(self, gm: GraphModule, node: Node) -> _Found | None:
        if node.target not in (_TABLE, _CLAMP):
            return None
        first = node.args[0]
        assert isinstance(first, Node)
        targets = (first.target, node.target)
        known = first.target in (_TABLE, _CLAMP)
        return _Found(first, node) if known and _TABLE in targets else None

    def refuse(self, gm: GraphModule, found: _Found) -> str | None:
        readers = len(found.first.users)
        return f"{label(found.first)} is read by {readers} nodes" if readers > 1 else None

    def replace(self, editor: Editor, found: _Found) -> str:
        first, second = found.first, found.second
        source = first.args[0]
        assert isinstance(source, Node)
        dtype = info(source).dtype
        assert dtype is not None
        limits = torch.iinfo(dtype)
        every = torch.arange(limits.min, limits.max + 1).to(dtype)
        table = _result(editor.gm, second, _result(editor.gm, first, every))
        name = editor.free_name(f"tables.{second.name}")
        constant = editor.buffer(name, table, before=second)
        made = editor.call(_TABLE, source, constant, like=second)
        about = info(second)
        value = value_name(second) or ""
        update_info(made, qparams=about.qparams, config=about.config, value=value)
        text = f"merged {label(first)} and {label(second)}"
        editor.replace(second, made)
        editor.gm.graph.erase_node(first)
        return text


def _result(gm: GraphModule, node: Node, values: Tensor) -> Tensor:
    """What a table or a clamp makes of values."""
    constants = map_arg(node.args[1:], lambda n: attribute(gm, str(n.target)))
    result: Tensor = node.target(values, *constants)  # type: ignore[operator]  # its target is an operator
    return result


@dataclass(frozen=True)
class MergeTables(Pass, name="merge-tables", requires={CORE_FORM, INTEGER}):
    """Merge chains of functions of one value, which have become tables and clamps."""

    def apply(self, gm: GraphModule, ctx: PassContext) -> bool:
        return apply_rules((TwoTables(),), self, gm, ctx)
