"""Training goes on from a checkpoint as if it had never stopped; what was forged is refused."""

from __future__ import annotations

import copy
import json
import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.fx import GraphModule
from torch.optim import SGD, Adam, lr_scheduler

import qpc
from qpc import documents
from qpc.errors import ArtifactError, ConfigError, PassError
from qpc.pruning.allocation import Uniform
from qpc.pruning.magnitude import L1
from qpc.pruning.weight_masks import weight_masks
from qpc.training import load_checkpoint, save_checkpoint
from tests.dying import deaths
from tests.training.runs import RUNS, Training, resumed

ROOT = Path(__file__).parents[2]


def files_of(path: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in path.iterdir()}


def small() -> tuple[GraphModule, SGD]:
    gm = qpc.trace(nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2)), torch.randn(2, 3))
    optimizer = SGD(gm.parameters(), lr=0.1, momentum=0.9)
    gm(torch.ones(2, 3)).sum().backward()
    optimizer.step()
    return gm, optimizer


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    gm, optimizer = small()
    save_checkpoint(tmp_path / "it", gm, optimizer=optimizer, extra={"epoch": 3})
    return tmp_path / "it"


# --- the same bits --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "names",
    [
        ("channels last", "rounded"),
        pytest.param(tuple(RUNS), marks=pytest.mark.slow),
    ],
)
def test_six_steps_are_three_and_three_in_another_process_bit_for_bit(
    names: tuple[str, ...], tmp_path: Path
) -> None:
    undisturbed, whole = {}, tmp_path / "whole"
    for name in names:
        training = Training(name)
        training.steps(3)
        training.save(tmp_path / name)
        training.steps(3)
        training.save(whole / name)
        undisturbed[name] = training
    program = "import sys; from tests.training.runs import go_on; go_on(*sys.argv[1:])"
    command = [sys.executable, "-c", program, str(tmp_path), *names]
    here = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}  # as the tests have
    subprocess.run(command, cwd=ROOT, check=True, env={**os.environ, **here})
    for name, training in undisturbed.items():
        ours, theirs = (load_file(p / name / "state.safetensors") for p in (tmp_path, whole))
        assert ours.keys() == theirs.keys()
        assert [key for key, value in ours.items() if not torch.equal(value, theirs[key])] == []
        other = resumed(name, tmp_path / name)
        assert other.losses == training.losses
        assert len(set(other.losses)) == 6
        assert qpc.fingerprint(other.gm) == qpc.fingerprint(training.gm)


def test_masks_grids_and_modes_come_back(tmp_path: Path) -> None:
    training = Training("rounded")
    training.save(tmp_path / "it")
    again = load_checkpoint(tmp_path / "it").graph
    assert again.training
    assert qpc.fingerprint(again) == qpc.fingerprint(training.gm)
    assert len(list(weight_masks(again))) == 2
    assert [n for n, _ in again.named_parameters()] == [
        n for n, _ in training.gm.named_parameters()
    ]
    compared = qpc.load_graph(tmp_path / "it")  # a checkpoint holds a saved graph
    assert qpc.fingerprint(compared) == qpc.fingerprint(again)


def test_memory_layouts_come_back(tmp_path: Path) -> None:
    training = Training("channels last")
    training.save(tmp_path / "it")
    again = load_checkpoint(tmp_path / "it").graph
    for name, parameter in training.gm.named_parameters():
        assert again.get_parameter(name).stride() == parameter.stride()


