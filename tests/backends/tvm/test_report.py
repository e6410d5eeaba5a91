from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.fx import GraphModule

import qpc
from qpc.calls import aten
from qpc.passes import MaskWeights
from qpc.pruning.granularity import Blocks
from qpc.pruning.weight_layers import Scope
from qpc.pruning.weight_rules import Ratio
from qpc.testing import randomized, traced
from tests.backends.tvm.checking import assert_same_bits
from tests.generators import IntegerGraph

pytest.importorskip("tvm_ffi", reason="Apache TVM is not installed")
from qpc.backends.common.plan import KernelUse
from qpc.backends.tvm import compile_graph

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


def test_every_output_says_whether_it_is_exact() -> None:
    g = IntegerGraph()
    q = g.conv2d(g.quantize(g.input(3, 6, 6)), 4)
    rounded = g.quantize(g.call(aten.softmax.int, g.dequantize(q), 1))
    report = compile_graph(g.module(q, g.dequantize(g.conv2d(rounded, 5)), q)).report
    assert [output.exact for output in report.outputs] == [True, False]
    assert report.outputs[1].rounded == ("softmax_int",)
    text = str(report)
    assert "output conv2d_default: exact, the same bits on every target" in text
    assert "rounded by float operators before it: softmax_int" in text
    assert report.to_json()["outputs"][1]["rounded"] == ("softmax_int",)


def test_a_kernel_says_what_it_skips() -> None:
    assert str(KernelUse("f", ("a", "b"), 10, 20)) == "f: a + b"
    assert str(KernelUse("f", ("a",), 10, 20, 0.75)) == "f: a (skips 75%, zero weights)"
