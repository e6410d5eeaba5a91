"""Passes whose progress a reporter shows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from torch import Tensor

from qpc.base import Pass, PassContext, PassReport
from qpc.given.opened import Samples
from qpc.terminal.reporter import Reporter


@dataclass
class Watched(PassContext):
    """A context whose passes say what they do to a reporter."""

    reporter: Reporter = field(default_factory=Reporter)

    def __post_init__(self) -> None:
        self._steps = self.reporter

    def finish(self, pass_: Pass, *, seconds: float, changed: bool) -> PassReport:
        """Close the remarks of one pass, and say so."""
        self.reporter.detail(f"{pass_.name} done")
        return super().finish(pass_, seconds=seconds, changed=changed)


@dataclass(frozen=True)
class Calibration:
    """Batches of samples for passes; each time they are read is shown."""

    samples: Samples
    reporter: Reporter
    text: str = "calibrating"
    most: int | None = None

    def __length_hint__(self) -> int:
        return self.samples.number_of_batches(most=self.most) or 0

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        parts = self.samples.batches(most=self.most)
        if self.reporter.doing == self.text:  # whoever reads the batches counts them
            yield from (part.inputs for part in parts)
            return
        for part in self.reporter.each(parts, self.text, len(self) or None):
            yield part.inputs

    def __len__(self) -> int:
        return self.__length_hint__()
