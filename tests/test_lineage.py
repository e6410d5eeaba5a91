"""A graph remembers which channels of its parameters are left of those there once were."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.fx import GraphModule

import qpc
from qpc import documents, storage
from qpc.errors import ArtifactError
from qpc.lineage import KeptAxis, lineage, note_removal, set_lineage
from qpc.pruning.allocation import Uniform
from qpc.pruning.magnitude import L1


def chain() -> GraphModule:
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Conv2d(8, 2, 1))
    return qpc.trace(model, torch.randn(1, 3, 4, 4))


def test_removal_notes_what_it_keeps_of_every_parameter_and_nothing_of_others() -> None:
    gm = chain()
    assert not lineage(gm)
    pruned = qpc.prune(gm, L1(), Uniform(0.5))
    assert sorted(lineage(pruned)) == [("0.bias", 0), ("0.weight", 0), ("2.weight", 1)]
    kept = list(lineage(pruned)["0.weight", 0].kept)
    assert lineage(pruned)["0.weight", 0].size == 8
    assert torch.equal(pruned.get_parameter("0.weight"), gm.get_parameter("0.weight")[kept])
    assert not lineage(gm)


@given(st.data())
def test_removals_one_after_the_other_are_one_removal(data: st.DataObject) -> None:
    gm, channels = GraphModule(nn.Module(), torch.fx.Graph()), torch.arange(9)
    for _ in range(data.draw(st.integers(1, 3))):
        count = len(channels)
        stays = torch.tensor(data.draw(st.lists(st.booleans(), min_size=count, max_size=count)))
        channels = channels[stays.bool()]
        note_removal(gm, {("weight", 0): stays.bool()})
    assert lineage(gm)["weight", 0] == KeptAxis(9, tuple(channels.tolist()))


def test_a_tensor_of_another_size_begins_anew() -> None:
    gm = GraphModule(nn.Module(), torch.fx.Graph())
    note_removal(gm, {("weight", 0): torch.tensor([True, False, True])})
    note_removal(gm, {("weight", 0): torch.tensor([True, True, True, False])})
    assert lineage(gm)["weight", 0] == KeptAxis(4, (0, 1, 2))


def test_it_is_copied_with_the_graph_and_no_part_of_what_the_graph_is() -> None:
    gm = chain()
    before = qpc.fingerprint(gm)
    set_lineage(gm, {("0.weight", 0): KeptAxis(9, tuple(range(8)))})
    other = copy.deepcopy(gm)
    assert lineage(other) == lineage(gm)
    assert qpc.fingerprint(gm) == before
    set_lineage(other, {})
    assert not lineage(other)
    assert lineage(gm)


@pytest.mark.parametrize("kept", [(1, 0), (0, 0), (-1, 0), (0, 3)])
def test_indices_ascend_within_the_axis(kept: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="the indices left of 3 ascend from 0 to 2"):
        KeptAxis(3, kept)


def test_a_record_that_no_tensor_has_any_more_is_not_saved(tmp_path: Path) -> None:
    gm = chain()
    whole = KeptAxis(9, tuple(range(8)))
    set_lineage(gm, {("0.weight", 0): whole, ("0.bias", 0): KeptAxis(9, (1,)), ("3", 0): whole})
    qpc.save_graph(gm, tmp_path / "graph")
    assert dict(lineage(qpc.load_graph(tmp_path / "graph"))) == {("0.weight", 0): whole}


@pytest.mark.parametrize(
    ("entry", "why"),
    [
        ({"kept": "f"}, "has no axis 0 with what is kept of it"),
        ({"axis": 7}, "has no axis 7 with what is kept of it"),
        ({"name": "other"}, "'other' has no axis 0"),
        ({"size": 4}, "the indices left of 4 ascend"),
        ({"kept": "-ff"}, "pattern"),
        ({"size": 2**40}, "less than or equal"),
    ],
)
def test_a_forged_record_is_refused(entry: dict[str, Any], why: str) -> None:
    gm = chain()
    set_lineage(gm, {("0.weight", 0): KeptAxis(9, tuple(range(8)))})
    files = storage.graph_files(gm)
    document = json.loads(files["graph.json"])
    del document["sha256"]
    document["kept"][0] |= entry
    files["graph.json"] = documents.seal(document)
    with pytest.raises(ArtifactError, match=why):
        storage.graph_of_files(files, "it")
