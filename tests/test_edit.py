from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.fx import GraphModule

from qpc.calls import aten
from qpc.edit import Editor, reads
from qpc.facts import CORE_FORM
from qpc.meta import info
from qpc.printer import format_graph
from qpc.testing import traced
from qpc.types import BatchDim
from tests.quantizing import observed
from tests.small_models import Call, only

X = torch.randn(2, 3)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.block = nn.Sequential(nn.Linear(3, 3), nn.ReLU())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.block(x)
        return result


def model() -> tuple[GraphModule, Editor]:
    gm = traced(Net(), X)
    return gm, Editor(gm, "some-pass")


def order(gm: GraphModule) -> list[str]:
    return [node.name for node in gm.graph.nodes if node.op != "get_attr"]


# --- calls ----------------------------------------------------------------------------------------


def test_a_new_call_stands_before_the_node_it_is_like() -> None:
    gm, editor = model()
    relu = only(gm, aten.relu.default)
    made = editor.call(aten.neg.default, relu.args[0], like=relu)
    assert order(gm) == ["x", "linear", "neg_default", "relu", "output"]
    assert (made.args, made.kwargs) == ((only(gm, aten.linear.default),), {})


def test_a_new_call_may_stand_elsewhere() -> None:
    gm, editor = model()
    linear, relu = only(gm, aten.linear.default), only(gm, aten.relu.default)
    editor.call(aten.neg.default, relu, like=relu, after=relu)
    editor.call(aten.abs.default, linear.args[0], like=relu, before=linear)
    assert order(gm) == ["x", "abs_default", "linear", "relu", "neg_default", "output"]


def test_a_new_call_takes_keyword_arguments() -> None:
    gm, editor = model()
    relu = only(gm, aten.relu.default)
    made = editor.call(aten.sum.dim_IntList, relu, [1], like=relu, after=relu, dtype=torch.float64)
    assert made.kwargs == {"dtype": torch.float64}
    assert info(made).dtype is torch.float64


def test_a_new_call_knows_its_module_line_origin_and_shape() -> None:
    gm, editor = model()
    linear = only(gm, aten.linear.default)
    made = editor.call(aten.unsqueeze.default, linear, 1, like=linear, after=linear)
    about = info(made)
    assert (about.module_path, about.origin) == ("block.0", "some-pass")
    assert (about.shape, about.dtype) == ((BatchDim(), 1, 3), torch.float32)
    assert made.stack_trace == linear.stack_trace is not None


# --- tensors --------------------------------------------------------------------------------------


def test_new_parameters_and_buffers_are_read_by_nodes_that_know_their_type() -> None:
    gm, editor = model()
    relu = only(gm, aten.relu.default)
    weight = editor.parameter("extra.deep.weight", torch.ones(3), before=relu)
    scale = editor.buffer("extra.scale", torch.ones(3, dtype=torch.int8), before=relu)
    assert isinstance(gm.get_parameter("extra.deep.weight"), nn.Parameter)
    assert gm.get_buffer("extra.scale").dtype == torch.int8
    assert (weight.op, weight.target) == ("get_attr", "extra.deep.weight")
    assert (info(scale).shape, info(scale).dtype) == ((3,), torch.int8)
    assert info(scale).origin == "some-pass"
    assert CORE_FORM.check(gm) is None


def test_a_stored_tensor_replaces_what_is_there() -> None:
    gm, editor = model()
    editor.set_tensor("block.0.weight", torch.zeros(1, requires_grad=True))
    assert "block.0.weight" not in dict(gm.named_parameters())
    assert not gm.get_buffer("block.0.weight").requires_grad
    editor.set_tensor("block.0.weight", nn.Parameter(torch.ones(2)))
    assert "block.0.weight" not in dict(gm.named_buffers())


def test_a_buffer_that_is_not_saved_stays_so_when_replaced() -> None:
    gm, editor = model()
    gm.register_buffer("shift", torch.zeros(3), persistent=False)
    editor.set_tensor("shift", torch.ones(3))
    assert "shift" not in gm.state_dict()
    assert torch.equal(gm.get_buffer("shift"), torch.ones(3))


