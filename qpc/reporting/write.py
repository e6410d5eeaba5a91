"""`qpc.write_report`: the page and its data, side by side."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch.fx import GraphModule

from qpc.backends.profile import Profile
from qpc.batches import Batch
from qpc.errors import ArtifactError
from qpc.explanation.evaluation import Score
from qpc.files import replace_file
from qpc.reporting.collect import report_of
from qpc.reporting.data import Report
from qpc.reporting.page import page_of

if TYPE_CHECKING:
    from qpc.backends.tvm.runtime.model import CompiledModel


def write_report(
    path: str | Path,
    reference: GraphModule,
    gm: GraphModule,
    batches: Iterable[Batch],
    *,
    compiled: CompiledModel | None = None,
    profile: Profile | None = None,
    scores: Sequence[Score] = (),
    run: Mapping[str, Any] | None = None,
    settings: str = "",
    title: str = "model",
    told: Callable[[int, int], None] = lambda done, total: None,
) -> Report:
    """Write a report on a compressed model: a page that needs no network, and its data beside it.

    path: of the page, ending in .html; the data has the same name and ends in .json. All else is as
    `qpc.reporting.collect.report_of` takes it.

    Raises ArtifactError if the files cannot be written, and PassError as `qpc.explain` does.
    """
    goal = checked_goal(path)
    report = report_of(
        reference, gm, batches, compiled=compiled, profile=profile, scores=scores, run=run,
        settings=settings, title=title, told=told,
    )  # fmt: skip
    save_report(report, goal)
    return report


def checked_goal(path: str | Path) -> Path:
    """Where a page is to be written. Raises ArtifactError before anything is computed for it."""
    goal = Path(path)
    if goal.suffix.lower() != ".html":
        raise ArtifactError(
            f"a report is a file .html, got {str(path)!r}", fix=f"{goal.with_suffix('.html')}"
        )
    if not goal.parent.is_dir():
        raise ArtifactError(
            f"there is no folder {str(goal.parent)!r} to write a report to", fix="make it first"
        )
    if goal.is_dir() or not os.access(goal.parent, os.W_OK | os.X_OK):
        why = "Is a directory" if goal.is_dir() else "Permission denied"
        raise ArtifactError(f"cannot write {str(goal)!r}: {why}", fix="write to another place")
    return goal


def save_report(report: Report, goal: Path) -> None:
    """Write a page and its data. Raises ArtifactError if they cannot be written."""
    data = json.dumps(report.to_json(), indent=1, allow_nan=False) + "\n"
    texts = {goal.with_suffix(".json"): data, goal: page_of(report)}
    for file, text in texts.items():
        try:
            replace_file(file, text.encode())
        except OSError as e:
            raise ArtifactError(
                f"cannot write {str(file)!r}: {e.strerror or e}",
                fix="write to another place, on a disk with space",
            ) from e
