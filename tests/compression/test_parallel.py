"""Several processes; those of the last tests are real ones, started as `torchrun` does."""

from __future__ import annotations

import itertools
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
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


# --- threads in the place of processes ------------------------------------------------------------


class Meeting:
    """What `torch.distributed` does between processes, between threads of one."""

    def __init__(self, size: int) -> None:
        self._barrier = threading.Barrier(size, timeout=20)
        self._rank = threading.local()
        self._size, self._given = size, dict[int, torch.Tensor]()

    def run(self, act: Callable[[World], object]) -> list[object]:
        """What each process returns or raises."""

        def work(rank: int) -> object:
            self._rank.number = rank
            try:
                return act(World(rank, self._size))
            except Exception as e:
                return e

        with ThreadPoolExecutor(self._size) as threads:
            return list(threads.map(work, range(self._size)))

    def _all(self, own: torch.Tensor) -> list[torch.Tensor]:
        self._given[self._rank.number] = own.clone()
        self._barrier.wait()
        found = [self._given[rank] for rank in range(self._size)]
        self._barrier.wait()
        return found

    def all_gather(self, parts: list[torch.Tensor], own: torch.Tensor) -> None:
        for part, found in zip(parts, self._all(own), strict=True):
            part.copy_(found)

    def all_reduce(self, own: torch.Tensor) -> None:
        own.copy_(torch.stack(self._all(own)).sum(0))


@pytest.fixture(params=[2, 3])
def meeting(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Meeting:
    made = Meeting(request.param)
    monkeypatch.setattr("torch.distributed.all_gather", made.all_gather)
    monkeypatch.setattr("torch.distributed.all_reduce", made.all_reduce)
    return made


def test_texts_of_all_lengths_reach_every_process_in_order(meeting: Meeting) -> None:
    for texts in (["", "\u00e9\u00e8", "abc"], ["", "", ""]):
        found = meeting.run(lambda world: world.gather(texts[world.rank]))  # noqa: B023  # runs here
        assert found == [texts[: len(found)]] * len(found)


def test_what_the_first_process_makes_is_made_once(meeting: Meeting) -> None:
    numbers = itertools.count()
    found = meeting.run(lambda world: world.from_first(lambda: f"{next(numbers)} by {world.rank}"))
    assert found == ["0 by 0"] * len(found)
    assert next(numbers) == 1


def test_together_each_gets_its_own_or_the_answer_of_one(meeting: Meeting) -> None:
    found = meeting.run(lambda world: world.together(lambda: f"by {world.rank}"))
    assert found == [f"by {rank}" for rank in range(len(found))]
    found = meeting.run(lambda world: world.together(lambda: f"by {world.rank}", 1))
    assert found == ["by 1"] * len(found)


def test_where_one_process_fails_the_others_name_it(meeting: Meeting) -> None:
    def act() -> str:
        raise ValueError("no room")

    first, second, *others = meeting.run(
        lambda world: world.together(act if world.rank == 1 else lambda: "fine")
    )
    assert isinstance(second, ValueError)
    for failure in (first, *others):
        assert isinstance(failure, CompressionError)
        assert str(failure) == "process 1 failed: ValueError: no room"


def test_sums_are_of_all_processes_whatever_the_dtypes(meeting: Meeting) -> None:
    def act(world: World) -> list[object]:
        values = [
            torch.full((2, 2), world.rank + 1),
            torch.tensor([0.5]) * world.rank,
            torch.tensor([10, 20]) + world.rank,
        ]
        world.sum(values)
        return [value.tolist() for value in values]

    found = meeting.run(act)
    one, two = {2: (3, 1), 3: (6, 3)}[len(found)]
    each = 10 * len(found) + two
    wanted = [[[one, one], [one, one]], [0.5 * two], [each, each + 10 * len(found)]]
    assert found == [wanted] * len(found)


def test_processes_that_were_started_differently_are_told(meeting: Meeting) -> None:
    def act(world: World) -> None:
        same_everywhere(world, "the data", "x")
        same_everywhere(world, "the recipe", str(world.rank == 0))

    for failure in meeting.run(act):
        assert isinstance(failure, CompressionError)
        assert failure.what == "the processes do not agree on the recipe"
        assert failure.fix == "start all of them with the same model, recipe and data"


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