def test_free_names_do_not_clash_with_tensors_or_modules() -> None:
    _, editor = model()
    assert editor.free_name("block.1.weight") == "block.1.weight"
    assert editor.free_name("block.0.weight") == "block.0.weight_1"
    assert editor.free_name("block.0") == "block.0_1"
    editor.set_tensor("block.0.weight_1", torch.zeros(1))
    assert editor.free_name("block.0.weight") == "block.0.weight_2"


def test_promotion_moves_tensors_up_where_their_name_is_free() -> None:
    gm, editor = model()
    relu = only(gm, aten.relu.default)
    taken = editor.buffer("new.block.0.weight", torch.ones(3), before=relu)
    free = editor.buffer("new.block.0.multiplier", torch.ones(3), before=relu)
    editor.promote("new")
    assert taken.target == "new.block.0.weight"
    assert free.target == "block.0.multiplier"
    assert torch.equal(gm.get_buffer("block.0.multiplier"), torch.ones(3))


@pytest.mark.parametrize("tied", [False, True])
def test_reads_counts_readers_under_all_names(tied: bool) -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(3, 3), nn.Linear(3, 3)
            if tied:
                self.b.weight = self.a.weight

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            result: torch.Tensor = self.b(self.a(self.a(x)))
            return result

    gm = traced(Two(), X)
    weights = [n for n in gm.graph.nodes if n.op == "get_attr" and "weight" in str(n.target)]
    assert sorted(reads(gm, node) for node in weights) == ([3] if tied else [1, 2])


# --- replacing and clearing up --------------------------------------------------------------------


def test_replacing_a_node_redirects_its_readers() -> None:
    gm, editor = model()
    relu = only(gm, aten.relu.default)
    made = editor.call(aten.neg.default, relu.args[0], like=relu)
    editor.replace(relu, made)
    gm.recompile()
    assert order(gm) == ["x", "linear", "neg_default", "output"]
    assert (gm(X) == -nn.functional.linear(X, *gm.parameters())).all()


def test_a_replacement_may_read_what_it_replaces() -> None:
    gm, editor = model()
    linear = only(gm, aten.linear.default)
    made = editor.call(aten.neg.default, linear, like=linear, after=linear)
    linear.replace_all_uses_with(made, delete_user_cb=lambda user: user is not made)
    assert only(gm, aten.relu.default).args == (made,)
    assert made.args == (linear,)


def test_clearing_up_removes_unread_calls_tensors_and_modules() -> None:
    gm, editor = model()
    linear, relu = only(gm, aten.linear.default), only(gm, aten.relu.default)
    relu.replace_input_with(linear, linear.all_input_nodes[0])
    editor.drop_unused()
    gm.recompile()
    assert order(gm) == ["x", "relu", "output"]
    assert list(gm.state_dict()) == []
    assert list(gm.named_children()) == []
    assert "linear" not in format_graph(gm)


def test_clearing_up_keeps_observers_and_modules_with_tensors() -> None:
    gm = observed(nn.Linear(3, 3), X)
    before = list(gm.state_dict())
    Editor(gm, "some-pass").drop_unused()
    assert list(gm.state_dict()) == before
    assert any(name.startswith("observers.") for name in before)


def test_clearing_up_keeps_a_tensor_under_the_name_that_is_read() -> None:
    gm = traced(Call(lambda x, a: x + a, a=torch.ones(3)), X)
    gm.register_buffer("twin", gm.get_buffer("a"))
    Editor(gm, "some-pass").drop_unused()
    assert list(gm.state_dict()) == ["a"]


def test_names_of_methods_of_modules_are_never_free() -> None:
    editor = Editor(traced(nn.Linear(3, 2), torch.zeros(1, 3)), "test")
    assert editor.free_name("_constants.to") == "_constants.to_1"
    assert editor.free_name("half") == "half_1"
    assert editor.free_name("constant") == "constant"
