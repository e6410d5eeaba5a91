"""A student learns from its teacher, in any stage of its graph, and nothing is left behind."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, distributed, nn
from torch.fx import GraphModule
from torch.nn.parallel import DistributedDataParallel

import qpc
from qpc.errors import ConfigError, PassError
from qpc.pruning.allocation import Uniform
from qpc.pruning.magnitude import L1
from qpc.training import Distillation
from qpc.training.distillation_terms import attention, soft_targets

X = torch.randn(4, 3, 6, 6, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, width, 3), nn.BatchNorm2d(width)
        self.block = nn.Sequential(nn.Conv2d(width, width, 3, padding=1), nn.ReLU())
        self.head = nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.stem(x)))
        result: Tensor = self.head((x + self.block(x)).mean((2, 3)))
        return result


class Outputs(nn.Module):
    def __init__(self, *, named: bool) -> None:
        super().__init__()
        self.first, self.second, self.named = nn.Linear(4, 3), nn.Linear(4, 5), named

    def forward(self, x: Tensor) -> Any:
        found = self.first(x), self.second(x)
        return dict(zip(("main", "other"), found, strict=True)) if self.named else found


@cache
def teacher() -> GraphModule:
    torch.manual_seed(0)
    return qpc.trace(Net().eval(), X)


@cache
def stages() -> dict[str, GraphModule]:
    pruned = qpc.prune(teacher(), L1(), Uniform(0.5))
    return {
        "float": copy.deepcopy(teacher()),
        "pruned": pruned,
        "rounded": qpc.prepare_qat(teacher(), [X]),
        "pruned and rounded": qpc.prepare_qat(pruned, [X]),
        "another model": qpc.trace(Net(4).eval(), X),
    }


def student(stage: str) -> GraphModule:
    return copy.deepcopy(stages()[stage])


@pytest.mark.parametrize("method", ["attention", "similarity", "hint"])
@pytest.mark.parametrize("stage", stages())
def test_students_of_every_stage_and_width_learn_from_values(stage: str, method: str) -> None:
    torch.manual_seed(0)
    gm = qpc.set_training(student(stage))
    distill = Distillation(teacher(), gm, values={"block": 1.0, "norm": 0.5}, method=method)
    optimizer = torch.optim.SGD(distill.parameters(), lr=0.02)
    before = qpc.fingerprint(teacher())
    losses = []
    for _ in range(8):
        outputs, loss = distill(X)
        assert outputs.shape == (4, 5)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert min(losses[1:]) < losses[0] + 1e-6  # that of values which are equal already
    assert list(distill.terms) == ["logits", "block", "norm"]
    assert qpc.fingerprint(teacher()) == before
    assert all(p.grad is None for p in teacher().parameters())
    width = len(dict(gm.named_parameters())["head.weight"][0])
    assert len(distill.projections) == (2 if method == "hint" and width < 8 else 0)


def test_the_loss_is_the_sum_of_the_terms_times_their_weights() -> None:
    gm = student("pruned")
    values = {"block": 3.0}
    distill = Distillation(teacher(), gm, logits=0.5, temperature=2.0, values=values)
    outputs, loss = distill(X)
    assert torch.equal(outputs, gm(X))
    soft = soft_targets(gm(X), teacher()(X), 2.0, 1)
    torch.testing.assert_close(distill.terms["logits"], soft.detach())
    total = 0.5 * distill.terms["logits"] + 3 * distill.terms["block"]
    torch.testing.assert_close(loss.detach(), total)


def test_the_value_of_a_module_is_what_it_returns() -> None:
    gm, net = student("another model"), Net(4).eval()
    net.load_state_dict(gm.state_dict())
    distill = Distillation(teacher(), gm, values={"block": 1.0}, logits=0)
    original = Net().eval()
    original.load_state_dict(teacher().state_dict())
    seen = []
    for model in (net, original):
        model.block.register_forward_hook(lambda module, inputs, value: seen.append(value))
        model(X)
    distill(X)
    torch.testing.assert_close(distill.terms["block"], attention(*seen).detach())


def test_without_terms_nothing_is_lost() -> None:
    outputs, loss = Distillation(teacher(), student("float"), logits=0)(X)
    assert torch.equal(outputs, teacher()(X))
    assert loss.item() == 0


def test_any_module_teaches_by_its_outputs() -> None:
    net = Net().eval()
    net.load_state_dict(teacher().state_dict())
    _, loss = Distillation(net, student("float"))(X)
    assert loss.item() == pytest.approx(0, abs=1e-5)
    with pytest.raises(PassError, match="a distillation of values needs a traced graph, got Net"):
        Distillation(net, student("float"), values={"block": 1.0})


def test_paths_may_differ() -> None:
    other = qpc.trace(nn.Sequential(nn.Conv2d(3, 2, 3), nn.Flatten(), nn.Linear(32, 5)), X)
    distill = Distillation(teacher(), other, values={("block", "0"): 1.0})
    distill(X)[1].backward()
    assert list(distill.terms) == ["logits", "block and 0"]


@pytest.mark.parametrize("named", [True, False])
def test_several_outputs_are_chosen_by_key_or_place(named: bool) -> None:
    x = torch.randn(2, 4)
    gm = qpc.trace(Outputs(named=named), x)
    weights: Any = {"main": 1.0, "other": 0.0} if named else {1: 2.0}
    distill = Distillation(gm, copy.deepcopy(gm), logits=weights)
    outputs, loss = distill(x)
    assert type(outputs) is (dict if named else tuple)
    assert loss.item() == pytest.approx(0, abs=1e-6)
    assert list(distill.terms) == ["logits['main']" if named else "logits[1]"]
    with pytest.raises(PassError, match=r"there are several outputs, a .*: say which are logits"):
        Distillation(gm, copy.deepcopy(gm))(x)
    with pytest.raises(PassError, match=r"logits\[7\]: there is no such output"):
        Distillation(gm, copy.deepcopy(gm), logits={7: 1.0})(x)


# --- nothing is left behind -----------------------------------------------------------------------


def test_the_student_is_trained_in_place_and_nothing_else_is_seen() -> None:
    gm = student("rounded")
    distill = Distillation(teacher(), gm, values={"block": 1.0})
    assert distill.student is gm
    assert set(distill.parameters()) == set(gm.parameters())
    assert [n for n in distill.state_dict() if not n.startswith("student.")] == []
    distill(X)
    assert [m for m in gm.modules() if m._forward_hooks or m._forward_pre_hooks] == []
    assert not any(m._forward_hooks for m in teacher().modules())


def test_switches_edits_and_moves_of_the_student_are_seen() -> None:
    gm = student("float")
    distill = Distillation(teacher(), gm, values={"block": 1.0})
    distill(X)
    qpc.set_training(gm)
    before = gm.get_buffer("norm.running_mean").clone()
    distill(X)
    assert not torch.equal(gm.get_buffer("norm.running_mean"), before)
    qpc.set_training(gm, mode=False)
    gm.to(torch.float64).to(torch.float32)  # its buffers are other tensors now
    gm.get_buffer("norm.running_mean").fill_(3.0)
    assert torch.equal(distill(X)[0], gm(X))


@pytest.fixture
def process_group() -> Iterator[None]:
    distributed.init_process_group(
        "gloo", store=torch._C._distributed_c10d.HashStore(), rank=0, world_size=1
    )
    yield
    distributed.destroy_process_group()


def test_it_runs_under_distributed_data_parallel(process_group: None) -> None:
    gm = student("pruned and rounded")
    distill = Distillation(teacher(), gm, values={"block": 1.0}, method="hint")
    parallel = DistributedDataParallel(distill)
    outputs, loss = parallel(X)
    (loss + outputs.square().mean()).backward()
    assert all(p.grad is not None for p in distill.parameters())


# --- mistakes -------------------------------------------------------------------------------------


@pytest.mark.parametrize("traced", [True, False])
def test_a_teacher_in_training_is_refused(traced: bool) -> None:
    other: nn.Module = qpc.set_training(copy.deepcopy(teacher())) if traced else Net()
    distill = Distillation(other, student("float"))
    with pytest.raises(PassError, match="the teacher is in training mode"):
        distill(X)
    other.eval()
    if traced:  # the flag is not all of it
        with pytest.raises(PassError, match="the teacher is in training mode"):
            distill(X)


def test_a_module_that_a_pass_has_joined_with_the_next_is_said() -> None:
    text = "the value of 'stem' is computed in one step with that of 'norm'"
    with pytest.raises(ConfigError, match=text) as caught:
        Distillation(teacher(), student("rounded"), values={"stem": 1.0})
    assert caught.value.fix == "name 'norm' instead"


def test_unknown_modules_are_named_with_those_that_are_near() -> None:
    with pytest.raises(ConfigError, match="the graph has no value of a module 'blocks'") as caught:
        Distillation(teacher(), student("float"), values={"blocks": 1.0})
    assert caught.value.fix is not None
    assert "'block'" in caught.value.fix


def test_outputs_of_other_classes_are_said_when_they_are_seen() -> None:
    other = qpc.trace(nn.Sequential(nn.Flatten(), nn.Linear(108, 3)), X)
    with pytest.raises(PassError, match=r"output has shape \[4, 3\], the teacher's \[4, 5\]"):
        Distillation(teacher(), other)(X)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"temperature": 0}, "temperature must be greater than 0, got 0"),
        ({"method": "mse"}, "method must be 'attention', 'hint' or 'similarity', got 'mse'"),
        ({"logits": -1}, "logits must be at least 0, got -1"),
        ({"logits": {0: "all"}}, r"logits\[0\] must be a number, at least 0, got 'all'"),
        ({"values": {"block": None}}, r"values\['block'\] must be a number, at least 0, got None"),
        ({"values": {3: 1.0}}, "values must be given by path of a module, or pair of paths, got 3"),
        ({"teacher": 3}, "teacher must be a graph or module, got int"),
        ({"values": {"head": 1.0}}, r"values of shapes \[N, 5\] .* cannot be compared by 'attent"),
    ],
)
def test_settings_that_are_not_allowed_are_named(options: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        Distillation(**{"teacher": teacher(), "student": student("float"), **options})


def test_a_graph_does_not_teach_itself() -> None:
    with pytest.raises(ConfigError, match="teacher and student are one graph"):
        Distillation(teacher(), teacher())
