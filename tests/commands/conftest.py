"""A small network, photographs and what commands made of them, once for all tests of commands."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import save_file
from typer.testing import CliRunner, Result

from qpc import cli

Invoke = Callable[..., Result]

NETWORK = """
import torch
from torch import Tensor, nn


def model():
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3)]
    return nn.Sequential(*layers, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))


def evaluate(gm):
    return 0.5


def batches():
    torch.manual_seed(1)
    return [(torch.randn(4, 3, 16, 16), torch.arange(4))]


class Branch(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if x.sum() > 0:
            return x
        return -x


def broken():
    raise RuntimeError("the disk of the teacher is full")
"""


def invoke(*words: object) -> Result:
    """Run `qpc` with these words."""
    return CliRunner().invoke(cli.app, [str(word) for word in words])


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a network, data, a recipe, and what `qpc quantize` and `qpc compile` made."""
    pytest.importorskip("tvm_ffi", reason="Apache TVM is not installed")
    folder = tmp_path_factory.mktemp("commands")
    (folder / "network.py").write_text(NETWORK)
    _photographs(folder / "photos")
    generator = torch.Generator().manual_seed(0)
    data = {"input": torch.randn(8, 3, 16, 16, generator=generator), "labels": torch.arange(8) % 4}
    save_file(data, folder / "data.safetensors")
    np.savez(folder / "data.npz", input=data["input"].numpy())
    recipe = {
        "model": "network.py:model",
        "data": {
            "kind": "functions",
            "evaluate": "network.py:evaluate",
            "batches": "network.py:batches",
        },
        "start": [{"kind": "quantize"}],
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    here = os.getcwd()
    os.chdir(folder)
    try:
        words = ("network.py:model", "--input", "1x3x16x16", "--data", "data.safetensors")
        _well(invoke("quantize", *words, "--out", "net"))
        _well(invoke("compile", "net"))
    finally:
        os.chdir(here)
    return folder


def _well(result: Result) -> None:
    assert result.exit_code == 0, result.output


def _photographs(folder: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    random = np.random.default_rng(0)
    for name in ("0", "1"):
        (folder / name).mkdir(parents=True)
        for number in range(3):
            pixels = random.integers(0, 255, (20, 24, 3), dtype=np.uint8)
            image.fromarray(pixels).save(folder / name / f"{number}.png")


@pytest.fixture
def here(made: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same, as the current folder."""
    monkeypatch.chdir(made)
    return made


def answer(result: Result) -> dict[str, Any]:
    """The JSON on stdout, of which there must be nothing else."""
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    return found
