"""Models in half precision are traced in float32."""

from __future__ import annotations

import logging

import pytest
import torch
from torch import Tensor, nn

from qpc.capture.trace import trace
from qpc.errors import TraceError
from qpc.meta import info


class Net(nn.Module):
    """A layer in half precision, with a buffer of integers, and one in float64."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 4)
        self.register_buffer("places", torch.tensor([0, 2]))
        self.register_buffer("fine", torch.ones(1, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layer(x)[:, self.places]
        return y


def own(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.message for record in caplog.records if record.name.startswith("qpc")]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_graph_is_in_float32_and_a_line_says_so(
    dtype: torch.dtype, caplog: pytest.LogCaptureFixture
) -> None:
    model, x = Net(), torch.randn(2, 3)
    model.layer.to(dtype)
    with caplog.at_level(logging.WARNING):
        gm = trace(model, x.to(dtype))
    name = str(dtype).removeprefix("torch.")
    assert own(caplog) == [f"Net is in {name}: it is taken as float32"]
    assert {p.dtype for p in gm.parameters()} == {torch.float32}
    assert [info(n).dtype for n in gm.graph.nodes if n.op == "placeholder"] == [torch.float32]
    assert gm(x).dtype is torch.float32
    assert model.layer.weight.dtype is dtype  # which was not changed


def test_other_types_stay(caplog: pytest.LogCaptureFixture) -> None:
    gm = trace(nn.Linear(3, 4).double(), torch.randn(2, 3, dtype=torch.float64))
    assert {p.dtype for p in gm.parameters()} == {torch.float64}
    assert own(caplog) == []


def test_a_model_that_cannot_be_copied_is_an_error() -> None:
    class Stubborn(nn.Linear):
        def __deepcopy__(self, memo: object) -> nn.Module:
            raise RuntimeError("no")

    with pytest.raises(TraceError, match="is in half precision, and cannot be copied") as caught:
        trace(Stubborn(2, 2).half(), torch.randn(1, 2).half())
    assert caught.value.fix == "qpc.trace(model.float(), example_inputs.float())"
