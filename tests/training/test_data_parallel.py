"""Two processes train as one that sees the whole batch: the same losses, and the same grids."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
from torch import Tensor, distributed, nn
from torch.fx import GraphModule
from torch.multiprocessing.spawn import spawn
from torch.nn.parallel import DistributedDataParallel

import qpc
from qpc.passes import FollowRanges, LearnGrids

pytestmark = pytest.mark.slow
PROCESSES, STEPS = 2, 4
LEARN = (LearnGrids(activations=False), FollowRanges(decay=0.8, weights=False))
Found = tuple[list[float], dict[str, Tensor]]


def prepared() -> GraphModule:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(288, 4)
    )
    x, _ = data()
    gm = qpc.trace(model.eval(), x)
    gm = qpc.prepare_qat(gm, [x], batch_norm="simulated", learn=LEARN)
    return qpc.set_training(qpc.freeze_batch_norm(gm))


def data() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(8, 3, 8, 8, generator=generator)
    return x, torch.randint(4, (8,), generator=generator)


def trained(gm: GraphModule, model: nn.Module, x: Tensor, y: Tensor) -> Found:
    """The losses of a few steps, and all tensors at the end."""
    optimizer, losses = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9), []
    for _ in range(STEPS):
        loss = nn.functional.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses, {name: value.clone() for name, value in gm.state_dict().items()}


def work(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=PROCESSES
    )
    gm, (x, y) = prepared(), data()
    mine = slice(rank, None, PROCESSES)
    found = trained(gm, DistributedDataParallel(gm), x[mine], y[mine])
    Path(folder, f"{rank}").write_bytes(pickle.dumps(found))
    distributed.destroy_process_group()


def test_two_processes_train_like_one_and_hold_the_same_grids(tmp_path: Path) -> None:
    spawn(work, (str(tmp_path),), nprocs=PROCESSES)
    first, second = (pickle.loads(Path(tmp_path, f"{rank}").read_bytes()) for rank in (0, 1))
    gm = prepared()
    losses, tensors = trained(gm, gm, *data())
    both = torch.tensor([first[0], second[0]]).mean(0)
    # Sums in another order put a value on the other side of a tie now and then, a step apart.
    torch.testing.assert_close(both, torch.tensor(losses), rtol=1e-3, atol=1e-5)
    assert first[1].keys() == tensors.keys()
    for name, value in tensors.items():
        assert torch.equal(first[1][name], second[1][name]), name
        if name.startswith("quantizers.input_1."):  # what no rounded sum has touched
            assert torch.equal(first[1][name], value)
        # sums of half a batch are rounded otherwise, and now and then a value to another point
        torch.testing.assert_close(first[1][name], value, rtol=1e-2, atol=1e-3)
