"""What torch.export wraps in regions of their own is part of the graph, or is refused by name."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from qpc.capture.trace import trace
from qpc.errors import TraceError
from qpc.printer import format_graph
from qpc.testing import assert_same_output

IMAGE = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Layers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3)


class WithoutGradients(Layers):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            a = self.first(x)
            b = a.relu()
            with torch.enable_grad():
                c = self.second(a) * 2
        with torch.autocast("cpu", enabled=False):
            return c + 1, b


class Decorated(Layers):
    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.second(self.first(x))
        return y


class Autocast(Layers):
    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            y: Tensor = self.first(x)
        return y


class Branch(Layers):
    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = torch.cond(x.sum() > 0, lambda a: self.first(a), lambda a: self.first(-a), (x,))
        return y


@pytest.mark.parametrize("model", [WithoutGradients(), Decorated()])
def test_regions_that_only_switch_gradients_or_autocast_off_dissolve(model: nn.Module) -> None:
    gm = trace(model, IMAGE)
    assert_same_output(model, gm, IMAGE)
    text = format_graph(gm)
    assert "wrap_with" not in text
    assert "# second" in text  # what is inside still knows its module


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (Autocast(), "the model uses torch.autocast, which a graph in core form cannot hold"),
        (
            Branch(),
            "the model uses the control-flow operator 'cond', which a graph in core form cannot "
            "hold",
        ),
    ],
)
def test_regions_that_compute_something_else_are_refused(model: nn.Module, message: str) -> None:
    with pytest.raises(TraceError) as caught:
        trace(model, IMAGE)
    assert caught.value.what == message
    assert caught.value.fix


def test_the_line_of_a_refused_region_is_named() -> None:
    with pytest.raises(TraceError, match=r"torch\.autocast") as caught:
        trace(Autocast(), IMAGE)
    assert "written: File" in caught.value.full_text
    assert "test_unlift.py" in caught.value.full_text
