"""The contract every pass signs."""

from __future__ import annotations

import logging
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from dataclasses import dataclass, field
from operator import length_hint
from typing import Any, ClassVar, TypeVar

from torch.fx import GraphModule, Node

from qpc.facts import Fact
from qpc.meta import label
from qpc.settings import is_kebab_case
from qpc.terminal.notebook import Shown
from qpc.terminal.plain import plain
from qpc.terminal.reporter import Reporter
from qpc.terminal.sinks import Late, sink_for

T = TypeVar("T")
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Remark:
    """One thing a pass says about one node: what it did to it, or why it left it alone."""

    node: str
    text: str

    def __str__(self) -> str:
        return f"{self.node}: {self.text}"


@dataclass(frozen=True)
class PassReport:
    """What one pass did: seconds, whether the graph changed, its changes, declines and warnings."""

    name: str
    options: str
    seconds: float
    changed: bool
    changes: tuple[Remark, ...]
    declines: tuple[Remark, ...]
    summary: str = ""
    warnings: tuple[Remark, ...] = ()

    def __str__(self) -> str:
        count = f"{len(self.changes)} change{'s' if len(self.changes) > 1 else ''}"
        done = (count if self.changes else "changed") if self.changed else "nothing changed"
        head = f"{self.name}: {done}, {len(self.declines)} declined, {self.seconds:.3f} s"
        lines = [f"{head}. {self.summary}" if self.summary else head]
        lines += [f"  warning {remark}" for remark in self.warnings]
        lines += [f"  declined {remark}" for remark in self.declines]
        return "\n".join(lines)


@dataclass(repr=False)
class PassContext(Shown):
    """What a pass may use besides the graph: settings in, remarks out.

    check: verify the facts that hold so far after every pass.
    thorough: verify all that these facts say, which takes its time; for tests, and to find the
    pass that breaks a graph.
    progress: whether to show what takes longer than two seconds: always, never, or (None) where
    people see it, that is if stderr is a terminal.
    reports: one entry for each pass that has run in this context.
    """

    check: bool = True
    progress: bool | None = None
    reports: list[PassReport] = field(default_factory=list)
    thorough: bool = False
    _changes: list[Remark] = field(default_factory=list)
    _declines: list[Remark] = field(default_factory=list)
    _warnings: list[Remark] = field(default_factory=list)
    _summary: str = ""
    _steps: Reporter | None = None

    def _bars(self) -> tuple[str, Iterator[tuple[str, float]]]:
        return "seconds", ((report.name, report.seconds) for report in self.reports)

    def to_json(self) -> dict[str, Any]:
        """The reports of all passes as JSON values."""
        return {"reports": plain(self.reports)}

    @contextmanager
    def phase(self, text: str, total: int | None = None) -> Iterator[Reporter | None]:
        """Something begins that may take long, and is done at the end; phases may nest.

        total: of how many parts of about the same size it consists. Yields what is told of those
        that are done, by `advance`; None if nothing is shown.
        """
        if self._steps is not None:
            with self._steps.phase(text, total):
                yield self._steps
        elif not (sys.stderr.isatty() if self.progress is None else self.progress):
            yield None
        else:
            with Reporter(Late(sink_for(sys.stderr, quiet=False, as_json=False))) as reporter:
                self._steps = reporter
                try:
                    with reporter.phase(text, total):
                        yield reporter
                finally:
                    self._steps = None

    def each(self, items: Iterable[T], text: str) -> Iterator[T]:
        """The items, one after the other, as a phase with as many parts."""
        with self.phase(text, length_hint(items) or None) as told:
            for item in items:
                yield item
                if told is not None:
                    told.advance()

    def change(self, node: Node, what: str) -> None:
        """Record what was done to `node`."""
        self._changes.append(Remark(label(node), what))

    def decline(self, node: Node | str, why: str) -> None:
        """Record that `node` was left alone, and why. Not an error."""
        remark = Remark(label(node) if isinstance(node, Node) else node, why)
        if remark not in self._declines:
            self._declines.append(remark)

    def warn(self, node: Node | str, what: str) -> None:
        """Record what a user must know even who reads no report: it is logged at once.

        The logger is `qpc.base`, a child of `qpc`, at the level WARNING.
        """
        remark = Remark(label(node) if isinstance(node, Node) else node, what)
        if remark not in self._warnings:
            self._warnings.append(remark)
            _log.warning("%s", remark)

    def summarize(self, text: str) -> None:
        """Give the pass a one-sentence result in the report."""
        self._summary = text

    @property
    def declined(self) -> tuple[Remark, ...]:
        """All declines so far, of finished passes and of the one that runs."""
        finished = tuple(r for report in self.reports for r in report.declines)
        return finished + tuple(self._declines)

    def finish(self, pass_: Pass, *, seconds: float, changed: bool) -> PassReport:
        """Close the remarks of one pass into a report; the pipeline calls this."""
        report = PassReport(
            pass_.name,
            repr(pass_),
            seconds,
            changed,
            tuple(self._changes),
            tuple(self._declines),
            self._summary,
            tuple(self._warnings),
        )
        self.reports.append(report)
        self._changes, self._declines, self._warnings, self._summary = [], [], [], ""
        return report

    def __str__(self) -> str:
        return "\n".join(map(str, self.reports))


@dataclass(frozen=True)
class Pass(ABC):
    """One named, in-place graph transformation.

    Subclasses are frozen dataclasses whose fields are the pass's options; class keywords declare
    the kebab-case name and the facts that the pass requires, establishes and invalidates.
    """

    name: ClassVar[str]
    requires: ClassVar[frozenset[Fact]]
    establishes: ClassVar[frozenset[Fact]]
    invalidates: ClassVar[frozenset[Fact]]

    def __init_subclass__(
        cls,
        *,
        name: str = "",
        abstract: bool = False,
        requires: AbstractSet[Fact] = frozenset(),
        establishes: AbstractSet[Fact] = frozenset(),
        invalidates: AbstractSet[Fact] = frozenset(),
    ) -> None:
        super().__init_subclass__()
        if abstract:
            return
        if not is_kebab_case(name):
            raise TypeError(f"{cls.__qualname__} needs name= in kebab-case, got {name!r}")
        cls.name = name
        cls.requires = frozenset(requires)
        cls.establishes = frozenset(establishes)
        cls.invalidates = frozenset(invalidates)

    @abstractmethod
    def apply(self, gm: GraphModule, ctx: PassContext) -> bool:
        """Edit `gm` in place and return whether anything changed."""
