"""A target as JSON values and back: what saved models and other processes are told of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, ValidationError

from qpc.settings import first_problem
from qpc.targets.target import Target

_NOT_NEEDED = ("costs", "board", "c_flags", "emulated")
"""Fields that are about making code and looking at it, not about running it."""


class _Document(BaseModel):
    """What may stand in it are the fields of the dataclasses, with their types."""

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="forbid", strict=True, frozen=True)

    target: Target


def encode_target(target: Target, *, costs: bool = True) -> dict[str, Any]:
    """All fields as JSON values; without `costs`, all that code needs to run."""
    left_out = None if costs else {"target": set(_NOT_NEEDED)}
    written: dict[str, Any] = _Document(target=target).model_dump(mode="json", exclude=left_out)
    form: dict[str, Any] = written["target"]
    return form


def decode_target(data: Mapping[str, object]) -> Target:
    """The target that `encode_target` wrote; one without costs has those of `Costs()`.

    Raises ValueError for anything else, UnsupportedTargetError for values that no target can have.
    """
    needed = [field.name for field in fields(Target) if field.name not in _NOT_NEEDED]
    if missing := [name for name in needed if name not in data]:
        raise ValueError(f"target.{missing[0]}: Field required")
    try:  # as text: only there are a list and a tuple the same, or a number and a key
        return _Document.model_validate_json(json.dumps({"target": data})).target
    except ValidationError as e:
        raise ValueError(first_problem(e)[:300]) from e
