from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import nn
from torch.fx import GraphModule

from qpc.base import Pass, PassContext
from qpc.calls import aten
from qpc.errors import ConfigError, InvariantError, PassError, PipelineOrderError
from qpc.facts import CORE_FORM, Fact
from qpc.hashing import fingerprint
from qpc.meta import info
from qpc.pipeline import Pipeline
from qpc.testing import traced
from tests.small_models import only

X = torch.randn(2, 3)
BLESSED = Fact("blessed", lambda gm: None if hasattr(gm, "blessing") else "there is no blessing")
READY = Fact("ready", lambda gm: None)


@dataclass(frozen=True)
class Bless(Pass, name="bless", requires={CORE_FORM}, establishes={BLESSED}):
    """Adds the buffer `blessing`."""

    really: bool = True

    def apply(self, gm: GraphModule, ctx: PassContext) -> bool:
        if self.really:
            gm.register_buffer("blessing", torch.ones(1))
        ctx.summarize("blessed")
        return self.really


@dataclass(frozen=True)
class Curse(Pass, name="curse", requires={BLESSED}, invalidates={BLESSED}):
    """Removes it."""

    def apply(self, gm: GraphModule, ctx: PassContext) -> bool:
        del gm.blessing
        return True


@dataclass(frozen=True)
class Spoil(Pass, name="spoil"):
    """Removes it, and does not say so."""

    def apply(self, gm: GraphModule, ctx: PassContext) -> bool:
        del gm.blessing
        return True


@dataclass(frozen=True)
class Double(Pass, name="double"):
    """Doubles the output."""

    def apply(self, gm: GraphModule, ctx: PassContext) -> bool:
        (output,) = (n for n in gm.graph.nodes if n.op == "output")
        with gm.graph.inserting_before(output):
            made = gm.graph.call_function(aten.mul.Tensor, (output.args[0], 2))
        output.args = (made,)
        return True


@dataclass(frozen=True)
class Fail(Pass, name="fail"):
    """Raises."""

    error: Exception
    text: str = ""

    def apply(self, gm: GraphModule, ctx: PassContext) -> bool:
        raise self.error


def model() -> GraphModule:
    return traced(nn.Linear(3, 3), X)


# --- building -------------------------------------------------------------------------------------


def test_facts_are_tracked_when_a_pipeline_is_built() -> None:
    Pipeline((Bless(), Curse(), Bless()))
    Pipeline((Curse(),), assume={BLESSED})


def test_a_missing_fact_is_an_error_before_any_data_runs() -> None:
    with pytest.raises(PipelineOrderError) as caught:
        Pipeline((Bless(), Curse(), Curse()))
    assert caught.value.full_text == (
        "pass 'curse' (#2) requires blessed, which nothing before it establishes\n"
        "  fix: put a pass that establishes blessed before it, or list it in assume="
    )


def test_several_missing_facts_are_named_in_order() -> None:
    class Needy(Bless, name="needy", requires={READY, BLESSED}):
        """Needs two facts."""

    with pytest.raises(PipelineOrderError, match="requires blessed, ready, which"):
        Pipeline((Needy(),))


def test_the_assumed_facts_are_those_of_a_traced_graph_unless_given() -> None:
    assert Pipeline(()).assume == {CORE_FORM}
    with pytest.raises(PipelineOrderError, match="requires core-form"):
        Pipeline((Bless(),), assume=set())


