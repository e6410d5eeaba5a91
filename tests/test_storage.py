"""Graphs are saved without pickle and come back equal, bit for bit, without their Python class."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.fx import GraphModule, symbolic_trace

import qpc
from qpc import recipes
from qpc.errors import ArtifactError
from qpc.masks import masks, set_mask
from qpc.pruning.allocation import Uniform
from qpc.pruning.magnitude import L1

X = torch.randn(2, 3, 8, 8)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
        self.head = nn.Linear(4 * 36, 5)
        self.tied = nn.Parameter(self.head.bias)

    def forward(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        y = nn.functional.relu6(self.norm(self.conv(x)))
        return self.head(y.flatten(1)), {"mean": y.mean((2, 3)).clamp(min=-float("inf"))}


def stages() -> dict[str, GraphModule]:
    gm = qpc.trace(Net(), X)
    observed = recipes.prepare().run(gm)
    fake = recipes.post_training_quantization([X]).run(gm)
    return {
        "float": gm,
        "pruned": qpc.prune(gm, L1(), Uniform(0.5)),
        "observed": observed,
        "fake": fake,
        "integer": recipes.to_integer().run(fake),
    }


@pytest.mark.parametrize("stage", ["float", "pruned", "observed", "fake", "integer"])
def test_every_stage_round_trips(stage: str, tmp_path: Path) -> None:
    gm = stages()[stage]
    qpc.save_graph(gm, tmp_path / "graph")
    again = qpc.load_graph(tmp_path / "graph")
    assert qpc.fingerprint(again) == qpc.fingerprint(gm)
    assert torch.equal(again(X)[0], gm(X)[0])
    assert [n.stack_trace for n in again.graph.nodes] == [n.stack_trace for n in gm.graph.nodes]


@pytest.mark.parametrize("stage", ["float", "pruned"])
def test_a_state_dict_loads_into_the_loaded_skeleton(stage: str, tmp_path: Path) -> None:
    gm = stages()[stage]
    qpc.save_graph(gm, tmp_path / "graph")
    again = qpc.load_graph(tmp_path / "graph")
    trained = {name: value + 1 for name, value in gm.state_dict().items()}
    again.load_state_dict(trained)
    assert torch.equal(again.get_parameter("conv.weight"), trained["conv.weight"])
    assert again.state_dict().keys() == gm.state_dict().keys()


def test_it_loads_in_a_process_that_never_saw_the_class(tmp_path: Path) -> None:
    gm = qpc.trace(Net(), X)
    qpc.save_graph(gm, tmp_path / "graph")
    program = "import sys, qpc; print(qpc.fingerprint(qpc.load_graph(sys.argv[1])))"
    command = [sys.executable, "-c", program, str(tmp_path / "graph")]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert printed.strip() == qpc.fingerprint(gm)


def test_masks_are_stored_eight_to_the_byte(tmp_path: Path) -> None:
    gm = qpc.trace(nn.Linear(8, 1000), torch.randn(2, 8))
    mask = torch.rand(1000) < 0.3
    set_mask(gm, "weight", 0, mask)
    qpc.save_graph(gm, tmp_path / "graph")
    again = qpc.load_graph(tmp_path / "graph")
    assert [(name, axis) for name, axis, _ in masks(again)] == [("weight", 0)]
    assert torch.equal(next(masks(again))[2], mask)
    stored = load_file(tmp_path / "graph" / "tensors.safetensors")
    assert stored["masks.weight.axis_0"].nbytes == 125


def test_saving_again_replaces_the_graph(tmp_path: Path) -> None:
    for stage in ("float", "integer"):
        qpc.save_graph(stages()[stage], tmp_path / "graph")
    assert sorted(p.name for p in tmp_path.rglob("*")) == [
        "graph",
        "graph.json",
        "tensors.safetensors",
    ]


def test_other_folders_are_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    with pytest.raises(ArtifactError, match="exists and cannot be replaced: it is not a saved"):
        qpc.save_graph(qpc.trace(Net(), X), tmp_path / "thesis")


def test_refuses_a_graph_that_is_not_in_core_form(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="cannot save a graph that is not in core form"):
        qpc.save_graph(symbolic_trace(nn.Sequential(nn.ReLU())), tmp_path / "graph")


def test_an_unwritable_path_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ArtifactError, match=r"cannot save to .*graph"):
        qpc.save_graph(qpc.trace(Net(), X), tmp_path / "file" / "graph")


def _edit(folder: Path, **changes: object) -> None:
    document = json.loads((folder / "graph.json").read_text())
    (folder / "graph.json").write_text(json.dumps({**document, **changes}))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "graph.json").unlink(), "is no saved graph: it has no graph.json"),
        (lambda f: (f / "graph.json").write_text("{"), "graph.json in .* is damaged"),
        (lambda f: _edit(f, format=2), "was saved in another format"),
        (lambda f: (f / "tensors.safetensors").unlink(), "has no tensors.safetensors"),
        (
            lambda f: (f / "tensors.safetensors").write_bytes(b"x"),
            r"tensors.safetensors in .* is damaged",
        ),
        (
            lambda f: _edit(f, nodes=[{"op": "call_function"}]),
            "graph.json in .* is damaged: 'target'",
        ),
    ],
)
def test_damage_is_named(damage: object, message: str, tmp_path: Path) -> None:
    folder = tmp_path / "graph"
    qpc.save_graph(qpc.trace(Net(), X), folder)
    assert callable(damage)
    damage(folder)
    with pytest.raises(ArtifactError, match=message):
        qpc.load_graph(folder)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("os.system.default", "unknown operator 'os.system.default'"),
        ("operator.attrgetter", "unknown function 'operator.attrgetter'"),
        ("aten.nonsense.default", "unknown operator 'aten.nonsense.default'"),
    ],
)
def test_only_operators_can_be_named(target: str, message: str, tmp_path: Path) -> None:
    folder = tmp_path / "graph"
    qpc.save_graph(qpc.trace(Net(), X), folder)
    document = json.loads((folder / "graph.json").read_text())
    call = next(n for n in document["nodes"] if n["op"] == "call_function")
    call["target"] = target
    _edit(folder, nodes=document["nodes"])
    with pytest.raises(ArtifactError, match=message):
        qpc.load_graph(folder)
