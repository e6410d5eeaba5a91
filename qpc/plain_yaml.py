"""YAML that users write, as plain data."""

from __future__ import annotations

import yaml


def plain_yaml(text: str) -> object:
    """The plain data in a text. Raises yaml.YAMLError for all that it cannot be.

    Dates and numbers that are none, and what is nested too deeply, fail otherwise in Python.
    """
    try:
        return yaml.safe_load(text)
    except RecursionError:
        raise yaml.YAMLError("it is nested too deeply") from None
    except ValueError as e:
        raise yaml.YAMLError(str(e)) from e
