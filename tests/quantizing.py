"""Shortcuts from a model to its stages, for tests."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node

from qpc.base import PassContext
from qpc.meta import info
from qpc.passes import (
    Calibrate,
    ConvertToInteger,
    FakeQuantize,
    FoldBatchNorm,
    InsertObservers,
    MergeClamps,
    RemoveIdentities,
)
from qpc.pipeline import Pipeline
from qpc.quant.config import (
    ActivationConfig,
    LayerConfig,
    Override,
    QuantConfig,
    Results,
    WeightConfig,
)
from qpc.quant.grid import QParams
from qpc.quant.observers import MinMax
from qpc.testing import randomized, traced


def min_max(
    bits: int = 8,
    weight_bits: int = 8,
    *,
    symmetric: bool = False,
    per_channel: bool = True,
    overrides: tuple[Override, ...] = (),
    results: Results = "integer",
) -> QuantConfig:
    """A configuration with the quickest observers, in which the least of models is all integers."""
    layer = LayerConfig(
        activation=ActivationConfig(bits=bits, symmetric=symmetric, observer=MinMax()),
        weight=WeightConfig(bits=weight_bits, per_channel=per_channel, observer=MinMax()),
        results=results,
    )
    return QuantConfig(default=layer, overrides=overrides)


def observed(model: nn.Module, *inputs: Tensor, config: QuantConfig | None = None) -> GraphModule:
    """A traced model with observers that have seen nothing."""
    passes = (FoldBatchNorm(), RemoveIdentities(), InsertObservers(config or min_max()))
    return Pipeline(passes).run(traced(model, *inputs))


def fake_quantized(
    model: nn.Module,
    *inputs: Tensor,
    config: QuantConfig | None = None,
    signed: bool = False,
    random: bool = True,
) -> GraphModule:
    """A model that is calibrated on its example inputs, at the fake-quantized stage."""
    passes = (
        FoldBatchNorm(),
        RemoveIdentities(),
        InsertObservers(config or min_max()),
        Calibrate([inputs]),
        FakeQuantize(signed=signed),
    )
    return Pipeline(passes).run(traced(randomized(model) if random else model, *inputs))


def converted(gm: GraphModule, ctx: PassContext | None = None) -> GraphModule:
    """The integer graph of a fake-quantized one, with clamps still apart."""
    return Pipeline((ConvertToInteger(),), ConvertToInteger.requires).run(gm, ctx)


def integer(gm: GraphModule) -> GraphModule:
    """The integer graph of a fake-quantized one."""
    return Pipeline((ConvertToInteger(), MergeClamps()), _CONVERTIBLE).run(gm)


def steps_apart(fake: GraphModule, converted: GraphModule, *inputs: Tensor) -> float:
    """The largest difference between the outputs, in steps of the output's grid."""
    with torch.no_grad():
        difference = (fake(*inputs) - converted(*inputs)).abs().max()
    return float(difference) / output_grid(fake).scale


def output_grid(gm: GraphModule) -> QParams:
    """The grid of a graph's only output."""
    (result,) = (node.args[0] for node in gm.graph.nodes if node.op == "output")
    assert isinstance(result, Node)
    grid = info(result).qparams
    assert grid is not None
    return grid


class Parts(nn.Module):
    """Layers given by name, and a forward method given as a function of both."""

    def __init__(self, function: Callable[[Any, Tensor], Any], **layers: nn.Module) -> None:
        super().__init__()
        self.function = function
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, x: Tensor) -> Any:
        return self.function(self, x)


_CONVERTIBLE = MergeClamps.requires - ConvertToInteger.establishes | ConvertToInteger.requires
