"""A target whose products take int8 by int8: every kernel, with the bits of the reference."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

pytest.importorskip("tvm_ffi", reason="Apache TVM is not installed")
from qpc.backends import reference
from qpc.calls import aten
from qpc.targets import Target
from tests.backends.tvm.checking import assert_same_bits
from tests.generators import IntegerGraph, random_graph, random_inputs
from tests.quantizing import fake_quantized, integer
from tests.signed import SHIFT, signed

pytestmark = pytest.mark.tvm

SIGNED = replace(Target.parse("x86-64"), name="signed", activation="int8")


@pytest.mark.every(3)
@pytest.mark.parametrize("seed", range(3))
def test_a_random_network_gives_the_bits_of_the_reference(seed: int) -> None:
    gm = signed(random_graph(seed)) if seed % 2 else random_graph(seed)
    assert_same_bits(gm, SIGNED, batch_sizes=(1 + seed % 3,), threads=1 + seed % 2, seed=seed)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3, 60))
def test_many_random_networks_give_the_bits_of_the_reference(seed: int) -> None:
    assert_same_bits(signed(random_graph(seed)), SIGNED, threads=1 + seed % 2, seed=seed)


def test_both_types_stand_for_the_same_reals() -> None:
    gm = random_graph(3)
    assert all(x.is_floating_point() for x in random_inputs(gm, 1))
    results = [reference.compile_graph(each)(*random_inputs(gm, 1)) for each in (gm, signed(gm))]
    for unsigned, moved in zip(*results, strict=True):
        shift = SHIFT if moved.dtype is torch.int8 else 0
        assert torch.equal(unsigned.to(torch.float32), moved.to(torch.float32) + shift)


def test_every_integer_operator_takes_signed_grids() -> None:
    g = IntegerGraph()
    x = g.quantize(g.input(6, 9, 8))
    conv = g.conv2d(x, 12, (3, 3), padding=(1, 1))
    depthwise = g.conv2d(conv, 12, (3, 3), padding=(1, 1), groups=12)
    added = g.add(conv, depthwise)
    table = g.lookup(g.mul(added, depthwise))
    pooled = g.cat(*(pool(table, (3, 3), (1, 1), (1, 1)) for pool in (g.max_pool2d, g.avg_pool2d)))
    padded = g.call(aten.constant_pad_nd.default, pooled, [1, 2, 0, 1], 120)
    up = g.conv_transpose2d(g.resize2d(padded, 14, 15, linear=True), 5, (2, 2), stride=(2, 2))
    flat = g.cat(g.mean(g.clamp(up), (2, 3)), g.sum(up, (2, 3)))
    gm = signed(g.module(g.linear(flat, 7), g.dequantize(flat)))
    used = {str(node.target) for node in gm.graph.nodes if "qpc" in str(node.target)}
    assert len(used) >= 12, used
    assert_same_bits(gm, SIGNED)


def test_a_model_quantized_to_signed_grids_compiles_for_such_a_target() -> None:
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.Hardswish(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(72, 5),
    )
    gm = integer(fake_quantized(net, torch.randn(2, 3, 6, 6), signed=True))
    compiled = assert_same_bits(gm, SIGNED)
    assert not compiled.report.others
