from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.fx import Graph, GraphModule, Node

from qpc.calls import aten
from qpc.capture.functionalize import fold_constants, replace_in_place
from qpc.capture.trace import trace
from qpc.facts import CORE_FORM
from qpc.printer import format_graph
from tests.small_models import Call, graph_of


def operators(gm: GraphModule) -> list[str]:
    return [line.partition(" = ")[2] for line in format_graph(gm).splitlines()[2:-1]]


def written_through_a_view(x: Tensor) -> Tensor:
    y = x + 1
    y.view(-1).mul_(2)
    return y * 3


def written_slice(x: Tensor) -> Tensor:
    y = x.clone()
    y[:, 0] = 1.0
    return y + x


def written_and_both_read(x: Tensor) -> Tensor:
    y = x + 1
    z = y.relu_()
    return y + z


def written_twice(x: Tensor) -> Tensor:
    y = torch.relu_(x + 1)
    y += 2
    y.mul_(3)
    return y


def written_after_a_read(x: Tensor) -> Tensor:
    y = x + 1
    z = y * 2
    y.add_(1)
    return y + z


def written_before_an_alias_is_read(x: Tensor) -> Tensor:
    y = x + 1
    view = y[:, :1]
    y.add_(1)
    return view + y


def written_before_a_piece_is_read(x: Tensor) -> Tensor:
    y = x + 1
    first, second = y.split([1, 2], 1)
    y.mul_(2)
    return torch.cat([second, first], 1)


def written_piece(x: Tensor) -> Tensor:
    y = x + 1
    y.unbind(1)[0].mul_(2)
    return y


def written_input(x: Tensor) -> Tensor:
    x.add_(1)
    return x * 2


MODELS: list[Callable[[Tensor], Tensor]] = [
    written_through_a_view,
    written_slice,
    written_and_both_read,
    written_twice,
    written_after_a_read,
    written_before_an_alias_is_read,
    written_before_a_piece_is_read,
    written_piece,
    written_input,
]


@pytest.mark.parametrize("function", MODELS, ids=lambda f: f.__name__)
def test_models_that_write_in_place_compute_the_same_without(
    function: Callable[[Tensor], Tensor],
) -> None:
    gm = trace(Call(function), torch.randn(2, 3, 4))
    assert CORE_FORM.check(gm) is None
    x = torch.randn(5, 3, 4)
    assert torch.equal(gm(x.clone()), function(x.clone()))


def test_in_place_operators_become_their_functional_forms() -> None:
    gm = trace(Call(written_twice), torch.randn(2, 3))
    names = [text.partition("(")[0] for text in operators(gm)]
    assert names == ["aten.add.Tensor", "aten.relu", "aten.add.Tensor", "aten.mul.Tensor"]


def test_stops_at_a_write_that_is_read_under_another_name() -> None:
    def build(graph: Graph, x: Node) -> Node:
        y = graph.call_function(aten.add.Tensor, (x, 1))
        view = graph.call_function(aten.view.default, (y, [-1]))
        graph.call_function(aten.relu_.default, (y,))
        return view

    assert str(replace_in_place(graph_of(build, 3))) == "relu__default"


def test_stops_at_a_write_that_has_no_functional_form() -> None:
    def build(graph: Graph, x: Node) -> Node:
        y = graph.call_function(aten.add.Tensor, (x, 1))
        return graph.call_function(aten.relu.out, (y,), {"out": y})

    assert str(replace_in_place(graph_of(build, 3))) == "relu_out"


def test_replaces_a_write_whose_value_only_its_own_readers_see() -> None:
    def build(graph: Graph, x: Node) -> Node:
        y = graph.call_function(aten.add.Tensor, (x, 1))
        graph.call_function(aten.relu_.default, (y,))
        return graph.call_function(aten.neg.default, (y,))

    gm = graph_of(build, 3)
    assert replace_in_place(gm) is None
    gm.recompile()
    assert torch.equal(gm(torch.tensor([[-3.0, 1.0]])), torch.tensor([[0.0, -2.0]]))


# --- constants ------------------------------------------------------------------------------------


def constant_mask(x: Tensor) -> Tensor:
    mask = torch.zeros(4, 4)
    mask[:2, :2] = 1.0
    mask[2:] += 3.0
    return x + mask.flatten()


def constant_written_between_reads(x: Tensor) -> Tensor:
    mask = torch.zeros(4, 1)
    y = x + mask.sum()
    mask.add_(1)
    return y * (x + mask.sum())


def constant_read_before_a_write_through_a_view(x: Tensor) -> Tensor:
    shift = torch.zeros(16)
    y = x + shift
    shift[0] = 1.0
    return y * (x + shift)


def new_factories(x: Tensor) -> Tensor:
    return x + x.new_zeros(16) + x.new_ones(16) + x.new_full((16,), 2.5)


@pytest.mark.parametrize(
    ("function", "constants"),
    [
        (constant_mask, 1),
        (constant_written_between_reads, 2),
        (constant_read_before_a_write_through_a_view, 2),
        (new_factories, 3),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_constant_regions_become_buffers(
    function: Callable[[Tensor], Tensor], constants: int
) -> None:
    gm = trace(Call(function), torch.randn(2, 16))
    assert len(dict(gm.named_buffers())) == constants
    assert all(text.startswith(("aten.add.Tensor", "aten.mul.Tensor")) for text in operators(gm))
    x = torch.randn(5, 16)
    torch.testing.assert_close(gm(x), function(x))


def test_arithmetic_on_buffers_is_done_once_and_unused_buffers_go() -> None:
    gm = trace(Call(lambda x, scale: x * (scale + 1), scale=torch.arange(3.0)), torch.randn(2, 3))
    assert operators(gm) == ["aten.mul.Tensor(%x, @_constants.add)"]
    assert torch.equal(gm(torch.ones(1, 3)), torch.tensor([[1.0, 2.0, 3.0]]))


def test_arithmetic_on_parameters_stays_so_that_training_reaches_them() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(3))

        def forward(self, x: Tensor) -> Tensor:
            return x * (self.scale + 1)

    gm = trace(Scaled(), torch.randn(2, 3))
    assert operators(gm) == ["aten.add.Tensor(@scale, 1)", "aten.mul.Tensor(%x, %add)"]


def test_random_constants_are_not_frozen() -> None:
    gm = trace(Call(lambda x: x + torch.rand(3)), torch.randn(2, 3), check=False)
    assert operators(gm)[0].startswith("aten.rand")


def test_a_constant_that_an_input_is_written_into_is_not_folded() -> None:
    def scatter(x: Tensor) -> Tensor:
        table = torch.zeros(2, 3)
        table[0] = x[0]
        return table + x

    gm = trace(Call(scatter), torch.randn(2, 3))
    x = torch.randn(2, 3)
    assert torch.equal(gm(x), scatter(x))


def test_numbers_are_folded_into_their_readers() -> None:
    root = nn.Module()
    root.register_buffer("table", torch.ones(5, 3))

    def build(graph: Graph, x: Node) -> Node:
        size = graph.call_function(aten.sym_size.int, (graph.get_attr("table"), 0))
        return graph.call_function(aten.add.Tensor, (x, size))

    gm = graph_of(build, 3, root=root)
    assert fold_constants(gm)
    assert operators(gm) == ["aten.add.Tensor(%x, 5)"]
    assert not fold_constants(gm)


def test_new_zeros_of_a_growing_size_stays() -> None:
    gm = trace(Call(lambda x: x.new_zeros(x.shape[0], 1) + x), torch.randn(2, 3))
    assert gm(torch.ones(5, 3)).shape == (5, 3)
