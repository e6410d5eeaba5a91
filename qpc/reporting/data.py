"""What a report says, as data: `report.json`, which the page is made of and nothing else.

docs/report.md describes every key. A reader of one version refuses other versions; keys may be
added without a new version only if they have defaults.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from qpc.backends.profile import Limit
from qpc.errors import ArtifactError
from qpc.explanation.inspection import Form

FORMAT: Final = "qpc-report-1"


class _Value(BaseModel):
    """Frozen; what is not described is refused, and so are numbers that are none."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Accuracy(_Value):
    """How good one form of the model is; shares from 0 to 1, null without labels."""

    name: str
    samples: int = Field(ge=0)
    top1: float | None = None
    top5: float | None = None
    agreement: float | None = None


class Size(_Value):
    """A model before or after: counts, bytes of its tensors, microseconds of a call."""

    parameters: int = Field(ge=0)
    macs: int = Field(ge=0)
    bytes: int = Field(ge=0)
    us: float | None = None
    fingerprint: str


class Summary(_Value):
    """The card at the top.

    noise: squared error of the outputs over their squares, 0 if they are equal, null if infinite.
    batch, threads, target: of the latency. environment: what the report was made with, by name.
    settings: how the model was made, as YAML; empty if nobody knows.
    """

    before: Size
    after: Size
    noise: float | None
    samples: int = Field(ge=1)
    accuracy: tuple[Accuracy, ...] = ()
    batch: int | None = None
    threads: int | None = None
    target: str = ""
    other_us: float | None = None
    environment: dict[str, str]
    settings: str = ""


class Layer(_Value):
    """One operator; the fields are those of `qpc.explain`, see there.

    noise: squared error of its result over its squares with all operators quantized. sparsity:
    share of its stored weights that are zero; null without weights. group: of channels.
    """

    name: str
    node: str
    module: str
    operator: str
    shape: str
    macs: int = Field(ge=0)
    weight_bits: int | None = None
    form: Form
    us: float | None = None
    share: float | None = None
    limit: Limit | None = None
    of_limit: float | None = None
    float_us: float | None = None
    inside: str = ""
    noise: float | None = None
    own_noise: float | None = None
    local_noise: float | None = None
    clipped: float = 0.0
    sparsity: float | None = Field(default=None, ge=0, le=1)
    group: int | None = None
    why_float: str = ""
    why_whole: str = ""
    why_alone: str = ""


class Advice(_Value):
    """A change that would gain something, the best first."""

    layer: str
    gain: Literal["accuracy", "time"]
    score: float
    cause: str
    what: str
    expected: str


class Histogram(_Value):
    """How values lie: `counts` in equal steps from `low` to `high`.

    of: weights as they are stored, as the reals that they stand for; or activations of the float
    model. clips: the ends of the grids, which are those of the narrowest and the widest channel
    where channels differ. outside: share of the activations beyond, or of the weights at an end.
    """

    node: str
    of: Literal["weights", "activations"]
    low: float
    high: float
    counts: tuple[int, ...]
    clips: tuple[float, ...] = ()
    outside: float = 0.0


class Group(_Value):
    """Channels that are pruned together, in the float model."""

    index: int
    layers: tuple[str, ...]
    channels: int = Field(ge=0)
    prunable: int = Field(ge=0)
    why_whole: str = ""


class GraphNode(_Value):
    """A node of the picture: an input, an operator or the output, and the nodes that it reads."""

    node: str
    label: str
    operator: str
    form: Form
    inputs: tuple[str, ...]


class Candidate(_Value):
    """A model that a compression run judged. pareto: the costs on whose front it lies."""

    name: str
    metric: float
    costs: dict[str, float]
    pareto: tuple[str, ...] = ()
    best: bool = False


class Run(_Value):
    """A compression run: what was measured, the worst metric that was allowed, and all models."""

    metric: str
    limit: float | None = None
    candidates: tuple[Candidate, ...]


class Report(_Value):
    """Everything that a report says. made: when, in UTC, as ISO 8601. notes: what is missing."""

    format: Literal["qpc-report-1"] = FORMAT
    qpc: str
    title: str
    made: str
    summary: Summary
    changes: tuple[Advice, ...] = ()
    layers: tuple[Layer, ...]
    graph: tuple[GraphNode, ...]
    histograms: tuple[Histogram, ...] = ()
    groups: tuple[Group, ...] = ()
    run: Run | None = None
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The values of `report.json`."""
        return self.model_dump(mode="json")

    def __repr__(self) -> str:
        return f"<Report on {self.title!r}: {len(self.layers)} layers>"

    __str__ = __repr__


def read_report(path: str | Path) -> Report:
    """The report that a `report.json` holds.

    Raises ArtifactError if there is none, or it is of another version or damaged.
    """
    try:
        data = json.loads(Path(path).read_bytes())
    except (OSError, ValueError, RecursionError) as e:
        raise ArtifactError(f"cannot read a report from {str(path)!r}: {e}") from e
    version = data.get("format") if isinstance(data, dict) else None
    if version != FORMAT:
        raise ArtifactError(
            f"{str(path)!r} is no report of this version: its format is {version!r}, not "
            f"{FORMAT!r}",
            fix="make it anew with `qpc report`",
        )
    try:
        return Report.model_validate(data)
    except ValidationError as e:
        first = e.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise ArtifactError(
            f"{str(path)!r} is damaged: {place}: {first['msg']}",
            fix="make it anew with `qpc report`",
        ) from e
