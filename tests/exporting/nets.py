"""Small networks and runners for tests of exported models."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.nn import functional as F

from qpc.exporting.onnx.form import OnnxForm
from qpc.exporting.onnx.model import to_onnx
from qpc.quant.config import QuantConfig
from tests.quantizing import fake_quantized, integer


class Residual(nn.Module):
    """A convolution, a residual sum with a ReLU, and a classifier; images[N, 3, 8, 8]."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.block = nn.Conv2d(8, 8, 3, padding=1)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        x = F.relu(x + self.block(x))
        result: Tensor = self.head(x.mean((2, 3)))
        return result


class Mixed(nn.Module):
    """Most operators that image classifiers have."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, stride=2)
        self.left, self.right = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.squeeze, self.expand = nn.Conv2d(16, 4, 1), nn.Conv2d(4, 16, 1)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu6(self.stem(F.pad(x, (0, 1, 1, 0))))
        x = F.max_pool2d(x, 3, 2, 1)
        y = F.hardswish(self.left(x)) + F.relu(self.right(x))
        z = torch.cat([x, y], 1)
        gate = self.expand(F.relu(self.squeeze(z.mean((2, 3), keepdim=True))))
        z = z * F.hardsigmoid(gate)
        z = z.reshape(-1, 2, 8, *z.shape[2:]).permute(0, 2, 1, 3, 4).flatten(1, 2)
        z = F.avg_pool2d(F.silu(z[:, 4:12]), 2)
        result: Tensor = self.head(z.mean((2, 3)))
        return result


def images(count: int = 4, seed: int = 0) -> Tensor:
    """Images for `Residual`."""
    return torch.randn(count, 3, 8, 8, generator=torch.Generator().manual_seed(seed))


def rounded_residual(config: QuantConfig | None = None) -> GraphModule:
    """`Residual`, fake-quantized."""
    return fake_quantized(Residual(), images(), config=config)


def integer_residual(config: QuantConfig | None = None) -> GraphModule:
    """`Residual` in integers."""
    return integer(rounded_residual(config))


def ran(model: Any, *inputs: Tensor, exact: bool = False) -> list[Tensor]:
    """What ONNX Runtime, or ONNX's own reference, makes of inputs."""
    feeds = {i.name: x.numpy() for i, x in zip(model.graph.input, inputs, strict=True)}
    if exact:
        from onnx.reference import ReferenceEvaluator

        return [torch.from_numpy(np.asarray(v)) for v in ReferenceEvaluator(model).run(None, feeds)]
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    # Without it, sums saturate in int16 on CPUs that have no VNNI, which no tolerance covers.
    options.add_session_config_entry("session.x64quantprecision", "1")
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    return [torch.from_numpy(v) for v in session.run(None, feeds)]


def as_onnx(gm: GraphModule, kind: Any = "qdq", **options: Any) -> Any:
    """The ONNX model of a graph."""
    return to_onnx(gm, OnnxForm(kind, **options)).model


def kinds(model: Any) -> list[str]:
    """The operators of a model, in order."""
    return [str(node.op_type) for node in model.graph.node]


def read(gm: GraphModule, *inputs: Tensor) -> Sequence[Tensor]:
    """What a graph computes, as a list."""
    with torch.no_grad():
        found = gm(*inputs)
    return [found] if isinstance(found, Tensor) else list(found)
