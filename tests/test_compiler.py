"""`qpc.compile` chooses a backend; what is no traced graph is refused."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.fx import symbolic_trace

import qpc
from qpc.backends.reference.model import ReferenceModel
from qpc.errors import BackendError, UnsupportedTargetError
from tests.quantizing import fake_quantized

X = torch.randn(2, 3, 8, 8)


def test_reference_and_native_give_the_same_bits() -> None:
    gm = qpc.quantize(qpc.trace(nn.Sequential(nn.Conv2d(3, 5, 3), nn.ReLU()), X), [X])
    reference = qpc.compile(gm, "reference", batch_sizes=(2,))
    native = qpc.compile(gm, batch_sizes=(2,))
    assert isinstance(reference, ReferenceModel)
    assert not isinstance(native, ReferenceModel)
    assert torch.equal(reference(X), native(X))


def test_what_training_has_left_is_compiled_to_the_same_bits() -> None:
    model = nn.Sequential(nn.Conv2d(3, 5, 3), nn.ReLU(), nn.Flatten(), nn.Linear(180, 4))
    gm = qpc.set_training(qpc.prepare_qat(qpc.trace(model, X), [X]))
    optimizer = torch.optim.SGD(gm.parameters(), 0.01)
    for _ in range(3):
        optimizer.zero_grad()
        gm(X).square().sum().backward()
        optimizer.step()
    integers = qpc.convert(qpc.set_training(gm, mode=False))
    assert torch.equal(qpc.compile(integers, batch_sizes=(2,))(X), integers(X))


def test_refuses_a_model_that_is_not_traced() -> None:
    with pytest.raises(BackendError, match="compile needs a traced graph, got Conv2d"):
        qpc.compile(nn.Conv2d(3, 3, 3))


def test_refuses_a_graph_that_is_not_in_core_form() -> None:
    gm = symbolic_trace(nn.Sequential(nn.Conv2d(3, 3, 3)))
    with pytest.raises(BackendError, match="not in core form: _0: is a call_module"):
        qpc.compile(gm)


def test_refuses_a_graph_that_is_still_fake_quantized() -> None:
    gm = fake_quantized(nn.Conv2d(3, 3, 3), X)
    with pytest.raises(BackendError, match=r"on its way to integers: it calls qpc.fake_quantize"):
        qpc.compile(gm)
    assert torch.equal(qpc.compile(gm, "reference", batch_sizes=(2,))(X), gm(X))


@pytest.mark.parametrize("target", ["native", "reference"])
def test_refuses_one_number_for_the_batch_sizes(target: str) -> None:
    gm = qpc.trace(nn.ReLU(), X)
    with pytest.raises(BackendError, match="batch sizes are several numbers, got 4") as caught:
        qpc.compile(gm, target, batch_sizes=4)  # type: ignore[call-overload]  # wrong on purpose
    assert caught.value.fix == "batch_sizes=(4,)"


def test_refuses_a_target_that_is_no_name() -> None:
    with pytest.raises(UnsupportedTargetError, match="a target is a name or"):
        qpc.compile(qpc.trace(nn.ReLU(), X), 3)  # type: ignore[call-overload]  # wrong on purpose
