"""Numbers about values, to be seen on a model's picture in Google's Model Explorer.

Model Explorer calls them node data: one JSON file beside the model, keyed by the names of tensors.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping

from qpc.analysis.compare import Comparison
from qpc.errors import ConfigError

BAD, MIDDLE, GOOD = "#d73027", "#fee08b", "#1a9850"
"""Red, yellow and green that people who see no red tell apart by their brightness."""


def sqnr_overlay(comparison: Comparison) -> str:
    """What `qpc.compare` has found, as decibels by tensor of the exported model.

    Tensors have the names of the traced graph's values there.
    """
    found = {row.value: row.sqnr_db for row in comparison.layers if row.value}
    return overlay(found, name="SQNR dB")


def overlay(values: Mapping[str, float], *, name: str, more_is_better: bool = True) -> str:
    """Numbers by tensor, such as decibels or milliseconds, as node data of Model Explorer.

    values: by the names of tensors in the exported model. Infinite numbers, which JSON has none of,
    are shown as the greatest and least of the others. name: what they are, such as "SQNR dB".
    more_is_better: whether high numbers are green and low ones red.

    Raises ConfigError if there are none, or one is NaN.
    """
    if wrong := [key for key, value in values.items() if math.isnan(value)]:
        raise ConfigError(f"the number of {wrong[0]!r} is NaN")
    finite = [value for value in values.values() if math.isfinite(value)]
    if not values:
        raise ConfigError("there are no numbers to show")
    least, greatest = min(finite, default=0.0), max(finite, default=0.0)
    colours = (BAD, MIDDLE, GOOD) if more_is_better else (GOOD, MIDDLE, BAD)
    return (
        json.dumps(
            {
                "name": name,
                "results": {
                    key: {"value": min(max(value, least), greatest)}
                    for key, value in values.items()
                },
                "gradient": [
                    {"stop": stop, "bgColor": colour}
                    for stop, colour in zip((0.0, 0.5, 1.0), colours, strict=True)
                ],
            },
            indent=2,
        )
        + "\n"
    )
