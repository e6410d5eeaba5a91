"""Rewriting by small rules: what to look for, whether it is allowed, what to put there."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from torch.fx import GraphModule, Node

from qpc.base import Pass, PassContext
from qpc.edit import Editor
from qpc.errors import PassError

_Match = TypeVar("_Match")
_LIMIT = 1000  # rounds; only rules that undo each other reach it


@dataclass(frozen=True)
class Rule(ABC, Generic[_Match]):
    """One local rewrite, named after what it matches, such as `ConvThenBatchNorm`."""

    @abstractmethod
    def match(self, gm: GraphModule, node: Node) -> _Match | None:
        """What is found at `node`, the last node of the pattern; None if it is something else."""

    def refuse(self, gm: GraphModule, found: _Match) -> str | None:
        """Why the match must be left alone, in words; None if it may be rewritten."""
        return None

    @abstractmethod
    def replace(self, editor: Editor, found: _Match) -> str:
        """Rewrite the match; return what was done, in words, for the report."""


def apply_rules(
    rules: tuple[Rule[Any], ...], pass_: Pass, gm: GraphModule, ctx: PassContext
) -> bool:
    """Apply rules wherever they match until none does; return whether anything changed.

    Matches that a rule refuses are declined with its reason. Raises PassError if the rules do not
    settle.
    """
    editor = Editor(gm, pass_.name)
    for round_ in range(_LIMIT):
        changed, refused = _sweep(rules, editor, gm, ctx)
        if not changed:  # what an earlier round refused may have been rewritten since
            for node, why in refused:
                ctx.decline(node, why)
            if round_ > 0:
                editor.drop_unused()
            return round_ > 0
    raise PassError(
        f"the rules of {pass_.name!r} do not settle after {_LIMIT} rounds",
        fix="make sure that no rule recreates what another one matches",
    )


def _sweep(
    rules: tuple[Rule[Any], ...], editor: Editor, gm: GraphModule, ctx: PassContext
) -> tuple[bool, list[tuple[Node, str]]]:
    """Apply rules once everywhere; return whether one matched, and the matches refused."""
    changed, refused = False, []
    for node in list(gm.graph.nodes):
        for rule in rules:
            if node._erased:
                break
            found = rule.match(gm, node)
            if found is None:
                continue
            if why := rule.refuse(gm, found):
                refused.append((node, why))
                continue
            ctx.change(node, rule.replace(editor, found))
            changed = True
            break
    return changed, refused
