from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

import qpc
from qpc.errors import BackendError, ConfigError
from qpc.explanation.evaluation import accuracy, any_size, evaluate, table


@dataclass(frozen=True)
class Part:
    inputs: tuple[Tensor, ...]
    labels: Tensor | None


class Sized:
    """Adds one, in batches of some sizes only, and remembers which."""

    def __init__(self, *sizes: int) -> None:
        self.batch_sizes = sizes
        self.seen: list[int] = []

    def __call__(self, x: Tensor) -> Tensor:
        assert len(x) in self.batch_sizes
        self.seen.append(len(x))
        return x + 1


def graph(*rows: tuple[float, ...]) -> torch.fx.GraphModule:
    """Multiplies by a matrix."""
    model = nn.Linear(len(rows[0]), len(rows), bias=False)
    model.weight.data = torch.tensor(rows)
    return qpc.trace(model, torch.zeros(1, len(rows[0])))


IDENTITY = graph((1.0, 0.0), (0.0, 1.0))
SWAPPED = graph((0.0, 1.0), (1.0, 0.0))
SAMPLES = torch.tensor([[2.0, 1.0], [1.0, 2.0], [4.0, 3.0]])
LABELS = torch.tensor([0, 1, 1])


def test_a_compiled_model_takes_any_number_of_samples() -> None:
    model = Sized(4, 1)
    x = torch.arange(6.0).reshape(6, 1)
    assert torch.equal(any_size(model)(x)[0], x + 1)
    assert model.seen == [4, 1, 1]
    large = Sized(4)
    assert torch.equal(any_size(large)(x)[0], x + 1)
    assert large.seen == [4, 4], "two samples are filled up with others"


def test_models_are_scored_side_by_side() -> None:
    parts = [Part((SAMPLES[:2],), LABELS[:2]), Part((SAMPLES[2:],), LABELS[2:])]
    first, second = evaluate({"float": IDENTITY, "swapped": SWAPPED}, parts)
    assert (first.top1, first.top5, first.agreement) == (2 / 3, 1.0, 1.0)
    assert (second.top1, second.agreement, second.differing) == (1 / 3, 0.0, 6)
    assert math.isinf(first.sqnr_db)
    text = table([first, second])
    assert text.splitlines()[1].startswith("float     66.67%  100.00%")
    assert accuracy(IDENTITY, parts) == 2 / 3


def test_without_labels_there_is_agreement_only() -> None:
    (score,) = evaluate({"float": IDENTITY}, [Part((SAMPLES,), None)])
    assert (score.top1, score.agreement) == (None, 1.0)
    assert " - " in table([score])
    image = qpc.trace(nn.Conv2d(1, 1, 1), torch.zeros(1, 1, 2, 2))
    pictures = Part((torch.zeros(2, 1, 2, 2),), torch.zeros(2, dtype=torch.int64))
    (score,) = evaluate({"float": image}, [pictures])
    assert (score.top1, score.agreement) == (None, None), "pictures are no scores of classes"
    with pytest.raises(ConfigError, match="has no scores of classes, so it has no accuracy"):
        accuracy(image, [pictures])


def test_the_first_batch_is_not_in_the_time_if_there_are_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = iter([0.0, 9.0, 20.0, 21.0, 30.0, 31.0])
    monkeypatch.setattr("time.perf_counter", lambda: next(clock))
    parts = [Part((SAMPLES[:1],), None), Part((SAMPLES[:1],), None), Part((SAMPLES,), None)]
    (score,) = evaluate({"float": IDENTITY}, parts)
    assert score.ms == 1000 * (1 + 1) / (1 + len(SAMPLES))


def test_a_single_batch_has_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 9.0])
    monkeypatch.setattr("time.perf_counter", lambda: next(clock))
    (score,) = evaluate({"float": IDENTITY}, [Part((SAMPLES,), None)])
    assert score.ms == 9000 / len(SAMPLES)


def test_what_cannot_be_scored_is_refused() -> None:
    with pytest.raises(ConfigError, match="there are no samples"):
        evaluate({"float": IDENTITY}, [])
    with pytest.raises(ConfigError, match="the label 7 is none of the model's 2 classes"):
        evaluate({"float": IDENTITY}, [Part((SAMPLES,), torch.tensor([0, 7, 1]))])
    with pytest.raises(BackendError, match="the models have outputs of different shapes"):
        evaluate({"a": IDENTITY, "b": graph((1.0, 1.0))}, [Part((SAMPLES,), None)])
