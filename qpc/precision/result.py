"""What `qpc.sensitivity` found: as a table, as JSON, as a picture."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError

from qpc.errors import ArtifactError
from qpc.files import replace_file
from qpc.precision.plot import Dot, Row, draw
from qpc.settings import Settings, first_problem
from qpc.terminal.notebook import InNotebook

EffectKind = Literal["weights", "activations", "channels"]
"""What is reduced: bits of weights, bits of activations, or the number of channels."""
_FORMAT = "qpc-sensitivity-1"
_TITLE = "SQNR in dB"


@dataclass(frozen=True)
class Effect:
    """What one reduction does to the outputs, everything else in float.

    name: the part of the model, by module. amount: bits, or the share of channels that goes.
    noise: sum of squared errors of the outputs over their sum of squares; inf if they are no
    numbers. metric: what the user's `evaluate` said; None without one.
    """

    kind: EffectKind
    name: str
    amount: float
    noise: float
    metric: float | None = None

    @property
    def sqnr_db(self) -> float:
        """Signal-to-quantization-noise ratio: -10 log10(noise); inf if nothing changes."""
        return sqnr_db(self.noise)

    @property
    def reduction(self) -> str:
        """The amount in words."""
        return f"-{self.amount:.0%}" if self.kind == "channels" else f"{self.amount:.0f} bits"


def sqnr_db(noise: float) -> float:
    """A ratio of noise to signal in decibels of signal to noise."""
    return -10 * math.log10(noise) if noise else math.inf


@dataclass(frozen=True, repr=False)
class Sensitivity(InNotebook):
    """All effects, the worst part of the model first.

    metric: that of the float graph; None without `evaluate`. graph: its fingerprint.
    """

    effects: tuple[Effect, ...]
    metric: float | None
    graph: str

    def __str__(self) -> str:
        return self.table()

    def __repr__(self) -> str:
        return f"<Sensitivity: {len(self.effects)} effects>"

    def of(self, kind: EffectKind, name: str, amount: float) -> Effect | None:
        """One effect; None if it was not tried."""
        wanted = (kind, name, amount)
        return next((e for e in self.effects if (e.kind, e.name, e.amount) == wanted), None)

    def table(self, most: int | None = None) -> str:
        """The worst `most` parts, or all: SQNR of the outputs in dB, after a slash the metric."""
        lines = []
        for kinds in (("weights", "activations"), ("channels",)):
            rows = [(key, found) for key, found in self._rows() if key[0] in kinds]
            if not rows:
                continue
            amounts = sorted(
                {e.reduction for _, found in rows for e in found}, key=_number, reverse=True
            )
            width = max(len(text) for text in (_TITLE, *(name for (_, name), _ in rows)))
            cells = [[_cell(found, amount) for amount in amounts] for _, found in rows[:most]]
            wide = max(len(text) for text in (*amounts, *(c for row in cells for c in row)))
            head = f"{_TITLE:<{width}}  {'of':<11}"
            lines += [head + "".join(f"  {amount:>{wide}}" for amount in amounts)]
            for ((kind, name), _), row in zip(rows, cells, strict=False):
                lines.append(
                    f"{name:<{width}}  {kind:<11}" + "".join(f"  {c:>{wide}}" for c in row)
                )
        if self.metric is not None:
            lines.append(f"metric in float: {self.metric:.4g}")
        return "\n".join(lines)

    def to_json(self) -> str:
        """Everything as JSON; a noise that is no number is null."""
        effects = [
            {**asdict(e), "noise": e.noise if math.isfinite(e.noise) else None}
            for e in self.effects
        ]
        return json.dumps(
            {"format": _FORMAT, "graph": self.graph, "metric": self.metric, "effects": effects},
            indent=1,
        )

    @staticmethod
    def from_json(text: str) -> Sensitivity:
        """Read what `to_json` wrote. Raises ArtifactError for anything else."""
        try:
            data = _Document.model_validate_json(text)
        except ValidationError as e:
            raise ArtifactError(
                f"this text is no sensitivity of a model: {first_problem(e)}",
                fix="write it with .to_json()",
            ) from e
        effects = [
            Effect(e.kind, e.name, e.amount, math.inf if e.noise is None else e.noise, e.metric)
            for e in data.effects
        ]
        return Sensitivity(tuple(effects), data.metric, data.graph)

    def plot(self, path: str | os.PathLike[str]) -> None:
        """Write a picture as SVG: a line for each part, a dot for each amount at its SQNR.

        Raises ArtifactError if it cannot be written.
        """
        rows = [
            Row(f"{name}: {kind}", tuple(Dot(e.sqnr_db, e.reduction) for e in found))
            for (kind, name), found in self._rows()
        ]
        try:
            replace_file(Path(path), draw(rows, "SQNR of the outputs in dB").encode())
        except OSError as e:
            raise ArtifactError(
                f"cannot write {str(path)!r}: {e.strerror or e}",
                fix="choose a file that you may write",
            ) from e

    def _rows(self) -> Iterator[tuple[tuple[EffectKind, str], Sequence[Effect]]]:
        """The effects of each part, in order."""
        found: dict[tuple[EffectKind, str], list[Effect]] = {}
        for effect in self.effects:
            found.setdefault((effect.kind, effect.name), []).append(effect)
        yield from found.items()


class _EffectDocument(Settings):
    """An effect as JSON has it."""

    kind: EffectKind
    name: str
    amount: Annotated[float, Field(gt=0, le=8)]
    noise: Annotated[float, Field(ge=0)] | None
    metric: float | None


class _Document(Settings):
    """What `to_json` writes."""

    format: Literal["qpc-sensitivity-1"]
    graph: str
    metric: float | None
    effects: tuple[_EffectDocument, ...]


def worst_first(effects: Sequence[Effect]) -> tuple[Effect, ...]:
    """Effects sorted by the worst of their part; of one part by amount, the mildest first."""
    worst: dict[tuple[str, str], float] = {}
    for effect in effects:
        key = (effect.kind, effect.name)
        worst[key] = max(worst.get(key, 0.0), effect.noise)

    def place(effect: Effect) -> tuple[float, str, str, float]:
        key = (effect.kind, effect.name)
        mild = effect.amount if effect.kind == "channels" else -effect.amount
        return (-worst[key], *key, mild)

    return tuple(sorted(effects, key=place))


def _number(text: str) -> float:
    return float(text.split()[0].rstrip("%"))


def _cell(effects: Sequence[Effect], amount: str) -> str:
    effect = next((e for e in effects if e.reduction == amount), None)
    if effect is None:
        return "-"
    metric = "" if effect.metric is None else f" / {effect.metric:.4g}"
    return f"{effect.sqnr_db:.1f}{metric}"
