"""Layers with integer weights and float values in whole compiled models."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.fx import GraphModule

pytest.importorskip("tvm", reason="needs Apache TVM")

import qpc
from qpc.errors import BackendError
from qpc.quant.config import LayerConfig, Mode, Override, QuantConfig, WeightConfig
from tests.backends.tvm.checking import assert_same_bits, kernels

pytestmark = pytest.mark.tvm

X = torch.randn(5, 3, 6, 6, generator=torch.Generator().manual_seed(0))
INT4 = LayerConfig(mode="weight-only", weight=WeightConfig(bits=4, group=64))


class Net(nn.Module):
    """Integers, then rows of floats with channels last, then rows of whole images."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.mix, self.last = nn.Conv2d(3, 8, 3), nn.Linear(8, 8), nn.Linear(128, 40)

    def forward(self, x: Tensor) -> Tensor:
        mixed = self.mix(self.conv(x).permute(0, 2, 3, 1))
        found: Tensor = self.last(mixed.flatten(1).relu())
        return found


def graph(mix: LayerConfig, last: LayerConfig) -> GraphModule:
    overrides = (Override(module="mix", use=mix), Override(module="last", use=last))
    return qpc.quantize(qpc.trace(Net(), X), [X], QuantConfig(overrides=overrides))


@pytest.mark.parametrize("threads", [1, 3])
def test_dynamic_layers_behind_integer_ones_keep_all_bits(threads: int) -> None:
    dynamic = LayerConfig(mode="dynamic")
    gm = graph(dynamic, dynamic)
    compiled = assert_same_bits(gm, batch_sizes=(1, 5), threads=threads)
    assert [name for name in kernels(compiled) if "linear" in name] == ["dynamic_linear"] * 2


def test_weight_only_layers_are_within_the_rounding_of_their_sums() -> None:
    gm = graph(INT4, LayerConfig(mode="weight-only"))
    compiled = qpc.compile(gm, batch_sizes=(5,))
    with torch.no_grad():
        torch.testing.assert_close(torch.as_tensor(compiled(X)), gm(X), rtol=1e-5, atol=1e-5)
    assert "rounded by float operators before it" in str(compiled.report)


def test_the_weights_of_all_batch_sizes_are_stored_once_in_an_eighth_of_the_bytes(
    tmp_path: Path,
) -> None:
    x = torch.randn(20, 512)
    gm = qpc.quantize(qpc.trace(nn.Linear(512, 512), x), config=QuantConfig(default=INT4))
    compiled = qpc.compile(gm, batch_sizes=(1, 4, 20))
    compiled.save(tmp_path / "model")
    weights = (tmp_path / "model" / "weights.safetensors").stat().st_size
    assert weights < 512 * 512 / 2 + 4 * 512 * (512 / 64 + 1) + 2000
    loaded = qpc.load(tmp_path / "model")
    assert torch.equal(torch.as_tensor(loaded(x)), torch.as_tensor(compiled(x)))


@pytest.mark.parametrize("mode", ["dynamic", "weight-only"])
def test_a_layer_that_computes_nothing_is_refused(mode: Mode) -> None:
    x = torch.randn(2, 0, 3)
    config = QuantConfig(default=LayerConfig(mode=mode))
    gm = qpc.quantize(qpc.trace(nn.Linear(3, 4), x), config=config)
    with pytest.raises(BackendError, match=r"from \[2, 0, 3\] to \[2, 0, 4\] has nothing to"):
        qpc.compile(gm, batch_sizes=(2,))
