"""How good models are on data: accuracy, and agreement with the first of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.fx import GraphModule
from torch.utils import _pytree as pytree

from qpc.backends.compiled import CallableModel
from qpc.errors import BackendError, ConfigError
from qpc.explanation.result import decibels
from qpc.modes import ordinary_torch
from qpc.precision.partial_runs import NoiseSums

_TOP = 5


class Part(Protocol):
    """Some samples, and the class of each."""

    @property
    def inputs(self) -> tuple[Tensor, ...]: ...
    @property
    def labels(self) -> Tensor | None: ...


@dataclass(frozen=True)
class Score:
    """How good one model is.

    samples: how many it saw. top1, top5: shares of them that it got right; None without labels, or
    without classes. agreement: share on which its first class is that of the first model.
    noise: squared error of its outputs over those of the first model. differing: how many output
    values are not exactly those. ms: milliseconds for a sample in batches, everything included; the
    first batch, which fills caches, counts only if there are no others.
    """

    name: str
    samples: int
    top1: float | None
    top5: float | None
    agreement: float | None
    noise: float
    differing: int
    ms: float

    @property
    def sqnr_db(self) -> float:
        """Signal-to-noise ratio against the first model, in dB."""
        return decibels(self.noise)


@dataclass
class _Sums:
    right: int = 0
    among: int = 0
    agreeing: int = 0
    differing: int = 0
    timed: list[tuple[float, int]] = field(default_factory=list)
    """Seconds and samples of each batch."""
    noise: NoiseSums = field(default_factory=NoiseSums)


class Sized(Protocol):
    """What runs in some batch sizes only."""

    @property
    def batch_sizes(self) -> tuple[int, ...]: ...
    def __call__(self, *inputs: Any) -> Any: ...


def any_size(model: Sized) -> Callable[..., list[Tensor]]:
    """A compiled model that takes any number of samples, in the batch sizes that it was made for.

    What is left over is filled up with samples that were there before. Returns its output tensors.
    """

    def call(*inputs: Tensor) -> list[Tensor]:
        count = len(inputs[0])
        pieces: list[list[Tensor]] = []
        start = 0
        while start < count:
            size = _size(model.batch_sizes, count - start)
            taken = [x[start : start + size] for x in inputs]
            real = len(taken[0])
            if real < size:
                taken = [x[torch.arange(size) % real] for x in taken]
            outputs = pytree.tree_leaves(model(*(x.contiguous() for x in taken)))
            pieces.append([y[:real] for y in outputs if isinstance(y, Tensor)])
            start += size
        return [torch.cat(group) for group in zip(*pieces, strict=True)]

    return call


def _size(sizes: Sequence[int], left: int) -> int:
    """The greatest batch size that is not too great, else the smallest."""
    fitting = [size for size in sizes if size <= left]
    return max(fitting) if fitting else min(sizes)


def callable_of(model: GraphModule | CallableModel) -> Callable[..., list[Tensor]]:
    """What returns a model's output tensors for any number of samples."""
    if isinstance(model, CallableModel):
        return any_size(model)

    def call(*inputs: Tensor) -> list[Tensor]:
        with torch.no_grad():
            found = pytree.tree_leaves(model(*inputs))
        return [value for value in found if isinstance(value, Tensor)]

    return call


@ordinary_torch()
def evaluate(
    models: Mapping[str, GraphModule | CallableModel], parts: Iterable[Part]
) -> tuple[Score, ...]:
    """How good models are on the same samples, each compared with the first.

    models: graphs or compiled models by name. parts: samples in batches, with labels or without;
    the first output is taken for scores of classes if it has two axes.

    Raises ConfigError if there are no samples or a label has no class, and what the models raise.
    """
    calls = {name: callable_of(model) for name, model in models.items()}
    sums = {name: _Sums() for name in models}
    count, classes, labelled = 0, True, True
    for part in parts:
        count += len(part.inputs[0])
        first: list[Tensor] = []
        for name, call in calls.items():
            start = time.perf_counter()
            outputs = call(*part.inputs)
            sums[name].timed.append((time.perf_counter() - start, len(part.inputs[0])))
            first = first or outputs
            _add(sums[name], first, outputs, part.labels)
        classes = classes and _is_scores(first)
        labelled = labelled and part.labels is not None
    if count == 0:
        raise ConfigError("there are no samples", fix="check what the data is read from")
    return tuple(_score(name, s, count, classes, labelled) for name, s in sums.items())


def accuracy(gm: GraphModule, parts: Iterable[Part]) -> float:
    """The share of samples whose greatest output is that of their class."""
    (score,) = evaluate({"model": gm}, parts)
    if score.top1 is None:
        raise ConfigError("the model has no scores of classes, so it has no accuracy")
    return score.top1


def _add(
    sums: _Sums, first: Sequence[Tensor], outputs: Sequence[Tensor], labels: Tensor | None
) -> None:
    if len(first) != len(outputs) or any(
        a.shape != b.shape for a, b in zip(first, outputs, strict=True)
    ):
        raise BackendError(
            "the models have outputs of different shapes",
            fix="compare models that were made of the same one",
        )
    sums.noise.add(first, outputs)
    sums.differing += sum(int((a != b).sum()) for a, b in zip(first, outputs, strict=True))
    if not _is_scores(outputs):
        return
    scores = outputs[0]
    best = scores.argmax(1)
    sums.agreeing += int((best == first[0].argmax(1)).sum())
    if labels is None:
        return
    if bool((labels >= scores.shape[1]).any()) or bool((labels < 0).any()):
        raise ConfigError(
            f"the label {int(labels.max())} is none of the model's {scores.shape[1]} classes",
            fix="--classes FILE with the classes in the model's order, or call folders by numbers",
        )
    sums.right += int((best == labels).sum())
    top = scores.topk(min(_TOP, scores.shape[1]), 1).indices
    sums.among += int((top == labels[:, None]).any(1).sum())


def _is_scores(outputs: Sequence[Tensor]) -> bool:
    return bool(outputs) and outputs[0].dim() == 2 and outputs[0].is_floating_point()


def _score(name: str, sums: _Sums, count: int, classes: bool, labelled: bool) -> Score:
    known = classes and labelled
    timed = sums.timed[1:] or sums.timed
    return Score(
        name,
        count,
        sums.right / count if known else None,
        sums.among / count if known else None,
        sums.agreeing / count if classes else None,
        sums.noise.ratio(),
        sums.differing,
        sum(seconds for seconds, _ in timed) / sum(samples for _, samples in timed) * 1e3,
    )


def table(scores: Sequence[Score]) -> str:
    """The scores as aligned text."""
    width = max(len(score.name) for score in scores)
    others = f"{f'not as {scores[0].name}':>11}"
    lines = [
        f"{'':<{width}}  {'top-1':>7}  {'top-5':>7}  {'agreement':>9}  {'SQNR dB':>7}"
        f"  {others}  {'ms/sample':>9}"
    ]
    for place, score in enumerate(scores):
        compared = place > 0
        cells: list[Any] = [
            _percent(score.top1, 7),
            _percent(score.top5, 7),
            _percent(score.agreement, 9) if compared else " " * 9,
            f"{score.sqnr_db:7.1f}" if compared else " " * 7,
            f"{score.differing:>{len(others)},}" if compared else " " * len(others),
            f"{score.ms:9.2f}",
        ]
        lines.append(f"{score.name:<{width}}  {'  '.join(cells)}".rstrip())
    return "\n".join(lines)


def _percent(value: float | None, width: int) -> str:
    return "-".rjust(width) if value is None else f"{value:>{width}.2%}"
