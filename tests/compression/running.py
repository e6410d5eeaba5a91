"""Small runs of recipes: a network of two layers, and data that it can learn."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule

import qpc
from qpc.compression import epochs
from qpc.compression.result import CompressResult
from qpc.compression.training import TrainContext

PRUNE = {
    "kind": "prune",
    "criterion": "l1",
    "allocation": {"kind": "global", "amount": 0.5, "of": "macs"},
}
TUNE = {"kind": "fine-tune", "epochs": 3, "learning_rate": 0.1}
LOOP: dict[str, Any] = {"rounds": {"at_most": 2, "steps": [PRUNE, TUNE]}}
"""Two rounds in float: quick."""
COARSE = {"observer": {"kind": "min-max"}}
QAT = {
    "kind": "qat",
    "epochs": 2,
    "learning_rate": 0.01,
    "config": {"default": {"activation": COARSE}},
}
TEXTBOOK: dict[str, Any] = {
    "budget": {"limit": 0.1},
    "start": [TUNE],
    **LOOP,
    "finish": [QAT],
}
"""Baseline, then prune, fine-tune, quantize and train, judge, twice."""


def inputs() -> Tensor:
    return torch.randn(48, 6, generator=torch.Generator().manual_seed(1))


def labels(x: Tensor) -> Tensor:
    return (x[:, 0] > 0).long() + 2 * (x[:, 1] > 0).long()


def network() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 4)).eval()


def evaluate(gm: GraphModule) -> float:
    x = inputs()
    return float((gm(x).argmax(1) == labels(x)).float().mean())


def train(gm: GraphModule, context: TrainContext) -> None:
    x = inputs()
    optimizer = torch.optim.SGD(gm.parameters(), lr=context.learning_rate or 0.1, momentum=0.9)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.7)
    qpc.set_training(gm)
    for _ in context.each_epoch(gm, optimizer, schedule):
        for chosen in torch.randperm(len(x)).split(16):
            loss = nn.functional.cross_entropy(gm(x[chosen]), labels(x[chosen]))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        schedule.step()
    qpc.set_training(gm, mode=False)


def run(recipe: Any, **changed: Any) -> CompressResult:
    given: dict[str, Any] = {"train": train, "evaluate": evaluate, "batches": [inputs()]}
    return qpc.compress(network(), recipe, **{**given, **changed})


def marks(result: CompressResult) -> list[tuple[str, float, str]]:
    """All that must be the same in the end, however often the run was killed."""
    rows = [(row.name, row.metric, row.fingerprint) for row in result.rows]
    return [*rows, (result.stopped, result.best.metric, qpc.fingerprint(result.model))]


# --- runs that die --------------------------------------------------------------------------------

_WRITES = ("mkdir", "open", "write", "fsync", "rename", "replace", "unlink", "rmdir")


def killed_at(call: int, action: Callable[[], object]) -> bool:
    """Run in a process of its own, which is killed at this call that changes the disk.

    Returns whether it was killed; False if it came to its end before that.
    """
    child = os.fork()
    if child == 0:
        left = [call]
        for name in _WRITES:
            setattr(os, name, _deadly(getattr(os, name), left))
        _end_with(action)
    return _was_killed(child)


def killed_after(wait: Callable[[], object], action: Callable[[], object]) -> bool:
    """The same, killed when `wait` returns."""
    child = os.fork()
    if child == 0:
        _end_with(action)
    wait()
    os.kill(child, signal.SIGKILL)
    return _was_killed(child)


def _end_with(action: Callable[[], object]) -> None:
    epochs._PAUSE = 0.0  # every epoch is kept
    try:
        action()
    except BaseException:
        os._exit(1)
    os._exit(0)


def _deadly(function: Callable[..., Any], left: list[int]) -> Callable[..., Any]:
    def counted(*args: Any, **kwargs: Any) -> Any:
        left[0] -= 1
        if left[0] < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*args, **kwargs)

    return counted


def _was_killed(child: int) -> bool:
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return True
    assert os.WEXITSTATUS(status) == 0, "the run failed"
    return False
