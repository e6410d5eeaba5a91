"""Networks whose integers end in float32 are the same bits in machine code as by definition."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

pytest.importorskip("tvm", reason="needs Apache TVM")

from qpc.analysis.exactness import exactness
from qpc.calls import qpc_ops
from qpc.targets import Target
from tests.backends.tvm.checking import assert_same_bits, kernels
from tests.quantizing import Parts, fake_quantized, integer, min_max

pytestmark = pytest.mark.tvm
IMAGE = torch.randn(2, 3, 9, 9)
SIGNED = replace(Target.parse("x86-64"), name="signed", activation="int8")


def everything(net: Any, x: Tensor) -> tuple[Tensor, ...]:
    """An output of every operator that can end in float32."""
    y = F.relu(net.stem(x))
    gate = torch.sigmoid(net.gate(y.mean((2, 3), keepdim=True)))
    return (
        F.relu6(net.last(y)).permute(0, 2, 3, 1).flatten(1, 2),
        net.depthwise(y),
        net.up(y),
        net.head(y.flatten(2)),
        y + net.same(y),
        y - gate,
        y * gate,
        y.mean((2, 3)),
        y.sum((1, 3)),
        F.avg_pool2d(y, 2),
        F.hardswish(y),
        torch.cat([net.left(y), net.right(y)], 1),
    )


def network() -> Parts:
    return Parts(
        everything,
        stem=nn.Conv2d(3, 20, 3, 2, 1),
        gate=nn.Conv2d(20, 20, 1),
        last=nn.Conv2d(20, 7, 3),
        depthwise=nn.Conv2d(20, 20, 3, padding=1, groups=20),
        up=nn.ConvTranspose2d(20, 6, 2, 2, groups=2),
        head=nn.Linear(25, 10),
        same=nn.Conv2d(20, 20, 3, padding=1),
        left=nn.Conv2d(20, 3, 1),
        right=nn.Conv2d(20, 4, 1),
    )


@pytest.mark.every(2)
@pytest.mark.parametrize(
    "target",
    [
        "native",
        SIGNED,
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in ("x86-64", "x86-64-sse4", "x86-64-avx2", "x86-64-avx512", "x86-64-amx")
        ),
    ],
    ids=str,
)
def test_all_endings_are_the_same_bits(target: Target | str) -> None:
    found = Target.parse(target) if isinstance(target, str) else target
    if (reason := found.runs_here()) is not None:
        pytest.skip(reason)
    config = min_max(results="float32")
    gm = integer(fake_quantized(network(), IMAGE, config=config, signed=target is SIGNED))
    targets = {node.target for node in gm.graph.nodes}
    for name in ("conv2d", "conv_transpose2d", "linear", "add", "mul", "mean", "sum", "avg_pool2d"):
        assert getattr(qpc_ops, f"{name}_float").default in targets
    assert qpc_ops.dequantize.default not in targets
    assert all(each.exact for each in exactness(gm))
    assert_same_bits(gm, found, batch_sizes=(1, 2), threads=2)


@pytest.mark.parametrize(
    ("function", "copies"),
    [
        (lambda y: y.permute(0, 2, 3, 1).flatten(1, 2), 0),
        (lambda y: y.flatten(2).transpose(1, 2), 0),
        (lambda y: y.flatten(1), 1),
    ],
)
def test_floats_are_moved_as_integers_are(
    function: Callable[[Tensor], Tensor], copies: int
) -> None:
    """Images lie channel by channel behind a layer: only other orders need a copy."""
    model = Parts(lambda net, x: function(net.a(x)), a=nn.Conv2d(3, 4, 3))
    gm = integer(fake_quantized(model, IMAGE, config=min_max(results="float32")))
    called = kernels(assert_same_bits(gm))
    assert called[:2] == ["quantize", "conv2d"]
    assert len(called) == 2 + copies


def test_sums_beyond_float32_are_infinite() -> None:
    x = IMAGE[0, 0, :4, :4]
    gm = integer(
        fake_quantized(nn.Sequential(nn.Linear(4, 3)), x, config=min_max(results="float32"))
    )
    gm.get_buffer("0.multiplier").fill_(torch.finfo(torch.float32).max)
    assert torch.isinf(gm(x)).any()
    assert_same_bits(gm)
