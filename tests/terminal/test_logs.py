from __future__ import annotations

import io
import logging

from qpc.terminal.events import Event
from qpc.terminal.logs import logging_to
from qpc.terminal.reporter import Reporter


def test_what_knows_no_reporter_tells_its_progress_by_a_logger() -> None:
    events: list[Event] = []

    class Kept:
        def show(self, event: Event) -> None:
            events.append(event)

        def close(self) -> None:
            """Nothing to do."""

    said, stream = Reporter(Kept(), beat_s=1e6), io.StringIO()
    with said, said.phase("compiling"), logging_to(said, stream, logging.ERROR, as_json=True):
        logger = logging.getLogger("qpc.progress")
        logger.info("kernels are compiled", extra={"done": 3, "total": 8})
        logger.info("something else")
    assert [(e.done, e.total) for e in events if e.kind == "progress"] == [(3, 8)]
    assert stream.getvalue() == "", "progress is no record that is shown"
