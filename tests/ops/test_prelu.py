"""A slope for each channel: one of two factors, as the sign says."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import qpc
from qpc.analysis.integer_proofs import check_integers
from qpc.calls import qpc_ops
from qpc.edit import Editor
from qpc.errors import BackendError
from qpc.exporting.onnx.model import to_qdq
from qpc.meta import attribute
from qpc.shapes import concrete_shapes
from qpc.testing import randomized, traced
from tests.small_models import nodes_of, only

X = torch.randn(2, 3, 5, 7, generator=torch.Generator().manual_seed(0))


def quantized_net(channels: int, x: Tensor = X) -> torch.fx.GraphModule:
    layers = (nn.Conv2d(3, channels, 1), nn.PReLU(channels), nn.Conv2d(channels, 3, 1))
    model = nn.Sequential(*layers)
    randomized(model)
    with torch.no_grad():
        layers[1].weight.copy_(torch.linspace(-0.5, 1.5, channels))
    return qpc.quantize(traced(model, x), [x])


def test_values_below_zero_have_the_factor_of_their_channel() -> None:
    q = torch.tensor([90, 100, 110], dtype=torch.uint8).reshape(1, 1, 1, 3).expand(1, 2, 1, 3)
    made = qpc_ops.prelu(q, torch.tensor([0.25, -0.5]), 1.0, 100, 50, 0, 255)
    assert made[0, :, 0].tolist() == [[48, 50, 60], [55, 50, 60]]  # -2.5 is rounded to even


@pytest.mark.every(3)
@pytest.mark.parametrize("channels", [70, 1, 3])
def test_compiled_it_returns_the_same_bits(channels: int) -> None:
    quantized = quantized_net(channels)
    if channels > 1:
        assert only(quantized, qpc_ops.prelu.default).users
    for threads in (1, 2):
        compiled = qpc.compile(quantized, batch_sizes=(2,), threads=threads)
        assert torch.equal(torch.as_tensor(compiled(X)), quantized(X))


@pytest.mark.thorough
def test_rows_of_features_have_slopes_too() -> None:
    x = torch.randn(4, 6)
    model = nn.Sequential(nn.Linear(6, 5), nn.PReLU(5), nn.Linear(5, 3))
    gm = traced(randomized(model), x)
    quantized = qpc.quantize(gm, [x])
    assert only(quantized, qpc_ops.prelu.default).users
    assert qpc.compare(gm, quantized, [x]).outputs[0].sqnr_db > 30
    compiled = qpc.compile(quantized, batch_sizes=(4,))
    assert torch.equal(torch.as_tensor(compiled(x)), quantized(x))


def test_in_onnx_it_is_a_prelu() -> None:
    kinds = {node.op_type for node in to_qdq(quantized_net(4), batch=2).graph.node}
    assert "PRelu" in kinds


def test_one_slope_for_all_is_a_table() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.PReLU(), nn.Conv2d(4, 3, 1))
    assert not nodes_of(qpc.quantize(traced(randomized(model), X), [X]), qpc_ops.prelu.default)


def test_factors_must_be_numbers() -> None:
    quantized = quantized_net(4)
    node = only(quantized, qpc_ops.prelu.default).args[1]
    assert isinstance(node, torch.fx.Node)
    attribute(quantized, str(node.target)).fill_(float("nan"))
    with pytest.raises(BackendError, match="a requantization multiplier is negative, infinite or"):
        check_integers(quantized, concrete_shapes(quantized, 1))


def test_there_is_a_factor_for_each_channel() -> None:
    quantized = quantized_net(4)
    node = only(quantized, qpc_ops.prelu.default).args[1]
    assert isinstance(node, torch.fx.Node)
    Editor(quantized, "").set_tensor(str(node.target), torch.ones(1))
    with pytest.raises(BackendError, match="1 factors for 4 channels"):
        check_integers(quantized, concrete_shapes(quantized, 1))