def test_values_of_ones_own_come_back_as_they_were(tmp_path: Path) -> None:
    extra = {
        "counters": (1, 2.5, float("-inf"), None, True, "text", 2**80, b"\x00bytes"),
        "nested": {3: [torch.ones(2, dtype=torch.bfloat16), {"deep": ()}], "empty": {}},
        "numpy": np.arange(6, dtype=np.uint16).reshape(2, 3),
        "scalar": np.float32(0.1),
    }
    save_checkpoint(tmp_path / "it", small()[0], extra=extra)
    found = load_checkpoint(tmp_path / "it").extra
    assert found["counters"] == extra["counters"]
    tensor, deep = found["nested"][3]
    assert tensor.dtype is torch.bfloat16
    assert tensor.tolist() == [1, 1]
    assert deep == {"deep": ()}
    assert found["numpy"].dtype == np.uint16
    assert found["numpy"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert found["scalar"] == np.float32(0.1)
    assert type(found["scalar"]) is np.float32


def test_modules_beside_the_graph_are_trained_and_come_back(tmp_path: Path) -> None:
    gm, _ = small()
    head = nn.Linear(2, 2)
    optimizer = Adam([*gm.parameters(), *head.parameters()])
    head(gm(torch.ones(2, 3))).sum().backward()
    optimizer.step()
    with pytest.raises(ArtifactError, match=r"trains a tensor of shape \[2, 2\] that is no param"):
        save_checkpoint(tmp_path / "it", gm, optimizer=optimizer)
    save_checkpoint(tmp_path / "it", gm, optimizer=optimizer, modules={"head": head})
    checkpoint, other = load_checkpoint(tmp_path / "it"), nn.Linear(2, 2)
    again = Adam([*checkpoint.graph.parameters(), *other.parameters()])
    checkpoint.resume(optimizer=again, modules={"head": other})
    assert torch.equal(other.weight, head.weight)
    moment = again.state[other.weight]["exp_avg"]
    assert torch.equal(moment, optimizer.state[head.weight]["exp_avg"])


def test_an_optimizer_with_lists_of_tensors_and_a_scheduler_with_thresholds(tmp_path: Path) -> None:
    gm, _ = small()
    optimizer = torch.optim.LBFGS(gm.parameters(), max_iter=3)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss: torch.Tensor = gm(torch.ones(2, 3)).square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    plateau = lr_scheduler.ReduceLROnPlateau(optimizer)
    save_checkpoint(tmp_path / "it", gm, optimizer=optimizer, scheduler=plateau)
    checkpoint = load_checkpoint(tmp_path / "it")
    again = torch.optim.LBFGS(checkpoint.graph.parameters(), max_iter=3)
    checkpoint.resume(optimizer=again, scheduler=lr_scheduler.ReduceLROnPlateau(again))
    (before,), (after,) = optimizer.state.values(), again.state.values()
    assert before.keys() == after.keys()
    assert all(map(torch.equal, before["old_dirs"], after["old_dirs"]))


def test_tied_parameters_are_found_by_any_of_their_names(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight = model[0].weight
    gm = qpc.trace(model, torch.randn(2, 3))
    optimizer = SGD(gm.parameters(), lr=0.1, momentum=0.9)
    save_checkpoint(tmp_path / "it", gm, optimizer=optimizer)
    checkpoint = load_checkpoint(tmp_path / "it")
    assert checkpoint.graph.get_parameter("0.weight") is checkpoint.graph.get_parameter("1.weight")
    checkpoint.resume(optimizer=SGD(checkpoint.graph.parameters(), lr=0.1, momentum=0.9))


def test_other_numbers_of_threads_are_warned_of(
    saved: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = load_checkpoint(saved)
    optimizer = SGD(checkpoint.graph.parameters(), lr=0.1)
    checkpoint.resume(optimizer=optimizer)
    assert "same bits" not in caplog.text
    monkeypatch.setattr(torch, "get_num_threads", lambda: 64)
    checkpoint.resume(optimizer=optimizer)
    assert "not with the same bits: threads was 1, and is 64 here" in caplog.text


# --- on disk --------------------------------------------------------------------------------------


def test_there_is_no_pickle_and_hashes_cover_everything(saved: Path) -> None:
    assert sorted(os.listdir(saved)) == sorted(
        ["checkpoint.json", "graph.json", "tensors.safetensors", "state.safetensors"]
    )
    names = load_file(saved / "state.safetensors").keys()
    assert "optimizer.state['0.weight']['momentum_buffer']" in names
    for name in os.listdir(saved):
        copied = saved.parent / f"damaged {name}"
        copied.mkdir()
        for other, data in files_of(saved).items():
            middle = len(data) // 2 if other == name else len(data)
            flipped = bytes([data[middle] ^ 1]) if other == name else b""
            (copied / other).write_bytes(data[:middle] + flipped + data[middle + 1 :])
        with pytest.raises(ArtifactError, match="is damaged"):
            load_checkpoint(copied)


def test_wherever_saving_is_killed_the_old_or_the_new_checkpoint_is_found(saved: Path) -> None:
    gm, _ = small()
    for step in deaths(lambda: save_checkpoint(saved, gm, extra={"epoch": 4})):
        if step % 5 == 0:  # loading takes a while
            assert load_checkpoint(saved).extra["epoch"] in (3, 4)
    assert load_checkpoint(saved).extra == {"epoch": 4}
    assert os.listdir(saved.parent) == ["it"]


def test_other_folders_are_not_taken_for_checkpoints_nor_replaced(tmp_path: Path) -> None:
    gm, _ = small()
    qpc.save_graph(gm, tmp_path / "graph")
    with pytest.raises(ArtifactError, match="is a saved graph, not a checkpoint"):
        load_checkpoint(tmp_path / "graph")
    with pytest.raises(ArtifactError, match="exists and cannot be replaced"):
        save_checkpoint(tmp_path / "graph", gm)
    save_checkpoint(tmp_path / "it", gm)
    with pytest.raises(ArtifactError, match=r"checkpoint\.json.*no part of a saved graph"):
        qpc.save_graph(gm, tmp_path / "it")


# --- what cannot be saved -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("extra", "text"),
    [
        ({"f": print}, r"extra\['f'\] is a builtin_function_or_method, which is no plain data"),
        ({"a": [{1.5: 2}]}, r"extra\['a'\]\[0\] has the key 1.5; keys are str or int"),
        ({"s": torch.zeros(2, 2).to_sparse()}, r"extra\['s'\] is a tensor without plain values"),
        ({"n": np.array(["text"])}, r"extra\['n'\] is of NumPy, and no numbers of a plain type"),
        ({"l": [0] * 600_000}, "is damaged: it is too large"),
    ],
)
def test_what_is_no_plain_data_is_said_when_it_is_saved(
    extra: dict[str, Any], text: str, tmp_path: Path
) -> None:
    with pytest.raises(ArtifactError, match=f"this checkpoint cannot be saved: .*{text}"):
        save_checkpoint(tmp_path / "it", small()[0], extra=extra)
    assert os.listdir(tmp_path) == []


def test_values_within_themselves_are_refused(tmp_path: Path) -> None:
    endless: list[object] = []
    endless.append(endless)
    with pytest.raises(ArtifactError, match="is nested too deeply"):
        save_checkpoint(tmp_path / "it", small()[0], extra={"endless": endless})


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"optimizer": "sgd"}, "optimizer must be a torch.optim.Optimizer or None, got str"),
        ({"scheduler": 1}, "scheduler must be an object with state_dict and load_state_dict or No"),
        ({"generators": [1]}, "generators must be generators by name, or None, got list"),
        ({"generators": {"a": 1}}, r"generators\['a'\] must be a generator of random numbers, got"),
        ({"modules": {"m": 1}}, r"modules\['m'\] must be a module, got int"),
        ({"extra": 3}, "extra must be values by name, or None, got int"),
    ],
)
def test_arguments_of_the_wrong_kind_are_named(
    options: dict[str, Any], text: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=text):
        save_checkpoint(tmp_path / "it", small()[0], **options)


