from __future__ import annotations

import pytest
import torch
from torch import nn

pytest.importorskip("tvm")

from qpc.backends.common.work import multiply_accumulates
from tests.quantizing import Parts, fake_quantized, integer

pytestmark = pytest.mark.tvm


def test_layers_multiply_and_other_operators_do_not() -> None:
    model = Parts(
        lambda m, x: m.linear(m.conv(x).mean((2, 3))),
        conv=nn.Conv2d(4, 8, 3, groups=2),
        linear=nn.Linear(8, 5),
    )
    gm = integer(fake_quantized(model, torch.randn(2, 4, 6, 6)))
    found = [multiply_accumulates(gm, n, 3) for n in gm.graph.nodes if n.op == "call_function"]
    assert [macs for macs in found if macs] == [3 * 8 * 4 * 4 * 2 * 9, 3 * 5 * 8]
