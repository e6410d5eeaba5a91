"""Atoms are united, pinned, and found again; label tensors stay small where nothing changes."""

from __future__ import annotations

import networkx as nx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from qpc.channels.atoms import (
    NONE,
    Atoms,
    Labels,
    along,
    broadcast_collapsed,
    collapse,
    compact,
    distinct,
    nothing,
    only_along,
    spread,
    varying_axes,
)


def some(count: int) -> Atoms:
    atoms = Atoms()
    atoms.new(count)
    return atoms


def labels(*values: int) -> Labels:
    return torch.tensor(values)


def test_atoms_are_numbered_from_zero() -> None:
    atoms = Atoms()
    assert atoms.new(2).tolist() == [0, 1]
    assert atoms.new(3).tolist() == [2, 3, 4]
    assert len(atoms) == 5


def test_united_atoms_have_one_representative_and_the_others_none() -> None:
    atoms = some(5)
    atoms.unite(labels(0, 1), labels(3, 4), "")
    atoms.unite(labels(4), labels(2), "")
    assert atoms.find(labels(0, 1, 2, 3, 4, NONE)).tolist() == [0, 1, 1, 0, 1, NONE]


def test_atoms_made_later_are_found_too() -> None:
    atoms = some(1)
    atoms.unite(labels(0), atoms.new(1), "")
    assert atoms.find(labels(1)).tolist() == [0]


def test_what_meets_no_channel_stays_for_the_first_reason_given() -> None:
    atoms = some(3)
    atoms.unite(labels(0, 1, NONE), labels(NONE, 2, NONE), "a fixed size")
    atoms.pin(labels(0), "another reason")
    assert atoms.pins() == {0: "a fixed size"}


def test_a_pin_holds_for_the_whole_set_whenever_it_is_united() -> None:
    atoms = some(3)
    atoms.pin(labels(2), "an output")
    assert atoms.fixed(labels(2, NONE))
    assert not atoms.fixed(labels(1, 2))
    atoms.unite(labels(1), labels(2), "")
    assert atoms.pins() == {1: "an output"}
    assert atoms.fixed(labels(1, 2))


def test_no_channel_at_all_is_fixed() -> None:
    assert some(1).fixed(nothing((2, 3)))


def test_operands_are_broadcast_against_each_other() -> None:
    atoms = some(4)
    atoms.unite(spread(labels(0, 1), 0, (2, 1, 7)), spread(labels(2, 3), 1, (1, 2, 7))[:, :1], "")
    assert atoms.find(labels(0, 1, 2, 3)).tolist() == [0, 0, 0, 3]


@given(st.lists(st.tuples(st.integers(0, 19), st.integers(0, 19)), max_size=30))
def test_united_atoms_are_connected_components(pairs: list[tuple[int, int]]) -> None:
    graph: nx.Graph[int] = nx.Graph(pairs)
    graph.add_nodes_from(range(20))
    atoms = some(20)
    for half in (pairs[::2], pairs[1::2]):
        atoms.unite(labels(*(a for a, _ in half)), labels(*(b for _, b in half)), "")
    found = atoms.find(torch.arange(20)).tolist()
    assert found == [min(nx.node_connected_component(graph, i)) for i in range(20)]


# --- label tensors --------------------------------------------------------------------------------


def test_labels_along_one_axis_take_the_memory_of_that_axis() -> None:
    image = spread(labels(5, 6, 7), 1, (1, 3, 1000, 1000))
    core, shape = collapse(image)
    assert (core.shape, shape) == ((1, 3, 1, 1), (1, 3, 1000, 1000))
    assert some(8).find(image).stride() == image.stride()
    assert varying_axes(image) == [1]
    assert along(image, -3).tolist() == [5, 6, 7]
    assert only_along(image, 1).shape == (1, 3, 1, 1)


def test_compact_labels_are_expanded_wherever_they_do_not_change() -> None:
    written_out = spread(labels(5, 6), 0, (2, 4)).contiguous()
    assert varying_axes(written_out) == [0, 1]
    assert varying_axes(compact(written_out)) == [0]
    assert torch.equal(compact(written_out), written_out)


@pytest.mark.parametrize(("line", "count"), [((1, 1, 2), 2), ((NONE, 1), 1), ((NONE,), 0)])
def test_distinct_counts_atoms(line: tuple[int, ...], count: int) -> None:
    assert distinct(labels(*line)) == count


def test_broadcast_labels_are_short_where_neither_changes() -> None:
    a, b = broadcast_collapsed(spread(labels(1, 2), 0, (2, 9)), labels(3).expand(9))
    assert (a.shape, b.shape) == ((2, 1), (2, 1))
