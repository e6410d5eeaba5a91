from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.fx import GraphModule

import qpc
from qpc.compression.parallel import World
from qpc.compression.rounding import is_rounded, prepared_for_training, rounded
from qpc.compression.step import Place, StepContext
from qpc.compression.steps import Qat
from qpc.errors import CalibrationError
from qpc.facts import CORE_FORM, OBSERVED
from qpc.passes import Calibrate, LearnGrids
from qpc.quant.config import QuantConfig
from qpc.recipes import prepare
from qpc.testing import traced
from tests.compression.running import inputs, network


def at(batches: object, world: World = World(), folder: Path | None = None) -> StepContext:  # noqa: B008  # a value
    return StepContext(
        Place("x", "start"),
        0,
        batches=lambda: batches,  # type: ignore[arg-type, return-value]  # as users give them
        train=None,
        loss=None,
        teacher=pytest.fail,
        baseline=lambda heads: pytest.fail("it is not asked"),
        checkpoints=folder,
        world=world,
    )


@pytest.fixture(scope="module")
def gm() -> GraphModule:
    return traced(network(), inputs())


def test_preparation_is_that_of_the_front_door(gm: GraphModule) -> None:
    learn = LearnGrids(zero_points=True)
    found = prepared_for_training(gm, QuantConfig(), [learn], at([inputs()]))
    expected = qpc.prepare_qat(gm, [inputs()], learn=learn)
    assert qpc.fingerprint(found) == qpc.fingerprint(expected)
    assert is_rounded(found)
    assert not is_rounded(gm)
    assert prepared_for_training(found, QuantConfig(), [], at([])) is found


def test_batch_norms_may_train_before_they_are_folded() -> None:
    x = torch.randn(16, 6)
    gm = traced(nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)), x)
    step = Qat.model_validate({"kind": "qat", "epochs": 1, "batch_norm": "simulated"})
    found = prepared_for_training(gm, step.config, [], at([x]), batch_norm=step.batch_norm)
    expected = qpc.prepare_qat(gm, [x], learn=None, batch_norm="simulated")
    assert qpc.fingerprint(found) == qpc.fingerprint(expected)
    folded = prepared_for_training(gm, step.config, [], at([x]))
    assert qpc.fingerprint(folded) != qpc.fingerprint(found)


@pytest.mark.parametrize("bits", [8, 4])
def test_biases_and_few_bits_are_corrected_as_at_the_front_door(gm: GraphModule, bits: int) -> None:
    config = QuantConfig.of_bits(bits, 8)
    found = qpc.convert(rounded(gm, config, at([inputs()])))
    assert qpc.fingerprint(found) == qpc.fingerprint(qpc.quantize(gm, [inputs()], config))


class Alone(World):
    """The first of two processes, which does the work of both, one after the other."""

    def gather(self, text: str) -> list[str]:
        return [text, text]

    def together(self, act: object, answer: int | None = None) -> str:
        return World().together(act, answer)  # type: ignore[arg-type]  # as it was given


def test_shards_are_calibrated_apart_and_merged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other process has left its half of the six batches where they meet.

    Biases are corrected by the first 128 samples, which end in the third batch.
    """
    net = nn.Sequential(nn.Conv2d(3, 5, 3), nn.ReLU(), nn.Conv2d(5, 4, 3))
    x = torch.randn(300, 3, 7, 6)
    gm, batches, meeting = traced(net, x[:2]), list(x.split(50)), tmp_path / "meeting"
    calibrate = qpc.Pipeline((Calibrate(batches[3:]),), frozenset({CORE_FORM, OBSERVED}))
    qpc.save_graph(calibrate.run(prepare().run(gm)), meeting / "1")
    monkeypatch.setattr(Alone, "from_first", lambda self, make: str(meeting))
    shared = rounded(gm, QuantConfig(), at(batches, Alone(0, 2), tmp_path))
    assert qpc.fingerprint(shared) == qpc.fingerprint(rounded(gm, QuantConfig(), at(batches)))
    assert not meeting.exists()


def test_without_batches_no_process_waits(gm: GraphModule, tmp_path: Path) -> None:
    with pytest.raises(CalibrationError, match="there are no calibration batches"):
        rounded(gm, QuantConfig(), at(iter(()), Alone(0, 2), tmp_path))


def test_one_process_reads_the_batches_once(gm: GraphModule) -> None:
    class Once(list[torch.Tensor]):
        def __iter__(self) -> Iterator[torch.Tensor]:
            assert self, "they are read again"
            while self:
                yield self.pop()

    assert is_rounded(rounded(gm, QuantConfig(), at(Once([inputs()]))))


def test_biases_are_corrected_on_the_first_samples(gm: GraphModule) -> None:
    first = rounded(gm, QuantConfig(), at([inputs()[:40], inputs()[40:]]))
    assert is_rounded(first)
    assert torch.isfinite(first(inputs())).all()
