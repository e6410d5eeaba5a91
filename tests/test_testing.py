"""The harness must fail when it should: every check is shown a pass that breaks it."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from qpc import testing
from qpc.base import Pass, PassContext
from qpc.calls import aten
from qpc.errors import PassError
from qpc.facts import Fact
from qpc.testing import assert_graph, assert_same_output, check_pass, randomized, traced
from tests.small_models import nodes_of, only

X = torch.linspace(-1, 1, 6).reshape(2, 3)
TEXT = """
    graph:
      %input_1: f32[N, 3] = input
      %relu: f32[N, 3] = aten.relu(%input_1)
      return %relu
"""

Action = Callable[[GraphModule, PassContext], Any]
COUNTED = Fact("counted", lambda gm: None if hasattr(gm, "count") else "there is no count")


@dataclass(frozen=True)
class Do(Pass, name="do"):
    """Does what it is told."""

    action: Action

    def apply(self, gm: GraphModule, ctx: PassContext) -> bool:
        result: bool = self.action(gm, ctx)
        return result


@dataclass(frozen=True)
class Count(Do, name="count", requires={COUNTED}, establishes={COUNTED}):
    """Needs and promises a count."""


def model() -> GraphModule:
    return traced(nn.ReLU(), X)


def failure(action: Action, gm: GraphModule | None = None, **options: Any) -> str:
    with pytest.raises(AssertionError) as caught:
        check_pass(Do(action), gm if gm is not None else model(), X, **options)
    return str(caught.value)


def nothing(gm: GraphModule, ctx: PassContext) -> bool:
    return False


def replace_relu(gm: GraphModule, ctx: PassContext) -> bool:
    """The same function, spelled differently."""
    nodes = [n for n in gm.graph.nodes if n.target is aten.relu.default]
    for node in nodes:
        node.target, node.args = aten.clamp.default, (node.args[0], 0)
    return bool(nodes)


def add_buffer(gm: GraphModule, ctx: PassContext) -> bool:
    """A change at every application."""
    gm.register_buffer(f"extra{len(list(gm.buffers()))}", torch.zeros(1))
    return True


# --- check_pass -----------------------------------------------------------------------------------


def test_returns_the_transformed_copy() -> None:
    gm = model()
    result = check_pass(Do(replace_relu), gm, X, before=TEXT)
    assert len(nodes_of(result, aten.clamp.default)) == 1
    assert len(nodes_of(gm, aten.relu.default)) == 1


def test_compares_the_graph_before() -> None:
    assert failure(nothing, before=TEXT.replace("relu", "tanh")) == (
        "the graph before 'do' is not the expected one:\n"
        "--- expected\n"
        "+++ actual\n"
        "@@ -1,4 +1,4 @@\n"
        " graph:\n"
        "   %input_1: f32[N, 3] = input\n"
        "-  %tanh: f32[N, 3] = aten.tanh(%input_1)\n"
        "-  return %tanh\n"
        "+  %relu: f32[N, 3] = aten.relu(%input_1)\n"
        "+  return %relu"
    )


def test_compares_the_graph_after() -> None:
    text = failure(replace_relu, before=TEXT, after=TEXT)
    assert text.startswith("the graph after 'do' is not the expected one:\n--- expected\n")
    assert "\n+  %relu: f32[N, 3] = aten.clamp(%input_1, 0)\n" in text


def test_compares_the_outputs() -> None:
    def double(gm: GraphModule, ctx: PassContext) -> bool:
        node = only(gm, aten.relu.default)
        node.target, node.args = aten.mul.Tensor, (node.args[0], 2)
        return True

    text = failure(double)
    assert text.startswith("output 0 differs: 6 of 6 values, compared with rtol=1e-05, atol=1e-05;")


def test_compares_exactly_on_request() -> None:
    def shift(gm: GraphModule, ctx: PassContext) -> bool:
        node = only(gm, aten.relu.default)
        with gm.graph.inserting_after(node):
            made = gm.graph.call_function(aten.add.Tensor, (node, 1e-6))
        node.replace_all_uses_with(made, delete_user_cb=lambda user: user is not made)
        return True

    check_pass(Do(shift), model(), X, idempotent=False)
    assert "6 of 6 values, compared exactly; the worst at " in failure(shift, exact=True)


def test_a_change_must_be_admitted() -> None:
    def lie(gm: GraphModule, ctx: PassContext) -> bool:
        replace_relu(gm, ctx)
        return False

    assert failure(lie) == "'do' returned False, but it changed the graph"


def test_no_change_must_be_claimed() -> None:
    assert failure(lambda gm, ctx: True) == "'do' returned True, but nothing changed"


@pytest.mark.parametrize("result", [None, 1, "yes"])
def test_the_flag_must_be_a_bool(result: object) -> None:
    text = f"'do' returned {result!r}, not whether anything changed"
    assert failure(lambda gm, ctx: result) == text


def decline(gm: GraphModule, ctx: PassContext) -> bool:
    ctx.decline(only(gm, aten.relu.default), "too simple")
    return False


def test_declines_are_compared_exactly() -> None:
    check_pass(Do(decline), model(), X, declines=["relu: too simple"])
    assert failure(decline) == ("'do' declined other things:\n  not expected: relu: too simple")
    assert failure(decline, declines=["relu: too complex"]) == (
        "'do' declined other things:\n"
        "  missing: relu: too complex\n"
        "  not expected: relu: too simple"
    )
    assert failure(nothing, declines=["relu: too simple"]) == (
        "'do' declined other things:\n  missing: relu: too simple"
    )


def test_applying_again_must_change_nothing() -> None:
    assert failure(add_buffer) == (
        "'do' changed its own result when applied again; pass idempotent=False if it is meant to"
    )
    check_pass(Do(add_buffer), model(), X, idempotent=False)


def test_applying_again_must_not_even_claim_a_change() -> None:
    calls: list[int] = []

    def once(gm: GraphModule, ctx: PassContext) -> bool:
        calls.append(1)
        return replace_relu(gm, ctx) or len(calls) > 1

    assert "changed its own result when applied again" in failure(once)


def test_the_graph_given_must_not_change() -> None:
    gm = model()

    def reach_out(_: GraphModule, ctx: PassContext) -> bool:
        return replace_relu(gm, ctx)

    assert failure(reach_out, gm) == (
        "'do' changed the graph it was given a copy of: it changes a value that copies share, "
        "such as an object in node.meta, in place"
    )


def test_its_training_flags_must_not_change() -> None:
    gm = model()

    def reach_out(_: GraphModule, ctx: PassContext) -> bool:
        gm.train()
        return False

    assert failure(reach_out, gm) == "'do' changed the training flag of the graph it was given"


def test_required_facts_must_hold() -> None:
    with pytest.raises(AssertionError) as caught:
        check_pass(Count(nothing), model(), X)
    assert str(caught.value) == (
        "'count' cannot run here: the graph is not counted: there is no count"
    )


def test_promised_facts_must_hold() -> None:
    gm = model()
    gm.register_buffer("count", torch.zeros(1))

    def lose(gm: GraphModule, ctx: PassContext) -> bool:
        del gm.count
        return True

    check_pass(Count(nothing), gm, X)
    with pytest.raises(AssertionError) as caught:
        check_pass(Count(lose), gm, X)
    assert str(caught.value) == ("after 'count', fact 'counted' does not hold: there is no count")


def test_what_the_pass_raises_comes_through() -> None:
    def fail(gm: GraphModule, ctx: PassContext) -> bool:
        raise PassError("no rule for relu")

    with pytest.raises(PassError, match="no rule for relu"):
        check_pass(Do(fail), model(), X)


# --- assert_same_output ---------------------------------------------------------------------------


def values(*made: Any) -> Callable[..., Any]:
    return lambda *inputs, **named: made


@pytest.mark.parametrize(("name", "value"), [("rtol", 0.1), ("atol", 1.0), ("rtol", -1e-3)])
def test_loose_tolerances_are_refused(name: str, value: float) -> None:
    options: dict[str, Any] = {name: value}
    with pytest.raises(ValueError, match=rf"^{name} must be from 0 to 0\.01, got {value}$"):
        assert_same_output(model(), model(), X, **options)
    with pytest.raises(ValueError, match=rf"^{name} must be from 0 to 0\.01"):
        check_pass(Do(nothing), model(), X, **options)


DIFFERENT: dict[str, tuple[Any, Any, str]] = {
    "structure": ((X,), [X], "the outputs are built differently: "),
    "number": ((X,), (X, X), "the outputs are built differently: "),
    "shape": (
        X,
        X[:1],
        "output 0 differs: torch.float32 [2, 3] and torch.float32 [1, 3]",
    ),
    "dtype": (X, X.double(), "output 0 differs: torch.float32 [2, 3] and torch.float64 [2, 3]"),
    "one value": (
        X,
        X + torch.tensor([[0, 0, 0], [0.5, 0, 0]]),
        "output 0 differs: 1 of 6 values, compared with rtol=1e-05, atol=1e-05; "
        "the worst at [1, 0]: ",
    ),
    "nan": (
        torch.tensor([1.0, 2.0]),
        torch.tensor([1.0, torch.nan]),
        "output 0 differs: 1 of 2 values, compared with rtol=1e-05, atol=1e-05; "
        "the worst at [1]: 2.0 and nan",
    ),
    "integers": (
        torch.tensor([2**60, 3]),
        torch.tensor([2**60 + 1, 3]),
        f"output 0 differs: 1 of 2 values, compared exactly; the worst at [0]: {2**60} and ",
    ),
    "scalars": (torch.tensor(1.0), torch.tensor(2.0), "output 0 differs: 1 of 1 values"),
    "numbers": (3, 4, "output 0 differs: 3 and 4"),
    "types": (1, True, "output 0 differs: 1 and True"),
    "tensor and number": (torch.tensor(3), 3, "output 0 differs: tensor(3) and 3"),
}


@pytest.mark.parametrize("name", DIFFERENT)
def test_differences_are_described(name: str) -> None:
    a, b, text = DIFFERENT[name]
    with pytest.raises(AssertionError) as caught:
        assert_same_output(lambda x: a, lambda x: b, X)
    assert str(caught.value).startswith(text)


def test_the_output_that_differs_is_numbered() -> None:
    with pytest.raises(AssertionError, match="output 1 differs: "):
        assert_same_output(values(X, X), values(X, X + 1), X)


def test_equal_outputs_pass() -> None:
    nan = torch.tensor([torch.nan, torch.inf])
    assert_same_output(values(nan, 3, None, "text"), values(nan, 3, None, "text"), X, exact=True)
    assert_same_output(values(torch.empty(0, 3)), values(torch.empty(0, 3)), X)
    assert_same_output(values(X.bool()), values(X.bool()), X)


def test_small_differences_pass_unless_exact() -> None:
    assert_same_output(values(X), values(X + 1e-6), X)
    assert_same_output(values(100 * X), values(100.5 * X), X, rtol=1e-2)
    with pytest.raises(AssertionError, match="compared exactly"):
        assert_same_output(values(X), values(X + 1e-6), X, exact=True)


@pytest.mark.parametrize("inputs", [X, (X, X), [X], {"a": X, "b": X}])
def test_inputs_are_one_tensor_a_sequence_or_keywords(inputs: Any) -> None:
    seen: list[object] = []

    def record(*args: Tensor, **kwargs: Tensor) -> Tensor:
        seen.append((len(args), sorted(kwargs)))
        return X

    assert_same_output(record, record, inputs)
    expected = {Tensor: (1, []), tuple: (2, []), list: (1, []), dict: (0, ["a", "b"])}
    assert seen == [expected[type(inputs)]] * 2


def test_a_model_that_writes_to_its_inputs_does_not_spoil_the_comparison() -> None:
    x = X.clone()
    assert_same_output(lambda x: x.add_(1), lambda x: x + 1, x)
    assert torch.equal(x, X)


# --- the rest -------------------------------------------------------------------------------------


def test_graphs_compare_up_to_indentation() -> None:
    assert_graph(model(), TEXT)
    assert_graph(model(), textwrap.dedent(TEXT))
    with pytest.raises(AssertionError, match="the graph is not the expected one"):
        assert_graph(model(), "graph:")


def test_traced_takes_the_inputs_one_by_one() -> None:
    gm = traced(nn.Bilinear(3, 3, 2), X, X)
    assert gm(X, X).shape == (2, 2)


def test_randomized_models_are_reproducible_and_not_the_identity() -> None:
    def build() -> nn.Module:
        return nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))

    a, b, c = randomized(build()), randomized(build()), randomized(build(), seed=1)
    assert all(torch.equal(v, b.state_dict()[k]) for k, v in a.state_dict().items())
    assert not torch.equal(a.state_dict()["0.weight"], c.state_dict()["0.weight"])
    norm = a.get_submodule("1")
    assert isinstance(norm, nn.BatchNorm2d)
    assert norm.running_var is not None
    assert norm.running_var.min() > 0
    assert norm.running_mean is not None
    assert norm.running_mean.abs().max() > 0
    assert int(norm.num_batches_tracked or 0) == 0


def test_everything_public_is_listed() -> None:
    defined = {
        name
        for name, value in vars(testing).items()
        if callable(value) and getattr(value, "__module__", "") == "qpc.testing"
    }
    assert {name for name in defined if not name.startswith("_")} == set(testing.__all__)
