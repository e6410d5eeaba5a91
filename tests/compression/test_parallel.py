"""Several processes; those of the last tests are real ones, started as `torchrun` does."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from qpc.compression.parallel import World, current_world, same_everywhere
from qpc.errors import CompressionError

ROOT = Path(__file__).parents[2]


@given(st.integers(0, 40), st.integers(1, 6))
def test_shards_are_everything_in_order_about_equally(count: int, size: int) -> None:
    shards = [World(rank, size).shard(count) for rank in range(size)]
    assert [each for shard in shards for each in shard] == list(range(count))
    assert max(map(len, shards)) - min(map(len, shards)) <= 1


def test_one_process_needs_nobody() -> None:
    world = World()
    assert world.first
    assert world.gather("x") == ["x"]
    assert world.from_first(lambda: "made") == "made"
    assert world.together(lambda: "done") == "done"
    same_everywhere(world, "anything", "x")
    values = [torch.ones(2)]
    world.sum(values)
    assert values[0].tolist() == [1.0, 1.0]


def test_without_torchrun_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    with current_world() as world:
        assert world == World(0, 1)


def test_processes_that_do_not_find_each_other_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    with pytest.raises(CompressionError, match="did not find each other"), current_world():
        pass


# --- real processes -------------------------------------------------------------------------------

SCRIPT = """
import json, os, sys
import torch
from torch import nn
import qpc
from qpc.compression.classification import Classification
from qpc.compression.samples import TensorSamples

torch.set_num_threads(1)
torch.manual_seed(0)
x = torch.randn(96, 1, 6, 6)
x += torch.randn(96, 1, 1, 1)
y = (x.mean((1, 2, 3)) > 0).long()
model = nn.Sequential(
    nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 2)
)
samples = TensorSamples(x, y)
losses = []

class Recording(Classification):
    def _loss(self, model, chosen, context, *rest):
        loss = super()._loss(model, chosen, context, *rest)
        total = loss.detach().clone().reshape(1)
        context.world.sum([total])
        losses.append(float(total))
        return loss

task = Recording(samples, samples, batch_size=24, learning_rate=0.05, calibration=70)
config = {"default": {"activation": {"observer": sys.argv[2]}}}
recipes = {
    "calibrate": {"start": [{"kind": "quantize", "config": config}]},
    "train": {"start": [{"kind": "fine-tune", "epochs": 2}]},
}
result = qpc.compress(
    model, recipes[sys.argv[1]], train=task.train, evaluate=task.evaluate, batches=task.batches,
    out=sys.argv[3],
)
if os.environ.get("RANK", "0") == "0":
    print(json.dumps([result.best.fingerprint, losses, result.best.metric]))
"""


def started(processes: int, folder: Path, job: str, observer: str = "mse") -> list[object]:
    """What the first of so many processes prints."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    children = []
    for rank in range(processes):
        environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        if processes > 1:
            environment |= {"RANK": str(rank), "WORLD_SIZE": str(processes)}
            environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        out = str(folder / f"{job}-{observer}-{processes}")
        command = [sys.executable, "-c", SCRIPT, job, observer, out]
        children.append(
            subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
        )
    outputs = [child.communicate(timeout=300)[0] for child in children]
    assert [child.returncode for child in children] == [0] * processes
    found: list[object] = json.loads(outputs[0])
    return found


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("observer", ["moving-average", "mse"])
def test_calibration_by_several_processes_is_that_of_one_bit_for_bit(
    observer: str, tmp_path: Path
) -> None:
    one, two, three = (started(n, tmp_path, "calibrate", observer) for n in (1, 2, 3))
    assert one == two == three


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_training_by_several_processes_is_that_of_one_to_rounding(tmp_path: Path) -> None:
    one, two, three = (started(n, tmp_path, "train") for n in (1, 2, 3))
    assert two[1] == pytest.approx(one[1], rel=1e-5)
    assert three[1] == pytest.approx(one[1], rel=1e-5)
