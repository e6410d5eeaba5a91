"""Whatever mode a caller is in, QPC computes the same."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

import qpc
from qpc.errors import TraceError
from qpc.modes import ordinary_torch
from qpc.testing import randomized
from tests.quantizing import min_max

X = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))


@contextmanager
def default_dtype(dtype: torch.dtype) -> Any:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


MODES: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "autocast": partial(torch.autocast, "cpu", torch.bfloat16),
    "inference": torch.inference_mode,
    "no_grad": torch.no_grad,
    "double": partial(default_dtype, torch.float64),
    "meta": partial(torch.device, "meta"),
    "fake": FakeTensorMode,
}


def results(mode: Callable[[], AbstractContextManager[Any]]) -> tuple[str, str, str]:
    model = randomized(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)))
    with mode():
        gm = qpc.trace(model, X)
        integer = qpc.quantize(gm, [X], min_max())
        table = str(qpc.compare(gm, integer, [X]))
    return qpc.fingerprint(gm), qpc.fingerprint(integer), table


@pytest.mark.every(3)
@pytest.mark.parametrize("mode", MODES)
def test_a_callers_mode_changes_nothing(mode: str) -> None:
    assert results(MODES[mode]) == results(nullcontext)


def test_a_graph_traced_in_inference_mode_trains() -> None:
    model = nn.Linear(3, 2)
    with torch.inference_mode():
        gm = qpc.trace(model, X)
    qpc.set_training(gm)(X).sum().backward()
    assert gm.get_parameter("weight").grad is not None


def test_a_model_made_in_inference_mode_is_refused_and_a_copy_is_not() -> None:
    with torch.inference_mode():
        model = nn.Linear(3, 2)
    with pytest.raises(TraceError, match="'weight' was made in inference mode") as caught:
        qpc.trace(model, X)
    assert caught.value.fix == (
        "make the model outside torch.inference_mode(), or pass copy.deepcopy(model)"
    )
    assert torch.equal(qpc.trace(copy.deepcopy(model), X)(X), model(X))


def test_modes_are_as_they_were_afterwards_also_after_an_error() -> None:
    def fails() -> None:
        with ordinary_torch():
            assert seen() == (False, False, "cpu", torch.float32)
            raise KeyError

    def seen() -> tuple[bool, bool, str, torch.dtype]:
        made = torch.ones(1)
        modes = torch.is_autocast_enabled("cpu"), torch.is_inference_mode_enabled()
        return *modes, made.device.type, made.dtype

    with (
        torch.autocast("cpu", torch.bfloat16),
        torch.inference_mode(),
        torch.device("meta"),
        default_dtype(torch.float64),
    ):
        with pytest.raises(KeyError):
            fails()
        assert seen() == (True, True, "meta", torch.float64)