def test_a_model_that_was_never_traced_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PassError, match="save_checkpoint needs a traced graph, got Linear"):
        save_checkpoint(tmp_path / "it", nn.Linear(1, 1))  # type: ignore[arg-type]  # on purpose


def test_an_optimizer_that_keeps_more_than_groups_and_state_is_refused(tmp_path: Path) -> None:
    class Wrapped(SGD):
        def state_dict(self) -> dict[str, Any]:
            return super().state_dict() | {"slow weights": []}

    gm, _ = small()
    with pytest.raises(ArtifactError, match=r"Wrapped keeps \['slow weights'\] besides groups"):
        save_checkpoint(tmp_path / "it", gm, optimizer=Wrapped(gm.parameters()))


# --- what does not fit ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda gm: None, r"optimizer: the checkpoint '.*it' holds one, got none"),
        (
            lambda gm: Adam(gm.parameters()),
            "holds the state of a torch.optim.sgd.SGD, got a torch.",
        ),
        (lambda gm: SGD([*gm.parameters()][1:]), r"optimizer: group 0 lacks '0.weight'"),
        (
            lambda gm: SGD([{"params": [p]} for p in gm.parameters()]),
            "optimizer: the checkpoint holds 1 groups of parameters, got 4",
        ),
        (
            lambda gm: SGD(copy.deepcopy(gm).parameters()),
            r"it trains a tensor of shape \[2, 3\] that is no parameter of checkpoint.graph",
        ),
    ],
)
def test_another_optimizer_is_refused(
    make: Callable[[nn.Module], Any], text: str, saved: Path
) -> None:
    checkpoint = load_checkpoint(saved)
    with pytest.raises(ConfigError, match=text):
        checkpoint.resume(optimizer=make(checkpoint.graph))


def test_more_parameters_than_were_saved_are_refused(tmp_path: Path) -> None:
    gm, _ = small()
    optimizer = SGD([gm.get_parameter("0.weight")], lr=0.1)
    save_checkpoint(tmp_path / "it", gm, optimizer=optimizer)
    checkpoint = load_checkpoint(tmp_path / "it")
    text = "group 0 has, and the checkpoint lacks '0.bias' and 2 others"
    with pytest.raises(ConfigError, match=text):
        checkpoint.resume(optimizer=SGD(checkpoint.graph.parameters(), lr=0.1))


