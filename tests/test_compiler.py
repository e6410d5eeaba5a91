"""`qpc.compile` chooses a backend; what is no traced graph is refused."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.fx import symbolic_trace

import qpc
from qpc.backends.reference.model import ReferenceModel
from qpc.errors import BackendError

X = torch.randn(2, 3, 8, 8)


def test_reference_and_native_give_the_same_bits() -> None:
    gm = qpc.quantize(qpc.trace(nn.Sequential(nn.Conv2d(3, 5, 3), nn.ReLU()), X), [X])
    reference = qpc.compile(gm, "reference", batch_sizes=(2,))
    native = qpc.compile(gm, batch_sizes=(2,))
    assert isinstance(reference, ReferenceModel)
    assert not isinstance(native, ReferenceModel)
    assert torch.equal(reference(X), native(X))


def test_refuses_a_model_that_is_not_traced() -> None:
    with pytest.raises(BackendError, match="compile needs a traced graph, got Conv2d"):
        qpc.compile(nn.Conv2d(3, 3, 3))


def test_refuses_a_graph_that_is_not_in_core_form() -> None:
    gm = symbolic_trace(nn.Sequential(nn.Conv2d(3, 3, 3)))
    with pytest.raises(BackendError, match="not in core form: _0: is a call_module"):
        qpc.compile(gm)
