"""What results of QPC have in common in notebooks: a view, a short repr, JSON and a picture."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from html import escape
from io import BytesIO
from typing import Any

from qpc.errors import MissingDependencyError
from qpc.installing import install_line
from qpc.terminal.plain import plain

_INCHES = 0.25  # of a bar, with the room around it
_LEAST_INCHES, _WIDTH_INCHES = 2.0, 8.0


class InNotebook:
    """A result whose view in a notebook is its text.

    A dataclass keeps the short repr by `@dataclass(repr=False)`.
    """

    def __repr__(self) -> str:
        return f"<{type(self).__name__}>"

    def _text(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        text = escape(self._text())
        return (
            f"<details open><summary>{escape(repr(self))}</summary>"
            f'<pre style="white-space: pre; overflow-x: auto">{text}</pre></details>'
        )


class Shown(InNotebook):
    """A result that has JSON and a picture, too; subclasses say what its bars are."""

    def _bars(self) -> tuple[str, Iterator[tuple[str, float]]]:
        """What the bars of the picture measure, and the name and the length of each."""
        raise NotImplementedError

    def to_json(self) -> dict[str, Any]:
        """Everything as JSON values."""
        found = plain(self)
        assert isinstance(found, dict)
        return found

    def __repr__(self) -> str:
        unit, bars = self._bars()
        count = sum(1 for _ in bars)
        return f"<{type(self).__name__}: {unit} of {count} row{'s' * (count != 1)}>"

    def _text(self) -> str:
        own = type(self).__str__ is not object.__str__
        return str(self) if own else json.dumps(self.to_json(), indent=1)

    def plot(self) -> Any:
        """Bars as a figure of matplotlib, which notebooks show by itself.

        Raises MissingDependencyError without matplotlib.
        """
        try:
            from matplotlib.figure import Figure
        except ImportError as e:
            raise MissingDependencyError("plot() needs matplotlib", fix=install_line("plot")) from e
        unit, bars = self._bars()
        rows = list(bars)
        high = max(_LEAST_INCHES, _INCHES * len(rows))
        figure: Any = Figure(figsize=(_WIDTH_INCHES, high), layout="constrained")
        # Notebooks show figures of pyplot only, unless told how.
        figure._repr_png_ = partial(_png, figure)
        axes = figure.add_subplot()
        axes.barh(range(len(rows)), [value for _, value in rows])
        axes.set_yticks(range(len(rows)), [name for name, _ in rows])
        axes.invert_yaxis()
        axes.margins(y=0.02)
        axes.set_xlabel(unit)
        return figure


def _png(figure: Any) -> bytes:
    written = BytesIO()
    figure.savefig(written, format="png")
    return written.getvalue()
