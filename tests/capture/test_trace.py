from __future__ import annotations

import importlib
import itertools
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.prune import l1_unstructured
from torch.utils import _pytree as pytree

from qpc.calls import aten
from qpc.capture.trace import batch_is_dynamic, trace
from qpc.errors import TraceError, user_line
from qpc.facts import CORE_FORM
from qpc.meta import info
from qpc.passes import FoldBatchNorm, RemoveIdentities
from qpc.pipeline import Pipeline
from qpc.printer import format_graph
from qpc.testing import assert_same_output
from tests.small_models import Call, nodes_of, only


def message(model: Any, inputs: Any) -> str:
    with pytest.raises(TraceError) as caught:
        trace(model, inputs)
    return caught.value.full_text


def line_of(text: str) -> int:
    """The line of this file that holds `text`, outside calls of this function."""
    lines = Path(__file__).read_text(encoding="utf-8").splitlines()
    return next(
        i for i, line in enumerate(lines, start=1) if text in line and "line_of" not in line
    )


# --- what a graph is ------------------------------------------------------------------------------


def test_a_traced_model_computes_what_the_model_computes() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2)).eval()
    gm = trace(model, torch.randn(2, 3, 8, 8))
    assert CORE_FORM.check(gm) is None
    assert_same_output(model, gm, torch.randn(5, 3, 8, 8))


def test_parameters_and_buffers_keep_their_names() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    gm = trace(model, torch.randn(2, 3, 8, 8))
    assert set(gm.state_dict()) == set(model.state_dict())
    gm.load_state_dict(model.state_dict())


def test_the_graph_owns_its_parameters() -> None:
    model = nn.Linear(2, 2)
    gm = trace(model, torch.randn(2, 2))
    with torch.no_grad():
        gm.get_parameter("weight").zero_()
    assert model.weight.abs().sum() > 0


def test_frozen_parameters_stay_frozen() -> None:
    model = nn.Linear(2, 2)
    model.weight.requires_grad_(False)
    gm = trace(model, torch.randn(2, 2))
    assert not gm.get_parameter("weight").requires_grad
    assert gm.get_parameter("bias").requires_grad


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(3, 3), nn.Linear(3, 3)
        self.second.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.second(self.first(x))
        return result


def test_tied_parameters_stay_tied_through_passes() -> None:
    gm = trace(Tied(), torch.randn(2, 3))
    for graph in (gm, Pipeline((FoldBatchNorm(),)).run(gm)):
        assert graph.get_parameter("first.weight") is graph.get_parameter("second.weight")
        assert set(graph.state_dict()) == set(Tied().state_dict())


class Transient(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(3, 3)
        self.inner.register_buffer("scale", torch.ones(3), persistent=False)
        self.register_buffer("shift", torch.ones(3), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.inner(x) * self.inner.scale + self.shift
        return result


def test_buffers_that_are_not_saved_stay_so_through_passes() -> None:
    gm = trace(Transient(), torch.randn(2, 3))
    for graph in (gm, Pipeline((RemoveIdentities(),)).run(gm)):
        assert set(graph.state_dict()) == {"inner.weight", "inner.bias"}
        assert set(dict(graph.named_buffers())) == {"inner.scale", "shift"}


def test_the_model_is_not_changed() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Dropout(0.5))
    model[1].eval()
    modes = [module.training for module in model.modules()]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    gm = trace(model, torch.randn(4, 3))
    assert [module.training for module in model.modules()] == modes == [True, True, False, True]
    assert not gm.training
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_the_model_is_not_changed_by_a_failure() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.5))
    message(model, torch.randn(4, 5))
    assert model.training
    assert model[1].training


def test_the_example_inputs_are_not_changed() -> None:
    x = torch.ones(2, 3)
    gm = trace(Call(lambda x: x.add_(1) * 2), x)
    assert torch.equal(x, torch.ones(2, 3))
    assert not [name for name in vars(x) if "dynam" in name]
    assert torch.equal(gm(x), torch.full((2, 3), 4.0))
    assert torch.equal(x, torch.ones(2, 3))


