"""Saved graphs and compiled models to break."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.fx import GraphModule

import qpc
from qpc import recipes
from qpc.masks import set_mask
from tests.generators import IntegerGraph


class _Images(nn.Module):
    """A batch norm, a residual, several outputs, and a buffer that no state dictionary has."""

    shift: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3)
        self.register_buffer("shift", torch.full((1,), 0.5), persistent=False)

    def forward(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        y = torch.relu(self.norm(self.conv(x))) + x
        return y.mean((2, 3)) * self.shift, {"least": y.amin((2, 3)).clamp(min=-float("inf"))}


class _Tokens(nn.Module):
    """Attention, and sizes that grow with the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.head = nn.LayerNorm(4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        y = nn.functional.scaled_dot_product_attention(y, y, y)
        first, second = y.reshape(-1, 4).chunk(2, dim=-1)
        return torch.cat([first, second * 2], -1) @ self.head.weight.T


def write_bases(kind: str, folder: Path) -> None:
    """Write the folders to break."""
    if kind == "graph":
        for name, gm in _graphs().items():
            qpc.save_graph(gm, folder / name)
        return
    if kind in ("onnx", "encodings"):
        _write_exported(folder)
        return
    from qpc.backends import tvm

    for name, gm in _integer_graphs().items():
        tvm.compile_graph(gm, batch_sizes=(1, 2), threads=len(name) % 2 + 1).save(folder / name)


def _graphs() -> dict[str, GraphModule]:
    torch.manual_seed(0)
    x = torch.randn(2, 3, 4, 4)
    gm = qpc.trace(_Images(), x)
    observed = recipes.prepare().run(gm)
    set_mask(observed, "conv.weight", 0, torch.tensor([True, False, False]))
    fake = recipes.post_training_quantization([x]).run(gm)
    integer = recipes.to_integer().run(fake)
    tokens = qpc.trace(_Tokens(), torch.randn(2, 3, 4))
    return {"float": gm, "observed": observed, "fake": fake, "integer": integer, "tokens": tokens}


def _integer_graphs() -> dict[str, GraphModule]:
    found = {}
    for seed, name in ((0, "one"), (1, "four")):
        g = IntegerGraph(seed)
        q = g.conv2d(g.quantize(g.input(3, 6, 6)), 8, padding=(1, 1))
        found[name] = g.module(g.linear(g.mean(q, (2, 3)), 4), q)
    return found


class _Small(nn.Module):
    """A convolution, a pool, a sum and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.conv(x))
        y = nn.functional.max_pool2d(y + y.flip(1), 2).reshape(-1, 4, 4)
        result: Tensor = self.head(y.mean(2))
        return result


def float_graph() -> GraphModule:
    """The graph that encodings are for."""
    torch.manual_seed(0)
    return qpc.trace(_Small(), torch.randn(2, 3, 4, 4))


def _write_exported(folder: Path) -> None:
    """Each form of one model, with its encodings beside it."""
    gm = float_graph()
    integers = qpc.quantize(gm, [torch.randn(8, 3, 4, 4)], effort="fast")
    for name in ("float", "qdq", "named"):
        (folder / name).mkdir()
        version = {"float": "1.0.0", "qdq": "0.6.1", "named": "2.0.0"}[name]
        made = folder / name / "net.onnx"
        qpc.export(integers, made, form="onnx-float", encodings=version)
        if name == "qdq":
            qpc.export(integers, made)
