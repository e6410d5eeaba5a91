"""Whether an operator can be compiled is found out by lowering it, so that it is true."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("tvm")

import qpc
from qpc.backends.tvm.backend import BACKEND
from qpc.errors import UnsupportedOpError
from tests.quantizing import Parts

pytestmark = pytest.mark.tvm

X = torch.randn(2, 3, 8, 8)


class Spectrum(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(torch.fft.rfft(x).abs())


def test_every_operator_of_an_integer_graph_is_supported() -> None:
    parts = {"conv": nn.Conv2d(3, 4, 3), "fc": nn.Linear(4, 2)}
    model = Parts(lambda m, x: m.fc(m.conv(x).relu().mean((2, 3)).reshape(-1, 4)), **parts)
    gm = qpc.quantize(qpc.trace(model, X), [X])
    assert {BACKEND.supports(node) for node in gm.graph.nodes} == {None}


def test_an_operator_without_any_rule_is_named_with_the_reason() -> None:
    gm = qpc.trace(Spectrum(), X)
    reasons = {n.name: why for n in gm.graph.nodes if (why := BACKEND.supports(n)) is not None}
    assert "relu" not in reasons
    assert any("fft" in name for name in reasons)
    for name, why in reasons.items():
        assert "no rule for operator" in why or "complex64" in why, (name, why)


def test_complex_numbers_are_refused_by_name() -> None:
    reason = (
        r"operator aten.fft_rfft.default needs complex numbers \(complex64\), which compiled "
        "models do not have"
    )
    with pytest.raises(UnsupportedOpError, match=reason):
        qpc.compile(qpc.trace(Spectrum(), X))
