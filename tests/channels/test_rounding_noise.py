"""What rounding does to layers is estimated, and scales are chosen by it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.fx import GraphModule

import qpc
from qpc.channels.rounding_noise import least_noise_scales, measured_statistics, rounding_noise
from qpc.channels.scaling import Scaling
from qpc.channels.scaling_walk import scaling_of
from qpc.errors import CalibrationError

X = torch.randn(64, 16, generator=torch.Generator().manual_seed(0))


def two_layers(*, spread: float) -> tuple[nn.Sequential, GraphModule, Scaling]:
    """Two layers, the channels between them of ranges from 1 to 10 ** spread; their only part."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 16), nn.Linear(16, 8)).eval()
    ranges = torch.logspace(0, spread, 16)
    with torch.no_grad():
        model.get_parameter("0.weight").mul_(ranges[:, None])
        model.get_parameter("0.bias").mul_(ranges)
        model.get_parameter("1.weight").div_(ranges)
    gm = qpc.trace(model, X[:2])
    scaling = scaling_of(gm)
    (part,) = (p for p in scaling.parts() if p.read and not scaling.fixed()[p.read[0].channels][0])
    return model, gm, part


def rounded(values: Tensor, steps: Tensor) -> Tensor:
    return (values / steps).round() * steps


@pytest.mark.parametrize("spread", [0.0, 1.0])
def test_the_estimate_is_what_rounding_adds_to_the_power_of_a_layer(spread: float) -> None:
    model, gm, part = two_layers(spread=spread)
    found = measured_statistics(gm, part, [X[:32], X[32:]], "try")
    ones = torch.ones(part.units, dtype=torch.float64)
    estimate = float(rounding_noise(gm, part, found)(ones))
    with torch.no_grad():
        hidden, weight, bias = model[0](X), *(t.detach() for t in model[1].parameters())
        values = rounded(hidden, hidden.abs().max() / 255)
        weights = rounded(weight, weight.abs().amax(1, keepdim=True) / 127)
        wanted = hidden @ weight.T + bias
        noise = (values @ weights.T + bias - wanted).square().mean() / wanted.square().mean()
    assert 0.5 < float(noise) / estimate < 1.2  # maxima are norms, which are larger


def test_free_units_are_scaled_so_that_the_noise_is_less() -> None:
    _, gm, part = two_layers(spread=1.0)
    found = measured_statistics(gm, part, [X], "try")
    noise, channels = rounding_noise(gm, part, found), part.read[0].channels
    free = torch.zeros(part.units, dtype=torch.bool)
    assert bool((least_noise_scales(gm, part, found, free) == 1.0).all())
    free[channels] = True
    free[channels[0]] = False
    scales = least_noise_scales(gm, part, found, free)
    assert float(noise(scales)) < 0.5 * float(noise(torch.ones_like(scales)))
    assert float(scales[channels[0]]) == 1.0
    assert float(scales[channels[-1]]) > 2.0 * float(scales[channels[1]])


def test_refuses_batches_that_say_nothing() -> None:
    _, gm, part = two_layers(spread=0.0)
    with pytest.raises(CalibrationError, match="there are no batches to try on"):
        measured_statistics(gm, part, [], "try")
    with pytest.raises(CalibrationError, match=r"the values of .* are not finite"):
        measured_statistics(gm, part, [X * torch.inf], "try")
