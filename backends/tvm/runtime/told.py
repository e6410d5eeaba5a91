"""What a saved model tells about itself besides how it is run: its report and its plans.

The model runs without them. So another version may write more than is known here, or less: what is
not known is left out, and what cannot be understood is as if it were not there.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import asdict
from typing import Annotated, Any, ClassVar, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from qpc.analysis.exactness import Exactness
from qpc.backends.common.plan import KernelUse, Kind, Place, Step
from qpc.backends.tvm.report import OtherUse, Report
from qpc.settings import first_problem

_log = logging.getLogger(__name__)

_Text = Annotated[str, Field(max_length=10_000)]
_Size = Annotated[int, Field(ge=0, le=2**40)]
_Count = Annotated[int, Field(ge=-(2**62), le=2**62)]
_Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
_Time = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class _Part(BaseModel):
    model_config: ClassVar[ConfigDict] = ConfigDict(extra="ignore", strict=True, frozen=True)


class _Use(_Part):
    kernel: _Text
    nodes: list[_Text]
    macs: _Count = 0
    bytes: _Count = 0
    skipped: _Share = 0.0
    saved: _Share = 0.0
    method: _Text = ""
    time: _Time = 0.0
    notes: list[_Text] = []

    def decoded(self) -> KernelUse:
        lists = {"nodes": tuple(self.nodes), "notes": tuple(self.notes)}
        return KernelUse(**self.model_dump() | lists)


class _Place(_Part):
    kind: Kind
    start: _Size
    size: _Size

    def decoded(self) -> Place:
        return Place(self.kind, self.start, self.size)


class _Step(_Use):
    reads: list[_Place]
    writes: list[_Place]
    scratch: _Place | None = None

    def decoded(self) -> Step:
        reads, writes = (tuple(p.decoded() for p in places) for places in (self.reads, self.writes))
        scratch = self.scratch.decoded() if self.scratch else None
        lists = {"nodes": tuple(self.nodes), "notes": tuple(self.notes)}
        places = {"reads": reads, "writes": writes, "scratch": scratch}
        return Step(**self.model_dump() | lists | places)


class _Plans(_Part):
    plans: dict[str, list[_Step]]


class _Other(_Part):
    node: _Text
    operator: _Text
    reason: _Text


class _Output(_Part):
    output: _Text
    rounded: list[_Text]

    def decoded(self) -> Exactness:
        return Exactness(self.output, tuple(self.rounded))


class _Report(_Part):
    kernels: list[_Use] = []
    others: list[_Other] = []
    outputs: list[_Output] = []
    seconds: dict[_Text, _Time] = {}

    def decoded(self) -> Report:
        others = tuple(OtherUse(**other.model_dump()) for other in self.others)
        uses = tuple(use.decoded() for use in self.kernels)
        outputs = tuple(output.decoded() for output in self.outputs)
        return Report(uses, others, outputs, dict(self.seconds))


def encode_plans(plans: Mapping[int, tuple[Step, ...]]) -> dict[str, list[dict[str, Any]]]:
    """The steps for each batch size as JSON values."""
    return {str(batch): [asdict(step) for step in steps] for batch, steps in plans.items()}


def decode_plans(value: object, counts: Mapping[int, int]) -> dict[int, tuple[Step, ...]]:
    """The steps for each batch size, of which there are so many; none if they cannot be read."""
    found = _understood(_Plans, {"plans": value}, "plan")
    plans = found.plans if found else {}
    read = {}
    for batch, count in counts.items():
        steps = tuple(step.decoded() for step in plans.get(str(batch), []))
        read[batch] = steps if len(steps) == count else ()
    return read


def decode_report(value: object) -> Report:
    """The report; an empty one if it cannot be read."""
    found = _understood(_Report, value, "report")
    return found.decoded() if found else Report()


_Kind = TypeVar("_Kind", bound=_Part)


def _understood(kind: type[_Kind], value: object, name: str) -> _Kind | None:
    try:
        return kind.model_validate(value)
    except ValidationError as e:
        _log.warning(
            "the model runs, but its %s is of another version: %s", name, first_problem(e)[:300]
        )
        return None
