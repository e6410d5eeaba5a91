from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch.fx import Graph, GraphModule, Node

from qpc.base import Pass, PassContext
from qpc.calls import aten
from qpc.edit import Editor
from qpc.errors import PassError
from qpc.rewrite import Rule, apply_rules
from qpc.testing import check_pass
from tests.small_models import graph_of

X = torch.randn(2, 3)


@dataclass(frozen=True)
class NegOfNeg(Rule[tuple[Node, Node]]):
    """Two negations in a row."""

    def match(self, gm: GraphModule, node: Node) -> tuple[Node, Node] | None:
        inner = node.args[0] if node.target is aten.neg.default else None
        if isinstance(inner, Node) and inner.target is aten.neg.default:
            return node, inner
        return None

    def refuse(self, gm: GraphModule, found: tuple[Node, Node]) -> str | None:
        _, inner = found
        return f"{inner.name} is read elsewhere" if len(inner.users) > 1 else None

    def replace(self, editor: Editor, found: tuple[Node, Node]) -> str:
        outer, inner = found
        source = inner.args[0]
        assert isinstance(source, Node)
        editor.replace(outer, source)
        return f"cancelled {inner.name}"


@dataclass(frozen=True)
class AnyAbs(Rule[Node]):
    """An absolute value, to be spelled as relu(x) + relu(-x) by this rule."""

    def match(self, gm: GraphModule, node: Node) -> Node | None:
        return node if node.target is aten.abs.default else None

    def replace(self, editor: Editor, found: Node) -> str:
        x = found.args[0]
        positive = editor.call(aten.relu.default, x, like=found)
        minus = editor.call(aten.neg.default, x, like=found)
        negative = editor.call(aten.relu.default, minus, like=found)
        editor.replace(found, editor.call(aten.add.Tensor, positive, negative, like=found))
        return "spelled out"


@dataclass(frozen=True)
class AbsOfNeg(Rule[Node]):
    """The absolute value of a negation."""

    def match(self, gm: GraphModule, node: Node) -> Node | None:
        inner = node.args[0] if node.target is aten.abs.default else None
        return node if isinstance(inner, Node) and inner.target is aten.neg.default else None

    def replace(self, editor: Editor, found: Node) -> str:
        (inner,) = found.all_input_nodes
        editor.replace(found, editor.call(aten.abs.default, inner.args[0], like=found))
        return "skipped a sign"


@dataclass(frozen=True)
class Swap(Rule[Node]):
    """Turns relu into abs, or abs into relu."""

    before: Any
    after: Any

    def match(self, gm: GraphModule, node: Node) -> Node | None:
        return node if node.target is self.before else None

    def replace(self, editor: Editor, found: Node) -> str:
        editor.replace(found, editor.call(self.after, found.args[0], like=found))
        return "swapped"


@dataclass(frozen=True)
class Rewrite(Pass, name="rewrite"):
    """Applies rules."""

    rules: tuple[Rule[Any], ...] = (NegOfNeg(),)

    def apply(self, gm: GraphModule, ctx: PassContext) -> bool:
        return apply_rules(self.rules, self, gm, ctx)


def negations(count: int) -> GraphModule:
    def build(graph: Graph, x: Node) -> Node:
        for _ in range(count):
            x = graph.call_function(aten.neg.default, (x,))
        return x

    return graph_of(build, 3)


def test_a_match_is_replaced() -> None:
    check_pass(
        Rewrite(),
        negations(2),
        X,
        before="""
            graph:
              %x: f32[N, 3] = input
              %neg_default: f32[N, 3] = aten.neg(%x)
              %neg_default_1: f32[N, 3] = aten.neg(%neg_default)
              return %neg_default_1
        """,
        after="""
            graph:
              %x: f32[N, 3] = input
              return %x
        """,
        exact=True,
    )


@pytest.mark.parametrize(("count", "left"), [(3, 1), (4, 0), (5, 1)])
def test_rules_apply_until_none_matches(count: int, left: int) -> None:
    result = check_pass(Rewrite(), negations(count), X, exact=True)
    assert len(result.graph.nodes) == 2 + left


def test_changes_are_reported_in_the_rules_words() -> None:
    ctx = PassContext()
    gm = negations(2)
    assert Rewrite().apply(gm, ctx)
    report = ctx.finish(Rewrite(), seconds=0.0, changed=True)
    assert [str(remark) for remark in report.changes] == ["neg_default_1: cancelled neg_default"]


def test_refused_matches_are_declined_with_the_reason() -> None:
    def build(graph: Graph, x: Node) -> tuple[Node, ...]:
        inner = graph.call_function(aten.neg.default, (x,))
        return inner, graph.call_function(aten.neg.default, (inner,))

    check_pass(
        Rewrite(),
        graph_of(build, 3),
        X,
        declines=["neg_default_1: neg_default is read elsewhere"],
        exact=True,
    )


def test_a_rule_need_not_refuse_anything() -> None:
    gm = graph_of(lambda g, x: g.call_function(aten.abs.default, (x,)), 3)
    result = check_pass(Rewrite((AnyAbs(),)), gm, X, exact=True)
    assert len(result.graph.nodes) == 6


def test_a_decline_that_a_later_round_overtakes_is_not_reported() -> None:
    def build(graph: Graph, x: Node) -> tuple[Node, ...]:
        inner = graph.call_function(aten.neg.default, (x,))
        outer = graph.call_function(aten.neg.default, (inner,))
        return outer, graph.call_function(aten.abs.default, (inner,))

    result = check_pass(Rewrite((NegOfNeg(), AbsOfNeg())), graph_of(build, 3), X, exact=True)
    assert [n.target for n in result.graph.nodes].count(aten.neg.default) == 0


def test_rules_that_undo_each_other_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qpc.rewrite._LIMIT", 20)
    rules = (Swap(aten.relu.default, aten.abs.default), Swap(aten.abs.default, aten.relu.default))
    gm = graph_of(lambda g, x: g.call_function(aten.abs.default, (x,)), 3)
    with pytest.raises(PassError) as caught:
        Rewrite(rules).apply(gm, PassContext())
    assert caught.value.full_text == (
        "the rules of 'rewrite' do not settle after 20 rounds\n"
        "  fix: make sure that no rule recreates what another one matches"
    )


def test_unread_calls_and_tensors_go_after_a_change() -> None:
    root = torch.nn.Module()
    root.register_buffer("unused", torch.ones(3))

    def build(graph: Graph, x: Node) -> Node:
        inner = graph.call_function(aten.neg.default, (x,))
        graph.call_function(aten.add.Tensor, (x, graph.get_attr("unused")))
        return graph.call_function(aten.neg.default, (inner,))

    result = check_pass(Rewrite(), graph_of(build, 3, root=root), X, exact=True)
    assert list(result.state_dict()) == []
    assert len(result.graph.nodes) == 2
