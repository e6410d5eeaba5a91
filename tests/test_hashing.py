from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.fx import GraphModule

from qpc.calls import aten
from qpc.hashing import fingerprint
from qpc.meta import update_info
from qpc.quant.config import LayerConfig
from qpc.quant.grid import QParams
from qpc.testing import randomized, traced
from tests.small_models import only

X = torch.randn(2, 3)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 3)
        self.register_buffer("mask", torch.tensor([True, False, True]))
        self.register_buffer("count", torch.tensor(3))
        self.mask: torch.Tensor
        self.count: torch.Tensor

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.fc(x) * self.mask + self.count
        return result


def model() -> GraphModule:
    return traced(randomized(Net()), X)


def test_equal_graphs_have_equal_fingerprints() -> None:
    assert fingerprint(model()) == fingerprint(model())
    assert len(fingerprint(model())) == 64


def test_a_copy_has_the_same_fingerprint() -> None:
    gm = model()
    assert fingerprint(copy.deepcopy(gm)) == fingerprint(gm)


def _one_bit(gm: GraphModule) -> None:
    weight = gm.get_parameter("fc.weight")
    with torch.no_grad():
        weight[0, 0] = torch.nextafter(weight[0, 0], torch.tensor(torch.inf))


def _frozen(gm: GraphModule) -> None:
    gm.get_parameter("fc.weight").requires_grad_(False)


def _buffer(gm: GraphModule) -> None:
    gm.get_buffer("mask")[0] = False


def _argument(gm: GraphModule) -> None:
    node = only(gm, aten.mul.Tensor)
    node.args = (node.args[0], 2.0)


def _name(gm: GraphModule) -> None:
    only(gm, aten.mul.Tensor).name = "product"


def _extra(gm: GraphModule) -> None:
    gm.register_buffer("unused", torch.zeros(1))


def _info(**changes: object) -> Callable[[GraphModule], None]:
    def change(gm: GraphModule) -> None:
        update_info(only(gm, aten.linear.default), **changes)

    return change


CHANGES: dict[str, Callable[[GraphModule], None]] = {
    "one bit of a weight": _one_bit,
    "whether it is trained": _frozen,
    "a buffer": _buffer,
    "an argument": _argument,
    "a name": _name,
    "another tensor": _extra,
    "module path": _info(module_path="other"),
    "shape": _info(shape=(3, 3)),
    "configuration": _info(config=LayerConfig()),
    "observer": _info(observer="observers.x"),
    "grid": _info(qparams=QParams(0.5, 3, 0, 255, torch.uint8)),
    "whether it becomes integer": _info(integer=True),
    "the value it stands for": _info(value="other"),
    "the pass that made it": _info(origin="some-pass"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_every_change_changes_the_fingerprint(name: str) -> None:
    gm = model()
    before = fingerprint(gm)
    CHANGES[name](gm)
    assert fingerprint(gm) != before


def test_the_layout_of_a_tensor_in_memory_does_not_count() -> None:
    gm = model()
    before = fingerprint(gm)
    weight = gm.get_parameter("fc.weight")
    gm.get_submodule("fc").weight = nn.Parameter(weight.detach().t().contiguous().t())
    assert fingerprint(gm) == before
