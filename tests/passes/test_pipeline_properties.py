"""Random small networks go through the whole of post-training quantization."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from qpc.base import PassContext
from qpc.calls import qpc_ops
from qpc.capture.trace import batch_is_dynamic
from qpc.facts import CORE_FORM, INTEGER
from qpc.passes import Calibrate, FakeQuantize, FoldBatchNorm, InsertObservers, RemoveIdentities
from qpc.pipeline import Pipeline
from qpc.recipes import to_integer
from qpc.testing import assert_same_output, randomized, traced
from tests.quantizing import min_max, steps_apart
from tests.small_models import nodes_of

CHANNELS, SIZE = 4, 6
EXAMPLES = settings().max_examples // 5
X = torch.randn(8, CHANNELS, SIZE, SIZE, generator=torch.Generator().manual_seed(0))


class Step(NamedTuple):
    """One operator, and how far back the values that it reads were made."""

    kind: str
    first: int
    second: int


KINDS = (
    "conv",
    "conv3x3",
    "depthwise",
    "conv-bn",
    "conv-bn-relu",
    "relu",
    "relu6",
    "hardswish",
    "sigmoid",
    "add",
    "mul",
    "cat",
    "max-pool",
    "avg-pool",
    "squeeze-excite",
    "shuffle",
    "flip",
    "softmax",
    "scale",
)


class RandomNet(nn.Module):
    """Images of one shape all the way, and a linear layer on their means."""

    def __init__(self, steps: list[Step]) -> None:
        super().__init__()
        self.steps = steps
        self.layers = nn.ModuleList(map(_layer, steps))
        self.fc = nn.Linear(CHANNELS, 5)

    def forward(self, x: Tensor) -> Tensor:
        values = [x]
        for step, layer in zip(self.steps, self.layers, strict=True):
            a = values[-1 - step.first % len(values)]
            b = values[-1 - step.second % len(values)]
            values.append(_apply(step.kind, layer, a, b))
        result: Tensor = self.fc(values[-1].mean((2, 3)))
        return result


def _layer(step: Step) -> nn.Module:
    if step.kind == "conv3x3":
        return nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1)
    if step.kind == "depthwise":
        return nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1, groups=CHANNELS, bias=False)
    if step.kind == "cat":
        return nn.Conv2d(2 * CHANNELS, CHANNELS, 1)
    if step.kind.startswith("conv-bn"):
        conv, norm = nn.Conv2d(CHANNELS, CHANNELS, 1, bias=False), nn.BatchNorm2d(CHANNELS)
        return nn.Sequential(conv, norm, *([nn.ReLU()] if step.kind.endswith("relu") else []))
    if step.kind in ("conv", "squeeze-excite"):
        return nn.Conv2d(CHANNELS, CHANNELS, 1)
    return nn.Identity()


def _apply(kind: str, layer: nn.Module, a: Tensor, b: Tensor) -> Tensor:
    results: dict[str, Callable[[], Tensor]] = {
        "relu": lambda: torch.relu(a),
        "relu6": lambda: F.relu6(a),
        "hardswish": lambda: F.hardswish(a),
        "sigmoid": lambda: torch.sigmoid(a),
        "add": lambda: a + b,
        "mul": lambda: a * torch.sigmoid(b),
        "cat": lambda: layer(torch.cat([a, b], 1)),
        "max-pool": lambda: F.max_pool2d(a, 3, 1, 1),
        "avg-pool": lambda: F.avg_pool2d(a, 3, 1, 1),
        "squeeze-excite": lambda: a * torch.sigmoid(layer(a.mean((2, 3), True))),
        "shuffle": lambda: a.unflatten(1, (2, 2)).transpose(1, 2).flatten(1, 2),
        "flip": lambda: a.flip(3),
        "softmax": lambda: a.softmax(1),
        "scale": lambda: a * 1.5 + 0.25,
    }
    result: Tensor = results[kind]() if kind in results else layer(a)
    return result


steps = st.builds(Step, st.sampled_from(KINDS), st.integers(0, 3), st.integers(0, 3))
networks = st.lists(steps, min_size=1, max_size=8)


@pytest.mark.thorough
@settings(max_examples=EXAMPLES)
@given(networks, st.sampled_from([8, 8, 6]), st.booleans())
def test_any_network_becomes_an_integer_one_that_computes_nearly_the_same(
    network: list[Step], bits: int, signed: bool
) -> None:
    gm = traced(_settled(RandomNet(network)), X)
    assert batch_is_dynamic(gm)
    prepare = Pipeline((FoldBatchNorm(), RemoveIdentities(), InsertObservers(min_max(bits))))
    observed = prepare.run(gm)
    assert_same_output(gm, observed, X, rtol=1e-4, atol=1e-4)  # folding changes float rounding
    rest = (Calibrate([X]), FakeQuantize(signed=signed))
    ctx = PassContext()  # checks the facts after every pass
    fake = Pipeline(rest, frozenset({CORE_FORM, *InsertObservers.establishes})).run(observed, ctx)
    result = to_integer().run(fake, ctx)
    assert INTEGER.check(result) is None
    assert nodes_of(result, qpc_ops.linear.default)
    # Each operator may be off by one step of its grid; those behind it scale that, seldom by much.
    assert steps_apart(fake, result, X) <= 2 + len(network)
    assert result(X[:3]).shape == (3, 5)


def _settled(model: nn.Module) -> nn.Module:
    """Random batch norms; layers as PyTorch initialises them, which keep values in proportion."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            randomized(module)
    return model