def test_other_generators_schedulers_and_modules_are_refused(tmp_path: Path) -> None:
    gm, optimizer = small()
    scheduler = lr_scheduler.StepLR(optimizer, 2)
    save_checkpoint(
        tmp_path / "it",
        gm,
        scheduler=scheduler,
        generators={"data": random.Random(0)},
        modules={"head": nn.Linear(2, 2)},
    )
    checkpoint = load_checkpoint(tmp_path / "it")
    good: dict[str, Any] = {
        "scheduler": scheduler,
        "generators": {"data": random.Random(1)},
        "modules": {"head": nn.Linear(2, 2)},
    }
    checkpoint.resume(**good)
    plateau = lr_scheduler.ReduceLROnPlateau(optimizer)
    for change, text in (
        (
            {"scheduler": plateau},
            "scheduler: the checkpoint holds the state of a torch.optim.lr_sc",
        ),
        ({"optimizer": optimizer}, "optimizer: the checkpoint .* holds no, got one"),
        ({"generators": None}, "generators: the checkpoint .* holds one, got none"),
        ({"generators": {"other": random.Random()}}, r"holds \['data'\], got \['other'\]"),
        ({"generators": {"data": torch.Generator()}}, "is of the kind 'torch', the one in the che"),
        ({"modules": {"head": nn.Linear(2, 3)}}, r"modules\['head'\] cannot take the state"),
    ):
        with pytest.raises(ConfigError, match=text):
            checkpoint.resume(**good | change)


# --- what was forged ------------------------------------------------------------------------------


def forged(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change a document and seal it again, as whoever writes such files can."""
    file = path / "checkpoint.json"
    document = json.loads(file.read_bytes())
    del document["sha256"]
    change(document)
    file.write_bytes(documents.seal(document))


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d.update(training="yes"),
        lambda d: d.update(other=1),
        lambda d: d.pop("random"),
        lambda d: d.update(random={"dict": []}),
        lambda d: d["random"]["dict"][0].__setitem__(1, {"tuple": [3, {"tuple": []}, None]}),
        lambda d: d["random"]["dict"][1].__setitem__(1, {"dict": [["state", 1]]}),
        lambda d: d["random"]["dict"][2].__setitem__(1, {"tensor": "optimizer.groups"}),
        lambda d: d.update(extra=[1]),
        lambda d: d.update(extra={"eval": "print(1)"}),
        lambda d: d.update(extra={"tensor": "missing"}),
        lambda d: d.update(extra={"dict": [["a", 1], ["a", 2]]}),
        lambda d: d.update(extra={"bytes": "no"}),
        lambda d: d.update(extra={"dict": [["a", {"float": "1e400"}]]}),
        lambda d: d.update(layouts={"0.weight": [0, 0]}),
        lambda d: d.update(layouts={"none": [0]}),
        lambda d: d["optimizer"]["groups"][0].update(options=3),
        lambda d: d["optimizer"]["groups"][0]["parameters"].append("0.weight"),
        lambda d: d["optimizer"]["state"].append([1, {"dict": []}]),
        lambda d: d["optimizer"]["state"].append(["other", {"dict": []}]),
        lambda d: d["optimizer"]["state"].append(["0.weight", {"dict": []}]),
    ],
)
def test_forged_documents_are_refused_with_one_error(
    change: Callable[[dict[str, Any]], object], saved: Path
) -> None:
    forged(saved, change)
    with pytest.raises(ArtifactError, match="is damaged") as caught:
        load_checkpoint(saved)
    assert caught.value.fix == "copy the folder again, or go on from an earlier checkpoint"


# --- what another graph begins with ---------------------------------------------------------------


def test_an_optimizer_of_a_pruned_graph_begins_with_the_momentum_that_was_saved(
    saved: Path,
) -> None:
    before = load_checkpoint(saved)
    momentum = {name: values["momentum_buffer"] for name, values in before._own_state().items()}
    pruned = qpc.prune(before.graph, L1(), Uniform(0.5))
    optimizer = SGD([pruned.get_parameter("1.weight"), pruned.get_parameter("0.weight")], lr=0.5)
    before.carry_optimizer(optimizer, pruned)
    first, second = (optimizer.state[pruned.get_parameter(f"{n}.weight")] for n in (0, 1))
    (kept,) = [
        i for i in (0, 1) if torch.equal(first["momentum_buffer"][0], momentum["0.weight"][i])
    ]
    assert torch.equal(second["momentum_buffer"], momentum["1.weight"][:, [kept]])
    assert len(optimizer.state) == 2  # biases are not trained
    assert optimizer.param_groups[0]["lr"] == 0.5


def test_an_optimizer_of_another_class_does_not_begin_with_it(saved: Path) -> None:
    before = load_checkpoint(saved)
    other = Adam(before.graph.parameters())
    with pytest.raises(ConfigError, match=r"holds the state of a torch\.optim\.sgd\.SGD"):
        before.carry_optimizer(other, before.graph)
    assert not other.state
