"""Callbacks of long runs: what they are told, and what becomes of their mistakes."""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, SupportsFloat

from qpc.errors import ConfigError

Measures = Mapping[str, SupportsFloat | None]
"""Numbers by their names; None for those that are not known."""

_log = logging.getLogger(__name__)


class Callback:
    """Watches a run of `qpc.compress`, `qpc.sweep` or `qpc.sensitivity`; override what you need.

    Callbacks look on. An exception in one of them is logged as a warning of the logger
    `qpc.callbacks.protocol`, that callback is told nothing more, and the run goes on with the same
    result. Ctrl-C ends a run here as anywhere. They are called in the process that began the run,
    one after the other, and must leave the global random numbers of PyTorch alone.
    """

    def start(self, run: str, settings: Mapping[str, object]) -> None:
        """A run begins.

        run: "compress", "sweep" or "sensitivity". settings: what it was asked for, as plain data.
        """

    def progress(self, text: str, done: int, total: int) -> None:
        """Something else is being done, in words; `done` of `total` parts of the run are."""

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        """Numbers are known.

        values: by names such as "judged/metric", of one kind and unit each. step: where they stand
        among others of that name, from 0. A run that goes on in a folder tells those of its past
        again, so that every record of it is whole.
        """

    def end(self, problem: str | None) -> None:
        """The run has ended; `problem` says what ended it before its time, None if nothing did."""


class Callbacks:
    """The callbacks of one run, of which those that fail are left out."""

    def __init__(self, callbacks: Sequence[Callback]) -> None:
        self._left = list(callbacks)

    def __bool__(self) -> bool:
        return bool(self._left)

    def show(self, text: str, done: int, total: int) -> None:
        """Tell progress; this makes the callbacks a sink for it."""
        self._tell(lambda each: each.progress(text, done, total))

    def metrics(self, values: Measures, step: int) -> None:
        """Tell numbers, without those that are not known and those that are none."""
        known = {name: float(value) for name, value in values.items() if value is not None}
        finite = {name: value for name, value in known.items() if math.isfinite(value)}
        if finite:
            self._tell(lambda each: each.metrics(finite, step))

    def of_jobs(
        self, count: int, measured: Callable[[str, Any], tuple[Measures, int]]
    ) -> Callable[[str, Any], None]:
        """What to call with the name and the result of each of so many jobs, when it is done.

        measured: from these to the numbers that are told, and the step that they belong to.
        """
        done = itertools.count(1)

        def told(name: str, result: Any) -> None:
            self.show(name, next(done), count)
            self.metrics(*measured(name, result))

        return told

    @contextmanager
    def watching(self, run: str, settings: Mapping[str, object]) -> Iterator[None]:
        """A run, from its start to its end, whatever that is."""
        self._tell(lambda each: each.start(run, settings))
        problem: str | None = "interrupted"
        try:
            yield
            problem = None
        except Exception as e:
            problem = f"{type(e).__name__}: {e}"
            raise
        finally:
            self._tell(lambda each: each.end(problem))

    def _tell(self, call: Callable[[Callback], None]) -> None:
        for each in list(self._left):
            try:
                call(each)
            except Exception as e:
                self._left.remove(each)
                _log.warning(
                    "the callback %s is told nothing more, as it failed: %s: %s",
                    type(each).__name__,
                    type(e).__name__,
                    e,
                    exc_info=True,
                )


def checked_callbacks(callbacks: object) -> Callbacks:
    """The callbacks that a caller gave; ConfigError for what is none."""
    if not isinstance(callbacks, Sequence) or isinstance(callbacks, str):
        raise ConfigError(
            f"callbacks must be a sequence, got {type(callbacks).__name__}",
            fix="callbacks=[...]",
        )
    for each in callbacks:
        if not isinstance(each, Callback):
            got = f"the class {each.__name__}" if isinstance(each, type) else type(each).__name__
            raise ConfigError(
                f"a callback must be derived from qpc.Callback, got {got}",
                fix="class Mine(qpc.Callback): ...",
            )
    return Callbacks(callbacks)


def flat(settings: Mapping[str, object]) -> dict[str, object]:
    """Nested settings by their paths, such as `rounds.steps[0].kind`."""
    found: dict[str, object] = {}
    waiting: list[tuple[str, object]] = [("", dict(settings))]
    for path, value in waiting:
        if isinstance(value, Mapping) and value:
            waiting += [(f"{path}.{key}" if path else str(key), v) for key, v in value.items()]
        elif isinstance(value, list | tuple) and value:
            waiting += [(f"{path}[{place}]", each) for place, each in enumerate(value)]
        elif path:
            found[path] = value
    return dict(sorted(found.items()))
