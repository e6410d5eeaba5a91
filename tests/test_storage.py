"""Graphs are saved without pickle and come back equal, bit for bit, without their Python class."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.fx import GraphModule, symbolic_trace

import qpc
from qpc import documents, recipes, registry, storage
from qpc.errors import ArtifactError
from qpc.masks import masks, set_mask
from qpc.pruning.allocation import Uniform
from qpc.pruning.magnitude import L1
from qpc.registry import OpSpec
from tests.dying import deaths
from tests.forging import forge

X = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
FORMAT_1 = Path(__file__).parent / "data" / "graph_of_format_1"


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
        self.head = nn.Linear(4 * 36, 5)
        self.tied = nn.Parameter(self.head.bias)
        self.register_buffer("shift", torch.ones(1), persistent=False)

    def forward(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        y = nn.functional.relu6(self.norm(self.conv(x)) + self.shift)
        return self.head(y.flatten(1)), {"mean": y.mean((2, 3)).clamp(min=-float("inf"))}


class Chain(nn.Sequential):
    """Layers of which the first can lose channels."""

    def __init__(self) -> None:
        super().__init__(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 1))


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.head(x))


@cache
def stages() -> dict[str, GraphModule]:
    torch.manual_seed(0)
    gm = qpc.trace(Net(), X)
    observed = recipes.prepare().run(gm)
    fake = recipes.post_training_quantization([X]).run(gm)
    return {
        "float": gm,
        "pruned": qpc.prune(qpc.trace(Chain(), X), L1(), Uniform(0.5)),
        "observed": observed,
        "fake": fake,
        "integer": recipes.to_integer().run(fake),
    }


@cache
def small() -> GraphModule:
    return qpc.trace(Small(), torch.randn(2, 3))


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    qpc.save_graph(small(), tmp_path / "graph")
    return tmp_path / "graph"


@pytest.mark.parametrize("stage", ["float", "pruned", "observed", "fake", "integer"])
def test_every_stage_round_trips(stage: str, tmp_path: Path) -> None:
    gm = stages()[stage]
    qpc.save_graph(gm, tmp_path / "graph")
    again = qpc.load_graph(tmp_path / "graph")
    assert qpc.fingerprint(again) == qpc.fingerprint(gm)
    assert torch.equal(again(X)[0], gm(X)[0])
    assert [n.stack_trace for n in again.graph.nodes] == [n.stack_trace for n in gm.graph.nodes]
    assert again.state_dict().keys() == gm.state_dict().keys()


@pytest.mark.parametrize("stage", ["float", "pruned"])
def test_a_state_dict_loads_into_the_loaded_skeleton(stage: str, tmp_path: Path) -> None:
    gm = stages()[stage]
    qpc.save_graph(gm, tmp_path / "graph")
    again = qpc.load_graph(tmp_path / "graph")
    trained = {name: value + 1 for name, value in gm.state_dict().items()}
    assert "shift" not in trained
    again.load_state_dict(trained)
    assert trained
    assert all(torch.equal(again.state_dict()[name], value) for name, value in trained.items())


@pytest.mark.thorough
def test_it_loads_in_a_process_that_never_saw_the_class(saved: Path) -> None:
    program = "import sys, qpc; print(qpc.fingerprint(qpc.load_graph(sys.argv[1])))"
    command = [sys.executable, "-c", program, str(saved)]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert printed.strip() == qpc.fingerprint(small())


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


# --- saving ---------------------------------------------------------------------------------------


def test_saving_again_replaces_the_graph(saved: Path) -> None:
    qpc.save_graph(stages()["integer"], saved)
    assert qpc.fingerprint(qpc.load_graph(saved)) == qpc.fingerprint(stages()["integer"])
    names = sorted(p.name for p in saved.parent.rglob("*"))
    assert names == ["graph", "graph.json", "tensors.safetensors"]


def test_wherever_a_save_is_killed_the_old_or_the_new_graph_is_found(saved: Path) -> None:
    other = qpc.trace(nn.Linear(2, 1), torch.randn(2, 2))
    known = {qpc.fingerprint(small()), qpc.fingerprint(other)}
    content = storage.graph_files(other)
    for step in deaths(lambda: documents.write(saved, content, documents.SAVED_GRAPH)):
        if step % 4 == 0:  # loading takes a while
            assert qpc.fingerprint(qpc.load_graph(saved)) in known, step
        assert (saved / "graph.json").exists(), step
    qpc.save_graph(other, saved)
    assert os.listdir(saved.parent) == ["graph"]


def test_other_folders_are_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "graph.json").write_text('{"format": 3}')
    with pytest.raises(ArtifactError, match="cannot be replaced: it is not a saved graph: graph"):
        qpc.save_graph(small(), tmp_path / "site")


def test_refuses_a_graph_that_is_not_in_core_form(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="cannot save a graph that is not in core form"):
        qpc.save_graph(symbolic_trace(nn.Sequential(nn.ReLU())), tmp_path / "graph")


def test_an_unwritable_path_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ArtifactError, match=r"cannot save to .*graph"):
        qpc.save_graph(small(), tmp_path / "file" / "graph")


def test_an_operator_of_ones_own_can_be_saved_when_it_is_registered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with torch.library._scoped_library("qpctest", "FRAGMENT") as library:
        library.define("double(Tensor x) -> Tensor")
        library.impl("double", lambda x: x * 2, "CompositeExplicitAutograd")
        double = torch.ops.qpctest.double.default

        class Doubled(nn.Module):
            def forward(self, x: Tensor) -> Tensor:
                return double(x)  # type: ignore[no-any-return]  # a custom operator has no types

        gm = qpc.trace(Doubled(), torch.randn(2, 3))
        with pytest.raises(
            ArtifactError, match=r"'qpctest.double.default' is no operator"
        ) as error:
            qpc.save_graph(gm, tmp_path / "graph")
        assert "qpc.register_operator" in str(error.value.fix)
        monkeypatch.setattr(registry, "_SPECS", dict(registry._SPECS))
        registry.register_operator(OpSpec(double, "double"))
        qpc.save_graph(gm, tmp_path / "graph")
        again = qpc.load_graph(tmp_path / "graph")
        assert torch.equal(again(torch.ones(1, 3)), torch.full((1, 3), 2.0))


# --- loading what one must not --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "graph.json").unlink(), "is not a saved graph: it has no graph.json"),
        (lambda f: (f / "graph.json").write_text("{"), "graph.json' is damaged: it is not JSON"),
        (lambda f: forge(f / "graph.json", lambda d: d.update(format=2)), "is about something els"),
        (lambda f: forge(f / "graph.json", lambda d: d.update(format_version=3)), "in version 3"),
        (lambda f: (f / "tensors.safetensors").unlink(), "tensors.safetensors of .* is missing"),
        (lambda f: (f / "tensors.safetensors").write_bytes(b"x"), "tensors.* it has 1 bytes, not"),
    ],
)
def test_damage_is_named(damage: Callable[[Path], object], message: str, saved: Path) -> None:
    damage(saved)
    with pytest.raises(ArtifactError, match=message):
        qpc.load_graph(saved)


def test_every_flipped_bit_of_both_files_is_noticed(saved: Path) -> None:
    for file in saved.iterdir():
        whole = file.read_bytes()
        for bit in range(0, 8 * len(whole), 997 if file.suffix == ".json" else 211):
            flipped = bytearray(whole)
            flipped[bit // 8] ^= 1 << bit % 8
            file.write_bytes(flipped)
            with pytest.raises(ArtifactError):
                qpc.load_graph(saved)
        file.write_bytes(whole)
    assert qpc.fingerprint(qpc.load_graph(saved)) == qpc.fingerprint(small())


def test_a_file_of_other_tensors_is_refused_though_its_hash_is_right(saved: Path) -> None:
    qpc.save_graph(qpc.trace(nn.Linear(2, 1), torch.randn(2, 2)), saved.parent / "other")
    data = (saved.parent / "other" / "tensors.safetensors").read_bytes()
    (saved / "tensors.safetensors").write_bytes(data)
    files = documents.described({"tensors.safetensors": data})
    forge(saved / "graph.json", lambda d: d.update(files=files))
    with pytest.raises(ArtifactError, match="holds others than are described"):
        qpc.load_graph(saved)


def test_a_graph_that_was_pruned_and_then_became_one_of_integers_is_saved(tmp_path: Path) -> None:
    """Its weights are no parameters any more, and what was removed of them is forgotten."""
    x = torch.randn(16, 4)
    gm = qpc.trace(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)), x)
    integers = qpc.quantize(qpc.prune(gm, L1(), Uniform(0.5)), [x])
    qpc.save_graph(integers, tmp_path / "graph")
    loaded = qpc.load_graph(tmp_path / "graph")
    assert qpc.fingerprint(loaded) == qpc.fingerprint(integers)


def test_a_path_is_checked_and_a_compiled_model_is_called_by_its_name(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="none' does not exist"):
        qpc.load_graph(tmp_path / "none")
    (tmp_path / "manifest.json").write_text('{"format": "qpc-tvm-model"}')
    with pytest.raises(ArtifactError, match="is a compiled model, not a saved graph") as error:
        qpc.load_graph(tmp_path)
    assert error.value.fix == "use qpc.load"


# --- format 1 -------------------------------------------------------------------------------------


def test_a_graph_of_format_1_says_so_and_can_be_converted(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"saved by QPC 0\.1.* in version 1 of the fo") as error:
        qpc.load_graph(FORMAT_1)
    assert "qpc.storage.convert_graph(path, new_path)" in str(error.value.fix)
    storage.convert_graph(FORMAT_1, tmp_path / "graph")
    gm = qpc.load_graph(tmp_path / "graph")
    assert [(name, mask.tolist()) for name, _, mask in masks(gm)] == [
        ("conv.weight", [True, False, False])
    ]
    y, rest = gm(torch.ones(1, 2, 5, 5))
    assert (tuple(y.shape), set(rest)) == ((1, 2), {"least"})


def test_only_graphs_of_format_1_are_converted(saved: Path, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="is no graph of format 1") as error:
        storage.convert_graph(saved, tmp_path / "new")
    assert error.value.fix == "load it with qpc.load_graph"
