from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor, nn

import qpc
from qpc.compression.classification import Classification, share_gradients
from qpc.compression.parallel import World
from qpc.compression.samples import TensorSamples
from qpc.errors import CompressionError
from qpc.testing import traced
from tests.compression.running import inputs, labels, network


def task(**settings: object) -> Classification:
    samples = TensorSamples(inputs(), labels(inputs()))
    given = {"batch_size": 16, "learning_rate": 0.1, **settings}
    return Classification(samples, samples, **given)  # type: ignore[arg-type]  # as they are meant


def test_the_share_of_right_answers_is_counted() -> None:
    gm = traced(nn.Identity(), torch.eye(4))
    samples = TensorSamples(torch.eye(4), torch.tensor([0, 1, 2, 0]))
    assert Classification(samples, samples, batch_size=3).evaluate(gm) == 0.75


def test_a_recipe_trains_with_it_and_gets_better() -> None:
    ready = task(flip=True)
    recipe = {"start": [{"kind": "fine-tune", "epochs": 8}]}
    result = qpc.compress(
        network(), recipe, train=ready.train, evaluate=ready.evaluate, batches=ready.batches
    )
    assert result.best.metric > result.rows[0].metric


def test_a_teacher_and_labels_have_their_weights() -> None:
    ready = task()
    step = {"kind": "fine-tune", "epochs": 1, "learning_rate": 1e-9}
    taught = {**step, "distil": {"logits": 1.0, "labels": 0.0}}
    for each in (step, taught):
        result = qpc.compress(
            network(),
            {"start": [each]},
            train=ready.train,
            evaluate=ready.evaluate,
            batches=ready.batches,
        )
        assert result.best.metric == result.rows[0].metric


def pairs(ready: Classification) -> list[tuple[Tensor, ...]]:
    batches = list(ready.batches())
    assert all(isinstance(batch, tuple) for batch in batches)
    return [tuple(batch) for batch in batches if isinstance(batch, tuple)]


def test_calibration_takes_some_training_samples_always_the_same() -> None:
    first, second = ([pair[0] for pair in pairs(task(calibration=20))] for _ in range(2))
    assert [len(batch) for batch in first] == [16, 4]
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_a_loss_that_is_no_number_ends_the_step() -> None:
    ready = task()
    step = {"kind": "fine-tune", "epochs": 30, "learning_rate": 1e30}
    with pytest.raises(CompressionError, match=r"the loss has become (nan|inf)") as error:
        qpc.compress(
            network(),
            {"start": [step]},
            train=ready.train,
            evaluate=ready.evaluate,
            batches=ready.batches,
        )
    assert error.value.fix == "lower the learning rate of this step"


def test_criteria_get_a_loss() -> None:
    output = torch.zeros(2, 4)
    batch: tuple[Tensor, Tensor] = (torch.zeros(2, 6), torch.tensor([1, 2]))
    assert float(task().loss(output, batch)) == pytest.approx(1.3863, abs=1e-4)


def test_one_process_shares_nothing() -> None:
    gm = traced(network(), inputs())
    gm(inputs()).sum().backward()
    before = [p.grad.clone() for p in gm.parameters() if p.grad is not None]
    share_gradients(gm, World())
    after = [p.grad for p in gm.parameters() if p.grad is not None]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


class Heard(qpc.Callback):
    """What callbacks are told."""

    def __init__(self) -> None:
        self.told: dict[str, list[float]] = {}

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        for name, value in values.items():
            self.told.setdefault(name, []).append(value)


def test_callbacks_are_told_the_loss_of_each_epoch() -> None:
    ready, heard = task(), Heard()
    qpc.compress(
        network(),
        {"start": [{"kind": "fine-tune", "epochs": 3}]},
        train=ready.train,
        evaluate=ready.evaluate,
        batches=ready.batches,
        callbacks=[heard],
    )
    first, _, last = heard.told["start.1-fine-tune/loss"]
    assert first > last > 0.0


@pytest.mark.parametrize(("rate", "warned"), [(0.1, False), (20.0, True)])
def test_a_training_that_ends_in_guesses_is_warned_of(
    rate: float, warned: bool, caplog: pytest.LogCaptureFixture
) -> None:
    ready = task()
    qpc.compress(
        network(),
        {"start": [{"kind": "fine-tune", "epochs": 3, "learning_rate": rate}]},
        train=ready.train,
        evaluate=ready.evaluate,
        batches=ready.batches,
    )
    text = "the training in 'start.1-fine-tune' ends no better than guessing"
    assert (text in caplog.text) == warned
