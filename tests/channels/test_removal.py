"""Every number in a graph that counts channels counts those that are left."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.nn import functional as F

from qpc.calls import arguments
from qpc.channels.groups import analyze_channels
from qpc.channels.removal import Removal
from qpc.errors import InvariantError
from qpc.meta import attribute, info
from tests.channels.channel_labels import Forward, image_graph, token_graph


def without(gm: GraphModule, *channels: int, layer: str = "a.weight") -> GraphModule:
    """The graph, in place, without these outputs of a layer and whatever goes with them."""
    analysis = analyze_channels(gm, prune_outputs=True)
    (line,) = (a.labels for a in analysis.axes if (a.name, a.axis) == (layer, 0))
    Removal(gm, analysis, frozenset(line[list(channels)].tolist())).run()
    gm.recompile()
    return gm


def argument(gm: GraphModule, name: str) -> Any:
    """The one argument of this name among all calls, of the last of them."""
    calls = [n for n in gm.graph.nodes if n.op == "call_function"]
    return [arguments(n)[name] for n in calls if name in arguments(n)][-1]


ARGUMENTS: dict[str, tuple[Forward, str, object]] = {
    "reshape": (lambda m, x: m.a(x).unflatten(1, (4, 1)), "shape", [-1, 3, 1, 4, 2]),
    "expand": (lambda m, x: m.a(x).mean(2, True).expand(-1, 4, 4, -1), "size", [-1, 3, 4, -1]),
    "constant": (
        lambda m, x: torch.cat([m.a(x), x.new_ones(x.shape[0], 4, 1, 2)], 2),
        "size",
        [-1, 3, 1, 2],
    ),
    "slice": (lambda m, x: m.a(x)[:, 1:4], "start", 0),
    "slice from behind": (lambda m, x: m.a(x)[:, -3:], "end", 3),
    "slice with steps": (lambda m, x: m.a(x)[:, 1::2], "end", 2),
    "select": (lambda m, x: x[:, 0] + m.a(x)[:, 3], "index", 2),
    "roll": (lambda m, x: m.a(x).roll(2, 1), "shifts", [2]),
    "roll twice": (lambda m, x: m.a(x).roll((3, 1, 2), (1, 2, 1)), "shifts", [1, 1]),
    "pad": (lambda m, x: F.pad(m.a(x), (0, 0, 0, 0, -2, 1)), "pad", [0, 0, 0, 0, -1, 1]),
    "groups": (lambda m, x: m.d(m.a(x)), "groups", 3),
    "layer norm": (lambda m, x: F.layer_norm(m.a(x), (4, 4, 2)), "normalized_shape", [3, 4, 2]),
}


@pytest.mark.parametrize("name", ARGUMENTS)
def test_sizes_count_the_channels_kept(name: str) -> None:
    function, argument_name, expected = ARGUMENTS[name]
    gm = image_graph(function, d=nn.Conv2d(4, 4, 1, groups=4))
    gone = 0 if name != "slice with steps" else 1
    without(gm, gone)
    found = argument(gm, argument_name)
    if isinstance(found, list):
        found = [-1 if isinstance(size, torch.fx.Node) else size for size in found]
    assert found == expected
    gm(torch.randn(2, 3, 4, 2))


def test_weights_are_gathered_in_the_order_in_which_channels_arrive() -> None:
    gm = image_graph(lambda m, x: m.z(m.a(x).flip(1)), z=nn.Conv2d(4, 2, 1))
    before = attribute(gm, "z.weight").clone()
    without(gm, 0)
    assert torch.equal(attribute(gm, "z.weight"), before[:, :3])


def test_lists_of_channel_numbers_become_new_buffers() -> None:
    gm = image_graph(lambda m, x: m.a(x)[:, [3, 1, 0, 3]] + m.a(x)[:, [3, 1, 2, 3]])
    without(gm, 1)
    kept = [value.tolist() for name, value in gm.named_buffers() if "kept" in name]
    assert kept == [[2, 0, 2], [2, 1, 2]]


def test_attention_keeps_the_scale_of_the_full_head() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        y = m.a(x)
        return F.scaled_dot_product_attention(y, y, y)

    gm = without(token_graph(forward), 1)
    assert argument(gm, "scale") == 0.5


def test_shapes_and_tied_parameters_follow() -> None:
    gm = image_graph(lambda m, x: m.b(m.a(x)), b=nn.Conv2d(4, 4, 1, groups=4))
    gm.register_parameter("again", attribute(gm, "a.bias"))  # type: ignore[arg-type]  # a tensor of this module
    gm.get_parameter("a.weight").requires_grad_(False)
    without(gm, 2, 3)
    assert attribute(gm, "again") is attribute(gm, "a.bias")
    assert not gm.get_parameter("a.weight").requires_grad
    (result,) = gm.graph.output_node().all_input_nodes
    shape = info(result).shape
    assert shape is not None
    assert shape[1] == 2


def test_channels_that_are_no_whole_slices_are_noticed() -> None:
    gm = image_graph(lambda m, x: m.a(x).unflatten(1, (2, 2)))
    analysis = analyze_channels(gm, prune_outputs=True)
    node = next(n for n in gm.graph.nodes if "view" in n.name or "reshape" in n.name)
    analysis.values[node] = (torch.arange(4).reshape(1, 2, 2, 1, 1).expand(1, 2, 2, 4, 2),)
    with pytest.raises(InvariantError, match="the channels to remove are no whole slices of resh"):
        Removal(gm, analysis, frozenset({1})).run()
