"""Which names a graph can have."""

from __future__ import annotations

import re

import pytest
import torch
from torch import Tensor, nn

import qpc
from qpc.errors import TraceError
from qpc.names import is_plain_name, why_no_path


def test_plain_names_are_those_that_python_reads_as_they_are() -> None:
    assert all(map(is_plain_name, ("x", "_x", "größe", "match")))
    assert not any(map(is_plain_name, ("", "1", "a.b", "lambda", "None", "\uff4f\uff53")))


@pytest.mark.parametrize("path", ["conv.weight", "0.1.b", "inner.graph", "a b.c", "bn-1.x"])
def test_a_path_of_a_graph(path: str) -> None:
    assert why_no_path(path) is None


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("graph.weight", "'graph' is an attribute of every graph"),
        ("a.half.weight", "'half' is an attribute of every module"),
        ("a.lambda", "'lambda' cannot be written in Python"),
        ('a"b', "'a\"b' cannot be written in Python"),
        ("\uff4f\uff53.x", "'\uff4f\uff53' cannot be written in Python"),
        ("a..b", "'' cannot be written in Python"),
    ],
)
def test_a_path_of_no_graph(path: str, why: str) -> None:
    assert why_no_path(path) == why


class _Named(nn.Module):
    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name
        setattr(self, name, nn.Linear(2, 2))

    def forward(self, x: Tensor) -> Tensor:
        layer = self._modules[self.name]
        assert layer is not None
        y: Tensor = layer(x)
        return y


@pytest.mark.parametrize("name", ["half", "graph", "code", "meta", "lambda", "\uff4f\uff53"])
def test_tracing_says_which_name_no_graph_can_have(name: str) -> None:
    wanted = re.escape(f"no graph can have a tensor '{name}.weight': {why_no_path(name)}")
    with pytest.raises(TraceError, match=wanted) as caught:
        qpc.trace(_Named(name), torch.ones(1, 2))
    assert caught.value.fix == "give it another name in the model"