def test_dropout_is_the_identity_and_batch_norm_uses_its_statistics() -> None:
    model = nn.Sequential(nn.BatchNorm1d(3), nn.Dropout(0.5), nn.Dropout1d(0.5)).train()
    gm = trace(model, torch.randn(4, 3))
    x = torch.randn(4, 3)
    assert_same_output(model.eval(), gm, x)


def test_check_can_be_switched_off() -> None:
    model = Call(lambda x: x + torch.rand(3))
    assert "gives other outputs" in message(model, torch.randn(2, 3))
    assert isinstance(trace(model, torch.randn(2, 3), check=False), torch.fx.GraphModule)


# --- inputs and outputs ---------------------------------------------------------------------------


def test_a_batch_of_one_gives_a_graph_for_any_batch() -> None:
    gm = trace(nn.Flatten(), torch.randn(1, 3, 2))
    assert batch_is_dynamic(gm)
    assert gm(torch.randn(7, 3, 2)).shape == (7, 6)


def test_a_batch_that_the_model_fixes_stays_fixed_and_a_line_says_why(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level("INFO", "qpc"):
        gm = trace(Call(lambda x: x.reshape(2, -1)), torch.randn(2, 3, 4))
    assert "Call is captured for a batch of 2, and no other: " in caplog.text
    assert not batch_is_dynamic(gm)
    assert "f32[2, 3, 4] = input" in format_graph(gm)
    assert gm(torch.randn(2, 3, 4)).shape == (2, 12)


def test_strides_of_examples_fix_nothing() -> None:
    x = torch.randn(3, 4, 5).transpose(0, 2)
    gm = trace(Call(lambda x: x.flatten(1) if x.is_contiguous() else x.reshape(len(x), -1)), x)
    assert batch_is_dynamic(gm)
    assert gm(torch.randn(7, 4, 3)).shape == (7, 12)


def test_a_batch_of_one_that_the_model_fixes_stays_fixed() -> None:
    gm = trace(Call(lambda x: x.reshape(1, 12)), torch.randn(1, 3, 4))
    assert not batch_is_dynamic(gm)
    assert gm(torch.randn(1, 3, 4)).shape == (1, 12)


def test_sizes_that_do_not_grow_with_the_batch_fix_it() -> None:
    gm = trace(Call(lambda x: x.narrow(0, 0, x.shape[0] // 2)), torch.randn(4, 3))
    assert not batch_is_dynamic(gm)
    assert gm(torch.randn(4, 3)).shape == (2, 3)


def test_several_inputs_share_the_batch() -> None:
    gm = trace(Call(lambda a, b: a + b), (torch.randn(2, 3), torch.randn(2, 3)))
    assert format_graph(gm).count("f32[N, 3] = input") == 2
    assert gm(torch.ones(5, 3), torch.ones(5, 3)).shape == (5, 3)


def test_an_input_of_another_size_is_not_batched() -> None:
    gm = trace(Call(lambda a, b: a + b), [torch.randn(2, 3), torch.randn(3)])
    assert "f32[N, 3] = input" in format_graph(gm)
    assert "f32[3] = input" in format_graph(gm)


def test_inputs_without_dimensions_are_not_batched() -> None:
    gm = trace(Call(lambda a, b: a * b), [torch.tensor(2.0), torch.tensor(3.0)])
    assert not batch_is_dynamic(gm)
    assert gm(torch.tensor(4.0), torch.tensor(5.0)) == 20.0


class Keywords(nn.Module):
    def forward(self, image: Tensor, mask: Tensor | None = None) -> dict[str, Any]:
        assert mask is not None
        return {"masked": image * mask, "both": (image, mask.sum(1))}


def test_keyword_inputs_and_nested_outputs_keep_their_names_and_structure() -> None:
    gm = trace(Keywords(), {"image": torch.randn(2, 3), "mask": torch.ones(2, 3)})
    image, mask = torch.randn(4, 3), torch.rand(4, 3)
    result = gm(image=image, mask=mask)
    assert set(result) == {"masked", "both"}
    assert torch.equal(result["masked"], image * mask)
    assert torch.equal(result["both"][1], mask.sum(1))
    assert torch.equal(gm(image, mask)["both"][0], image)


@pytest.mark.parametrize("name", ["args", "kwargs", "self_"])
def test_keyword_inputs_may_have_any_name(name: str) -> None:
    namespace: dict[str, Any] = {"nn": nn}
    exec(f"class M(nn.Module):\n def forward(self, {name}): return {name} + 1", namespace)
    gm = trace(namespace["M"](), {name: torch.zeros(2, 3)})
    assert batch_is_dynamic(gm)
    assert torch.equal(gm(**{name: torch.zeros(3, 3)}), torch.ones(3, 3))


class VariableInputs(nn.Module):
    def forward(self, *parts: Tensor) -> Tensor:
        return torch.cat(parts, 1)


def test_a_variable_number_of_inputs_keeps_the_batch_dynamic() -> None:
    gm = trace(VariableInputs(), [torch.randn(2, 3), torch.randn(2, 1)])
    assert batch_is_dynamic(gm)
    assert gm(torch.randn(5, 3), torch.randn(5, 1)).shape == (5, 4)


class Pair(NamedTuple):
    left: Tensor
    right: Tensor


STRUCTURES: dict[str, Callable[[Tensor], Any]] = {
    "tuple": lambda x: (x + 1, x * 2),
    "list": lambda x: [x + 1, x],
    "dict": lambda x: {"a": x + 1, "b": (x, 3)},
    "one in a tuple": lambda x: (x + 1,),
    "named tuple": lambda x: Pair(x + 1, x),
    "the same value twice": lambda x: (x, x),
    "numbers and nothing": lambda x: (x, 3, None, "text"),
    "the batch size": lambda x: (x, x.shape[0]),
    "a constant": lambda x: (x, torch.ones(3)),
}


@pytest.mark.parametrize("name", STRUCTURES)
def test_outputs_keep_their_structure(name: str) -> None:
    function = STRUCTURES[name]
    gm = trace(Call(function), torch.randn(2, 3))
    x = torch.randn(5, 3)
    assert_same_output(function, gm, x, exact=True)


@dataclass
class Scores:
    first: Tensor
    second: Tensor


def test_containers_that_fx_does_not_know_become_tuples() -> None:
    pytree.register_dataclass(Scores)
    gm = trace(Call(lambda x: Scores(x + 1, x)), torch.randn(2, 3))
    x = torch.randn(5, 3)
    assert_same_output(lambda x: (x + 1, x), gm, x, exact=True)


def test_constants_that_nothing_reads_are_dropped() -> None:
    table = torch.randn(3)
    gm = trace(Call(lambda x: x * table.shape[0]), torch.randn(2, 3))
    assert list(gm.state_dict()) == []
    assert list(gm.named_children()) == []


# --- where nodes come from ------------------------------------------------------------------------


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(x)
        return y * y  # the user's line


def test_nodes_know_the_users_module_and_line() -> None:
    gm = trace(nn.Sequential(Block(), Block()), torch.randn(2, 3, 4, 4))
    convs, squares = nodes_of(gm, aten.conv2d.default), nodes_of(gm, aten.mul.Tensor)
    assert [info(n).module_path for n in convs] == ["0.conv", "1.conv"]
    assert [info(n).module_path for n in squares] == ["0", "1"]
    where = f'File "{__file__}", line {line_of("# the user")}, in forward'
    assert [user_line(n) for n in squares] == [where, where]


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.block = Block()

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.block(self.block(x))
        return result


def test_a_module_that_is_called_twice_has_one_path() -> None:
    gm = trace(Twice(), torch.randn(2, 3, 4, 4))
    paths = [info(node).module_path for node in nodes_of(gm, aten.conv2d.default)]
    assert paths == ["block.conv", "block.conv"]


def test_nodes_made_by_normalization_know_it_too() -> None:
    gm = trace(nn.Sequential(nn.ReLU6()), torch.randn(2, 3))
    assert info(only(gm, aten.clamp.default)).module_path == "0"
    assert user_line(only(gm, aten.clamp.default)) is not None


# --- what cannot be traced ------------------------------------------------------------------------


def test_refuses_what_is_no_module() -> None:
    assert message(torch.relu, torch.randn(2)) == (
        "trace needs an nn.Module, got an object of type builtin_function_or_method\n"
        "  fix: pass an instance, such as qpc.trace(Net(), example_inputs)"
    )


@pytest.mark.parametrize(
    ("model", "fix"),
    [
        ("net.onnx", "qpc.trace_onnx(path)"),
        (Path("net.tflite"), "pass the PyTorch model that it was made from"),
        (nn.ReLU().state_dict(), "model.load_state_dict(weights)"),
        (torch.export.export(nn.ReLU(), (torch.randn(2),)), "qpc.trace(program.module(), "),
    ],
)
def test_what_stands_for_a_model_comes_with_what_to_pass(model: object, fix: str) -> None:
    assert fix in message(model, torch.randn(2))


def test_refuses_a_class_in_place_of_an_instance() -> None:
    assert message(nn.Linear, torch.randn(2)).startswith(
        "trace needs an nn.Module, got the class Linear\n  fix: pass an instance"
    )


def test_refuses_inputs_that_are_not_tensors() -> None:
    assert message(nn.ReLU(), [3]) == (
        "example input 0 is int, not a tensor\n"
        "  fix: bind other arguments first, for example with a wrapper module"
    )
    assert "example input 'mask' is NoneType, not a tensor" in message(
        Keywords(), {"image": torch.randn(2, 3), "mask": None}
    )
    assert message(nn.ReLU(), 3) == (
        "example inputs are int, not tensors\n"
        "  fix: pass one tensor, a sequence of tensors, or a mapping of keyword tensors"
    )


@pytest.mark.parametrize("nothing", [(), {}])
def test_refuses_no_inputs(nothing: Any) -> None:
    assert message(nn.ReLU(), nothing) == (
        "no example inputs\n  fix: pass a tensor of the shape the model expects"
    )


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_refuses_weights_that_are_no_numbers(bad: float) -> None:
    layer = nn.Linear(4, 4)
    with torch.no_grad():
        layer.weight[1, 2] = bad
    assert message(nn.Sequential(layer), torch.randn(2, 4)) == (
        "'0.weight' holds 1 of 16 values that are NaN or infinite\n"
        "  fix: repair or reload the weights; nothing sensible can be computed from them"
    )


def test_accepts_infinite_buffers_such_as_attention_masks() -> None:
    mask = torch.tensor([0.0, -torch.inf])
    gm = trace(Call(lambda x, mask: (x + mask).softmax(-1), mask=mask), torch.randn(3, 2))
    assert torch.equal(gm(torch.zeros(1, 2)), torch.tensor([[1.0, 0.0]]))


def test_refuses_nan_buffers() -> None:
    model = Call(lambda x, shift: x + shift, shift=torch.tensor([torch.nan]))
    assert "'shift' holds 1 of 1 values that are NaN or infinite" in message(model, torch.ones(2))


def test_empty_and_integer_buffers_are_not_looked_at() -> None:
    model = Call(
        lambda x, none, index: x[:, index], none=torch.empty(0), index=torch.tensor([1, 0])
    )
    gm = trace(model, torch.randn(3, 2))
    assert torch.equal(gm(torch.tensor([[1.0, 2.0]])), torch.tensor([[2.0, 1.0]]))


class Broken(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x @ torch.ones(4, 1)  # the line that fails


def test_says_where_the_model_does_not_run_on_the_inputs() -> None:
    text = message(Broken(), torch.randn(2, 5))
    assert text.startswith(
        "Broken does not run on the example inputs of shape (2, 5): mat1 and mat2 shapes"
    )
    assert "\n  fix: pass inputs that model(*example_inputs) accepts\n" in text
    assert text.endswith(
        f'  written: File "{__file__}", line {line_of("# the line that fails")}, in forward'
    )


class Branch(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if x.sum() > 0:  # the branch
            return x
        return -x


def test_names_the_line_of_control_flow_on_values(
    capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    text = message(Branch(), torch.randn(2, 3))
    assert capfd.readouterr().err == ""
    assert not [r for r in caplog.records if r.levelname == "WARNING"]
    assert text.startswith("cannot capture Branch: ")
    assert (
        "  fix: the forward method must not branch or loop on tensor values: "
        "use torch.where, or move the branch out of the model\n" in text
    )
    assert text.endswith(
        f'  written: File "{__file__}", line {line_of("# the branch")}, in forward'
    )


@pytest.mark.parametrize("random", [torch.rand_like, lambda x: F.dropout(x, 0.5, training=True)])
def test_refuses_random_operators(random: Callable[[Tensor], Tensor]) -> None:
    assert message(Call(random), torch.randn(2, 3)) == (
        "the captured graph of Call gives other outputs than the model\n"
        "  fix: look for randomness or Python state in forward(); check=False skips this test"
    )


class Counter(nn.Module):
    def __init__(self, *, in_place: bool) -> None:
        super().__init__()
        self.in_place = in_place
        self.register_buffer("calls", torch.zeros(3))
        self.calls: Tensor

    def forward(self, x: Tensor) -> Tensor:
        if self.in_place:
            self.calls += 1
        else:
            self.calls = self.calls + 1
        return x + self.calls


@pytest.mark.parametrize("in_place", [True, False])
def test_refuses_a_model_that_keeps_state_and_leaves_it_as_it_was(in_place: bool) -> None:
    model = Counter(in_place=in_place)
    assert message(model, torch.randn(2, 3)) == (
        "Counter changes its buffer 'calls'; a graph keeps no state\n"
        "  fix: update buffers only while self.training is true, or return the new value"
    )
    assert torch.equal(model.calls, torch.zeros(3))


class PythonState(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.numbers = itertools.count()

    def forward(self, x: Tensor) -> Tensor:
        return x + next(self.numbers)


def test_refuses_a_model_that_keeps_python_state() -> None:
    assert "gives other outputs than the model" in message(PythonState(), torch.randn(2, 3))


def test_outputs_that_are_nan_on_both_sides_agree() -> None:
    gm = trace(Call(torch.log), -torch.ones(2, 3))
    assert gm(-torch.ones(2, 3)).isnan().all()


def test_refuses_a_lazy_module() -> None:
    assert message(nn.LazyLinear(3), torch.randn(2, 3)) == (
        "'weight' has no shape yet: its module is lazy\n"
        "  fix: run the model once on example inputs before tracing it"
    )


def test_refuses_weights_without_values() -> None:
    assert message(nn.Linear(3, 3, device="meta"), torch.randn(2, 3)) == (
        "'weight' is on the device 'meta' and holds no values\n"
        "  fix: load the weights first, onto the CPU"
    )


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_refuses_a_torchscript_module() -> None:
    scripted = torch.jit.trace(nn.ReLU(), torch.randn(2, 3))
    assert message(scripted, torch.randn(2, 3)) == (
        "trace needs an nn.Module, got a TorchScript module\n"
        "  fix: pass the Python model that it was made from"
    )


def number_of_a_value(x: Tensor) -> Tensor:
    return x * x.max().item()


def as_many_as_are_positive(x: Tensor) -> Tensor:
    return x[x > 0]


class OtherwiseExported(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + torch.zeros(5) if torch.compiler.is_exporting() else x  # the addition


def test_says_what_to_look_for_where_a_model_runs_and_cannot_be_exported(
    capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    text = message(OtherwiseExported(), torch.randn(2, 3))
    assert capfd.readouterr().err == ""
    assert not [r for r in caplog.records if r.levelname in ("WARNING", "ERROR")]
    assert text.startswith("cannot capture OtherwiseExported: Attempting to broadcast")
    assert "look for what forward() does otherwise there, such as torch.compiler.is_ex" in text
    assert f"line {line_of('# the addition')}, in forward" in text


def test_a_buffer_that_is_sparse_and_that_nothing_reads_does_no_harm() -> None:
    model = nn.Linear(3, 3)
    model.register_buffer("heads", torch.eye(3).bool().to_sparse(), persistent=False)
    x = torch.randn(2, 3)
    torch.testing.assert_close(trace(model, x)(x), model(x))


class MergedAtEachCall(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.branch, self.whole = nn.Linear(3, 3), nn.Linear(3, 3)
        self.whole.requires_grad_(requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        self.whole.weight.data = self.branch.weight.data.clone() * 2
        y: Tensor = self.whole(x)
        return y


def test_models_that_write_their_weights_are_told_to_do_so_before() -> None:
    text = message(MergedAtEachCall(), torch.randn(2, 3))
    assert "fix: forward() reads .data of weights, as where branches are merged at each" in text


@pytest.mark.parametrize(
    ("function", "operator"),
    [
        (number_of_a_value, "aten.item.default"),
        (as_many_as_are_positive, "aten.index.Tensor"),
    ],
)
def test_refuses_results_that_depend_on_values_and_says_where(
    function: Callable[[Tensor], Tensor], operator: str
) -> None:
    text = message(Call(function), torch.randn(2, 3))
    assert text.startswith(
        f"cannot capture Call: what {operator} yields depends on the values in a tensor\n"
    )
    assert re.search(r"written: File .*small_models.py\", line \d+, in forward", text)


# --- models that went through other tools ---------------------------------------------------------


def test_what_export_made_of_a_model_is_taken_unless_it_trains() -> None:
    x = torch.randn(2, 3)
    for dropout, training in ((0.5, False), (0.0, True)):
        model = nn.Sequential(nn.Linear(3, 2), nn.Dropout(dropout)).train(training)
        exported = torch.export.export(model, (x,)).module()
        assert torch.equal(trace(exported, x)(x), model(x))
    exported = torch.export.export(nn.Dropout().train(), (x,)).module()
    with pytest.raises(
        TraceError, match="can be switched to inference, and dropout is there as it is in training"
    ) as caught:
        trace(exported, x)
    assert caught.value.fix == "pass the Python model that was exported, or export it in inference"


def test_a_model_that_refuses_inference_and_is_no_graph_is_refused() -> None:
    class Stubborn(nn.Linear):
        def train(self, mode: bool = True) -> Stubborn:
            raise NotImplementedError("no modes")

    with pytest.raises(TraceError, match="switched to inference, and Stubborn is there"):
        trace(Stubborn(3, 2), torch.randn(2, 3))


def test_dequantized_constants_stay_integers() -> None:
    importlib.import_module("torch.ao.quantization.fx._decomposed")

    class Stored(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("points", torch.tensor([[1, -2], [3, 4]], dtype=torch.int8))

        def forward(self, x: Tensor) -> Tensor:
            grid = 0.5, 0, -128, 127, torch.int8
            decomposed = torch.ops.quantized_decomposed
            y: Tensor = x @ decomposed.dequantize_per_tensor(self.points, *grid)
            return y

    gm = trace(Stored(), torch.randn(2, 2))
    assert [n.target for n in gm.graph.nodes if n.op == "get_attr"] == ["points"]


def test_a_model_that_pytorch_quantized_is_refused_with_the_module() -> None:
    model = nn.Sequential(nn.ReLU(), torch.ao.nn.quantized.Quantize(0.5, 3, torch.quint8))
    with pytest.raises(TraceError, match="'1' is quantized by PyTorch already") as caught:
        trace(model, torch.zeros(2, 3))
    assert caught.value.fix == "trace the float model, and quantize it with qpc.quantize"


def test_a_model_that_pytorch_pruned_is_traced() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3))
    l1_unstructured(model[0], "weight", 0.5)
    x = torch.randn(2, 3, 8, 8)
    assert torch.equal(trace(model, x)(x), model(x))


def test_a_wrapper_of_a_model_is_seen_through() -> None:
    x = torch.randn(2, 3)
    model = nn.Linear(3, 2)
    assert torch.equal(trace(nn.DataParallel(model), x)(x), model(x))