@pytest.mark.parametrize(
    ("passes", "message"),
    [
        ([Bless()], "passes must be a tuple, got list"),
        (Bless(), "passes must be a tuple, got Bless"),
        ((Bless,), f"item 0 of the pipeline is {Bless!r}, not a pass instance"),
        ((Bless(), "curse"), "item 1 of the pipeline is 'curse', not a pass instance"),
    ],
)
def test_a_pipeline_takes_pass_instances(passes: Any, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Pipeline(passes)
    assert str(caught.value) == message


def test_pipelines_add_up_and_are_checked_again() -> None:
    both = Pipeline((Bless(),)) + Pipeline((Curse(),), assume={BLESSED})
    assert both == Pipeline((Bless(), Curse()))
    with pytest.raises(PipelineOrderError, match="requires blessed"):
        both + Pipeline((Curse(),), assume={BLESSED})


# --- running --------------------------------------------------------------------------------------


def test_running_copies_the_graph() -> None:
    gm = model()
    before = fingerprint(gm)
    result = Pipeline((Bless(), Double())).run(gm)
    assert fingerprint(gm) == before
    assert result is not gm
    assert torch.equal(result(X), 2 * gm(X))


def test_an_empty_pipeline_returns_a_copy() -> None:
    gm = model()
    result = Pipeline(()).run(gm)
    assert result is not gm
    assert fingerprint(result) == fingerprint(gm)


def test_new_nodes_get_shapes() -> None:
    result = Pipeline((Double(),)).run(model())
    assert str(info(only(result, aten.mul.Tensor)).shape) == "(BatchDim(factor=1, offset=0), 3)"


def test_reports_are_collected_in_the_context() -> None:
    ctx = PassContext()
    Pipeline((Bless(), Bless(really=False))).run(model(), ctx)
    assert [(r.name, r.changed, r.summary) for r in ctx.reports] == [
        ("bless", True, "blessed"),
        ("bless", False, "blessed"),
    ]
    assert all(r.seconds >= 0.0 for r in ctx.reports)


def test_a_graph_without_the_assumed_facts_is_refused() -> None:
    with pytest.raises(PassError) as caught:
        Pipeline((Curse(),), assume={BLESSED}).run(model())
    assert caught.value.full_text == (
        "the graph is not blessed: there is no blessing\n"
        "  fix: start from qpc.trace(model, example_inputs), "
        "or from what the earlier passes returned"
    )


def test_a_pass_that_does_not_establish_its_fact_is_found_out() -> None:
    with pytest.raises(
        InvariantError, match=r"^after 'bless', fact 'blessed' does not hold: there is no blessing$"
    ):
        Pipeline((Bless(really=False),)).run(model())


def test_a_pass_that_breaks_a_fact_is_found_out() -> None:
    with pytest.raises(InvariantError, match="after 'spoil', fact 'blessed' does not hold"):
        Pipeline((Bless(), Spoil())).run(model())


def test_an_invalidated_fact_is_not_checked() -> None:
    assert not hasattr(Pipeline((Bless(), Curse())).run(model()), "blessing")


def test_checks_can_be_switched_off() -> None:
    Pipeline((Bless(), Spoil())).run(model(), PassContext(check=False))


def test_errors_name_the_pass() -> None:
    with pytest.raises(PassError) as caught:
        Pipeline((Fail(PassError("no rule", fix="none")),)).run(model())
    assert caught.value.full_text == (
        "no rule\n  fix: none\n  in pass: Fail(error=PassError('no rule'), text='')"
    )


def test_long_options_are_cut_short_in_errors() -> None:
    with pytest.raises(PassError) as caught:
        Pipeline((Fail(PassError("no rule"), "x" * 999),)).run(model())
    last = caught.value.full_text.splitlines()[-1]
    assert last.startswith("  in pass: Fail(error=PassError('no rule'), text='xxx")
    assert last.endswith("xxx...")
    assert len(last) < 230


def test_foreign_errors_become_pass_errors() -> None:
    with pytest.raises(PassError, match=r"^pass 'fail' failed: KeyError: 'x'$") as caught:
        Pipeline((Fail(KeyError("x")),)).run(model())
    assert isinstance(caught.value.__cause__, KeyError)


def test_a_graph_that_a_pass_leaves_malformed_is_an_error() -> None:
    class Break(Pass, name="break"):
        """Lets a node read a later one."""

        def apply(self, gm: GraphModule, ctx: PassContext) -> bool:
            node = only(gm, aten.linear.default)
            node.args = (node, *node.args[1:])
            return True

    with pytest.raises(PassError, match=r"^pass 'break' failed: RuntimeError: Argument"):
        Pipeline((Break(),)).run(model())
