from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.fx import GraphModule

import qpc
from qpc.passes import MaskWeights
from qpc.pruning.granularity import Blocks
from qpc.pruning.weight_layers import Scope
from qpc.pruning.weight_rules import Ratio
from qpc.testing import randomized, traced
from tests.backends.tvm.checking import assert_same_bits

pytest.importorskip("tvm_ffi", reason="Apache TVM is not installed")
from qpc.backends.tvm.report import KernelUse

pytestmark = pytest.mark.tvm


def quantized_with_zero_blocks() -> GraphModule:
    """Three layers, of which the second has lost three of four blocks."""
    torch.manual_seed(0)
    images = torch.randn(4, 3, 12, 12)
    net = nn.Sequential(
        nn.Conv2d(3, 32, 3),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.Conv2d(32, 32, 3, bias=False),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.Conv2d(32, 8, 1),
    )
    gm = traced(randomized(net), images)
    mask = MaskWeights(Ratio(0.75), Blocks(), Scope(module="3"))
    return qpc.quantize(qpc.Pipeline((mask,)).run(gm), [images])


def test_zero_blocks_survive_quantization_and_are_skipped() -> None:
    compiled = assert_same_bits(quantized_with_zero_blocks(), "x86-64-avx2", batch_sizes=(1,))
    skipped = {use.nodes[0]: use.skipped for use in compiled.report.kernels if use.macs}
    assert list(skipped.values()) == [0, 0.75, 0]
    text = str(compiled.report)
    assert text.count("zero weights)") == 1


def test_a_kernel_says_what_it_skips() -> None:
    assert str(KernelUse("f", ("a", "b"), 10, 20)) == "f: a + b"
    assert str(KernelUse("f", ("a",), 10, 20, 0.75)) == "f: a (skips 75%, zero weights)"
