"""The value of a module is found in every stage of its graph, or it is said why it is not."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Interpreter, Node

import qpc
from qpc.analysis.module_values import corresponding_value, module_value
from qpc.calls import qpc_ops
from qpc.errors import ConfigError
from qpc.pruning.allocation import Uniform
from qpc.pruning.magnitude import L1
from qpc.testing import traced

X = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x + self.norm(self.conv(x)))


class Net(nn.Module):
    def __init__(self, width: int, blocks: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3)
        self.blocks = nn.Sequential(*(Block(width) for _ in range(blocks)))
        self.head = nn.Linear(width, 2)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.head(self.blocks(self.stem(x)).mean((2, 3)))
        return y


def graph(width: int = 4, blocks: int = 2) -> GraphModule:
    return traced(Net(width, blocks), X)


class Recorder(Interpreter):
    def run_node(self, n: Node) -> object:
        value = super().run_node(n)
        self.found = getattr(self, "found", {}) | {n: value}
        return value


def value(gm: GraphModule, node: Node) -> Tensor:
    recorder = Recorder(gm)
    recorder.run(X)
    found = recorder.found[node]
    assert isinstance(found, Tensor)
    return found


@pytest.mark.parametrize("path", ["stem", "blocks", "blocks.0", "blocks.1.norm", "head"])
def test_it_is_what_the_module_returns(path: str) -> None:
    model, seen = Net(4, 2).eval(), []
    model.get_submodule(path).register_forward_hook(lambda m, i, result: seen.append(result))
    model(X)
    gm = qpc.trace(model, X)
    torch.testing.assert_close(value(gm, module_value(gm, path)), seen[0])


def test_in_a_rounded_graph_it_is_the_rounded_value() -> None:
    gm = graph()
    qat = qpc.prepare_qat(gm, [X])
    node = corresponding_value(gm, qat, "blocks.0")
    assert node.target is qpc_ops.fake_quantize.default
    original = value(gm, module_value(gm, "blocks.0"))
    torch.testing.assert_close(value(qat, node), original, rtol=0, atol=0.1)


def test_a_folded_batch_norm_is_found_by_its_value() -> None:
    gm = graph()
    qat = qpc.prepare_qat(gm, [X])
    for path in ("blocks.0.norm", "blocks.1.norm"):
        node = corresponding_value(gm, qat, path)
        original = value(gm, module_value(gm, path))
        torch.testing.assert_close(value(qat, node), original, rtol=0, atol=0.1)


def test_what_was_joined_with_the_next_module_is_said() -> None:
    gm = graph()
    text = "the value of 'blocks.0.conv' is computed in one step with that of 'blocks.0.norm'"
    with pytest.raises(ConfigError, match=text):
        corresponding_value(gm, qpc.prepare_qat(gm, [X]), "blocks.0.conv")


@pytest.mark.thorough
def test_pruned_graphs_and_models_of_other_depths_are_matched_by_path() -> None:
    gm = graph(8, 3)
    for other in (qpc.prune(gm, L1(), Uniform(0.5)), graph(4, 1), graph(8, 5)):
        for stage in (other, qpc.prepare_qat(other, [X])):
            node = corresponding_value(gm, stage, "blocks")
            torch.testing.assert_close(
                value(stage, node), value(other, module_value(other, "blocks")), rtol=0, atol=0.2
            )


def test_a_folded_norm_of_another_model_is_not_taken_for_the_one_asked_for() -> None:
    """Values have the same names in both, and stand in other modules."""
    shallow = qpc.prepare_qat(graph(8, 1), [X])
    with pytest.raises(
        ConfigError, match=r"the other graph has no value of a module 'blocks\.2\.nor"
    ):
        corresponding_value(graph(8, 3), shallow, "blocks.2.norm")


@pytest.mark.parametrize("path", ["", "block", "blocks.9", "blocks.0.conv.weight"])
def test_unknown_paths_are_refused(path: str) -> None:
    with pytest.raises(ConfigError, match="the graph has no value of a module") as caught:
        module_value(graph(), path)
    assert caught.value.fix is not None
    assert "such as 'blocks" in caught.value.fix
