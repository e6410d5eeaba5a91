"""The dependency graph can be asked, printed and drawn."""

from __future__ import annotations

import networkx as nx
import pytest
import torch
from torch import Tensor, nn

from qpc.channels.groups import ChannelAnalysis, ChannelSlice, Group, analyze_channels
from qpc.errors import PassError
from qpc.testing import traced

IMAGE = torch.randn(1, 3, 4, 4)


class Residual(nn.Module):
    """`stem` and `conv` are added; `head` makes the output."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.conv = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1)
        self.head = nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.stem(x)
        z: Tensor = self.head(y + self.conv(y))
        return z


class Concat(nn.Module):
    """One consumer of two producers."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = nn.Conv2d(3, 2, 1), nn.Conv2d(3, 3, 1), nn.Conv2d(5, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.head(torch.cat([self.a(x), self.b(x)], 1))
        return y


def analysis(model: nn.Module, *, prune_outputs: bool = False) -> ChannelAnalysis:
    return analyze_channels(traced(model, IMAGE), prune_outputs=prune_outputs)


def group_of(found: ChannelAnalysis, name: str) -> Group:
    group = found.group_of(name)
    assert group is not None
    return group


def test_a_group_holds_everything_that_goes_with_a_layer() -> None:
    found = analysis(Residual())
    group = group_of(found, "conv.weight")
    assert group is group_of(found, "stem.weight")
    assert [str(s) for s in group.slices] == [
        "stem.weight[0:4]",
        "stem.bias[0:4]",
        "conv.weight[:, 0:4]",
        "conv.weight[0:4]",
        "conv.bias[0:4]",
        "head.weight[:, 0:4]",
    ]
    assert (group.index, group.name, len(group.units)) == (0, "stem", 4)


def test_what_has_no_channels_is_in_no_group() -> None:
    assert analysis(Residual()).group_of("stem.weight", axis=1) is None


def test_slices_of_one_axis_are_in_groups_of_their_own() -> None:
    found = analysis(Concat())
    assert ChannelSlice("head.weight", 1, 2, 5) in group_of(found, "b.weight").slices
    assert found.graph.has_edge(
        ChannelSlice("b.bias", 0, 0, 3), ChannelSlice("head.weight", 1, 2, 5)
    )


def test_groups_are_the_connected_components_of_the_graph() -> None:
    found = analysis(Concat())
    components = {frozenset(c) for c in nx.connected_components(found.graph)}
    assert components == {frozenset(group.slices) for group in found.groups}


def test_outputs_stay_unless_they_may_go() -> None:
    head = group_of(analysis(Residual()), "head.weight")
    assert (head.prunable, head.units[0].pinned) == ((), "it reaches the output of the graph")
    freed = group_of(analysis(Residual(), prune_outputs=True), "head.weight")
    assert len(freed.prunable) == 2


def test_the_marks_of_units_are_found_by_label() -> None:
    found = analysis(Concat())
    unit = group_of(found, "b.weight").units[1].atom
    (axis,) = (a for a in found.axes if (a.name, a.axis) == ("head.weight", 1))
    assert found.marks(frozenset({unit}))[axis.labels].tolist() == [False] * 3 + [True, False]
    assert not found.marks(frozenset())[-1], "what has no label stays"


def test_it_prints_a_line_for_each_group() -> None:
    assert str(analysis(Concat())).splitlines() == [
        "group 0: 2 of 2 units prunable; a.weight[0:2], a.bias[0:2], head.weight[:, 0:2]",
        "group 1: 3 of 3 units prunable; b.weight[0:3], b.bias[0:3], head.weight[:, 2:5]",
        "group 2: 0 of 1 units prunable; 1 pinned: it reaches the output of the graph; "
        "head.weight[0:1], head.bias[0:1]",
    ]


def test_it_is_drawn_with_a_box_around_each_group() -> None:
    lines = analysis(Concat()).dot().splitlines()
    assert lines[0] == "graph channels {"
    assert '    label="group 1: 3 of 3 units prunable";' in lines
    assert sum("subgraph" in line for line in lines) == 3
    assert sum(" -- " in line for line in lines) == 2 + 2 + 1
    assert lines[-1] == "}"


def test_a_pattern_of_heads_that_matches_no_module_is_an_error() -> None:
    gm = traced(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2)), torch.zeros(1, 4))
    assert analyze_channels(gm, heads="0").groups
    with pytest.raises(PassError, match="the pattern 'atention' of heads matches no") as caught:
        analyze_channels(gm, heads=("0", "atention"))
    assert caught.value.fix == "look at the module paths in print(qpc.format_graph(gm))"


def test_empty_parameters_have_no_channels() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.head = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 2, 1)
            self.slopes, self.none = nn.Parameter(torch.empty(0, 4)), nn.Parameter(torch.empty(0))

        def forward(self, x: Tensor) -> Tensor:
            y = self.stem(x) + self.slopes.sum(0)[:, None, None]
            z: Tensor = self.head(y) + self.none.sum()
            return z

    found = analysis(Model())
    assert all(s.start < s.stop for group in found.groups for s in group.slices)
    assert all("a tensor whose size is fixed" in why for why in found.declined.values())
