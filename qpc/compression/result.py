"""What came out of a run: every model that was judged, and the best of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from torch.fx import GraphModule

from qpc.compression.plot import Dot, Panel, draw
from qpc.compression.recipe import MEASURES, Measure, Recipe, in_units
from qpc.terminal.notebook import InNotebook


@dataclass(frozen=True)
class Row:
    """One model that was judged.

    name: the step after which it was; candidate: whether the run could return it.
    metric: what `evaluate` returned. macs, parameters: counts. bytes: of all its tensors.
    latency_ms: of one call when compiled; None if that was not measured.
    fingerprint: of its graph.
    """

    name: str
    candidate: bool
    metric: float
    macs: int
    parameters: int
    bytes: int
    latency_ms: float | None
    fingerprint: str

    def cost(self, measure: Measure) -> float | None:
        """One of the costs by its name; None if it was not measured."""
        found: float | None = getattr(self, measure)
        return found


def measures(row: Row, group: str) -> dict[str, float | None]:
    """The numbers of a model by names for callbacks, such as "judged/metric"."""
    names = ("metric", "macs", "parameters", "bytes", "latency_ms")
    return {f"{group}/{name}": getattr(row, name) for name in names}


@dataclass(frozen=True)
class Judgement:
    """What a recipe asks of models.

    baseline: the model before compression. first: the first candidate, with which the latencies of
    the others are compared: compiled like them, but with nothing gone that rounds remove.
    """

    recipe: Recipe
    baseline: Row
    first: Row | None = None

    @property
    def limit(self) -> float | None:
        """The worst metric inside of the budget; None if anything is."""
        budget = self.recipe.budget
        if budget is None:
            return None
        if budget.limit is not None:
            return budget.limit
        return self.baseline.metric - self._sign * (budget.lose or 0.0)

    @property
    def _sign(self) -> int:
        return 1 if self.recipe.better == "higher" else -1

    def worth(self, row: Row) -> float:
        """The metric, turned so that more is better."""
        return self._sign * row.metric

    def inside(self, row: Row) -> bool:
        """Whether a model is inside of the budget."""
        return self.limit is None or self._sign * (row.metric - self.limit) >= 0

    def reaches(self, row: Row) -> bool:
        """Whether a model costs no more than the target asks; False if there is no target."""
        if self.recipe.target is None:
            return False
        return all(
            (cost := row.cost(name)) is not None and cost <= in_units(amount, self._whole(name))
            for name, amount in self.recipe.target.amounts().items()
        )

    def _whole(self, measure: Measure) -> float:
        """What shares of a cost are shares of."""
        whole = self.first if measure == "latency_ms" and self.first else self.baseline
        return whole.cost(measure) or 0.0

    def best(self, rows: Iterable[Row]) -> Row | None:
        """The candidate to return: inside of the budget, at the target if any is, cheapest."""
        good = [row for row in rows if row.candidate and self.inside(row)]
        good = [row for row in good if self.reaches(row)] or good
        measure = self.recipe.preference
        return min(
            good,
            key=lambda row: (row.cost(measure) or 0.0, -self.worth(row), row.name),
            default=None,
        )

    def front(self, rows: Sequence[Row], measure: Measure) -> tuple[Row, ...]:
        """The Pareto front: models to which no other is better or equal in both, cheapest first."""
        known = [(cost, row) for row in rows if (cost := row.cost(measure)) is not None]
        found: list[Row] = []
        for _, row in sorted(known, key=lambda item: (item[0], -self.worth(item[1]))):
            if not found or self.worth(row) > self.worth(found[-1]):
                found.append(row)
        return tuple(found)


@dataclass(frozen=True, repr=False)
class CompressResult(InNotebook):
    """The best model and how it compares.

    model: the best graph inside of the budget, of integers if the recipe quantizes. best: its row.
    rows: all that were judged, in order; the first is the model before compression.
    stopped: why the rounds ended. reached: whether the target was reached; None if there is none.
    folder: where all of it is kept; None if nowhere.
    """

    model: GraphModule = field(repr=False)
    best: Row
    rows: tuple[Row, ...]
    judgement: Judgement = field(repr=False)
    stopped: str
    reached: bool | None
    folder: Path | None

    @property
    def measures(self) -> tuple[Measure, ...]:
        """The costs that were measured, of any model."""
        return tuple(m for m in MEASURES if any(row.cost(m) is not None for row in self.rows))

    def __repr__(self) -> str:
        return f"<CompressResult: {self.best.name!r} of {len(self.rows)} models>"

    def _text(self) -> str:
        return f"{self.table()}\n\n{self.summary()}"

    def to_json(self) -> dict[str, Any]:
        """Everything but the graphs as JSON values."""
        return self.plain()

    def table(self) -> str:
        """All models as a text, a line for each; the best one has a star."""
        names = {"latency_ms": "latency ms"}
        heads = ["", self.judgement.recipe.metric, *(names.get(m, m) for m in self.measures)]
        lines = [heads]
        for row in self.rows:
            costs = [_number(row.cost(measure)) for measure in self.measures]
            star = "* " if row == self.best else "  "
            lines.append([f"{star}{row.name}", f"{row.metric:.4f}", *costs])
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        return "\n".join(
            "  ".join(
                cell.ljust(width) if place == 0 else cell.rjust(width)
                for place, (cell, width) in enumerate(zip(line, widths, strict=True))
            ).rstrip()
            for line in lines
        )

    def summary(self) -> str:
        """Why it ended, and whether the target was reached."""
        missed = "; the target was not reached" if self.reached is False else ""
        return f"{self.stopped}{missed}: the best is {self.best.name!r}."

    def plain(self) -> dict[str, Any]:
        """Everything but the graphs, as plain data for JSON."""
        fronts = {m: self.judgement.front(self.rows, m) for m in self.measures}
        rows = [
            {
                **asdict(row),
                "inside_budget": self.judgement.inside(row),
                "reaches_target": self.judgement.reaches(row),
                "pareto": [m for m, front in fronts.items() if row in front],
            }
            for row in self.rows
        ]
        return {
            "metric": self.judgement.recipe.metric,
            "better": self.judgement.recipe.better,
            "limit": self.judgement.limit,
            "best": self.best.name,
            "stopped": self.stopped,
            "target_reached": self.reached,
            "models": rows,
        }

    def plot(self) -> str:
        """A picture as SVG: the metric over each cost, a dot for each model, with Pareto fronts."""
        limit = self.judgement.limit
        panels = []
        for measure in self.measures:
            front = self.judgement.front(self.rows, measure)
            dots = tuple(
                Dot(row.cost(measure) or 0.0, row.metric, row.name, row in front, row == self.best)
                for row in self.rows
                if row.cost(measure) is not None
            )
            panels.append(Panel(_TITLES[measure], dots, limit))
        return draw(panels, self.judgement.recipe.metric)


_TITLES: dict[Measure, str] = {
    "macs": "MACs",
    "parameters": "parameters",
    "bytes": "bytes",
    "latency_ms": "latency (ms)",
}


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,}" if isinstance(value, int) else f"{value:.3f}"
