"""How many samples are used, and in which batches."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from qpc.given.data import Part
from qpc.given.opened import Samples
from qpc.given.options import DataOptions
from qpc.types import TensorType


@dataclass(frozen=True)
class Rows:
    """So many samples of one number, which are counted or not."""

    rows: int
    count: int | None
    labelled: bool = False

    def parts(self, size: int, most: int | None = None) -> Iterator[Part]:
        left = self.rows if most is None else min(most, self.rows)
        for start in range(0, left, size):
            yield Part((torch.ones(min(size, left - start), 1),))


def samples(rows: int, *, counted: bool = True, **options: int) -> Samples:
    data = Rows(rows, rows if counted else None)
    return Samples(data, DataOptions(**options), [TensorType((1, 1), torch.float32)])  # type: ignore[arg-type]  # numbers only


def batches(of: Samples, size: int | None = None, most: int | None = None) -> list[int]:
    """How many samples are in each; there are as many as was said before."""
    found = [len(part) for part in of.batches(size, most)]
    assert of.number_of_batches(size, most) == len(found)
    return found


def test_samples_come_in_batches_of_16_or_as_is_said() -> None:
    assert batches(samples(35)) == [16, 16, 3]
    assert batches(samples(35, batch=20)) == [20, 15]
    assert batches(samples(35, batch=20), 30) == [30, 5]


def test_no_more_samples_are_used_than_are_asked_for() -> None:
    some, few = samples(35, samples=20), samples(3, samples=20)
    assert (some.count, batches(some)) == (20, [16, 4])
    assert (few.count, batches(few)) == (3, [3])
    assert batches(some, most=8) == [8]
    assert batches(some, 5, most=12) == [5, 5, 2]
    assert batches(some, most=30) == [16, 14]  # in place of the option
    assert batches(samples(35), most=99) == [16, 16, 3]


def test_nobody_knows_how_many_samples_there_are_unless_a_number_is_asked_for() -> None:
    endless = samples(35, counted=False)
    assert (endless.count, endless.number_of_batches()) == (None, None)
    assert endless.number_of_batches(2, most=3) == 2
    limited = samples(35, counted=False, samples=20)
    assert (limited.count, limited.number_of_batches(8)) == (20, 3)
