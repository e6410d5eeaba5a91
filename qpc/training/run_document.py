"""The document of a checkpoint: what may stand in it, declared.

Values within are those of `state_values.py`, which reads them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from qpc.settings import first_problem

Text = Annotated[str, Field(max_length=1000)]


class _Part(BaseModel):
    model_config: ClassVar[ConfigDict] = ConfigDict(
        extra="forbid", strict=True, frozen=True, populate_by_name=True
    )


class Group(_Part):
    """A group of an optimizer: names of parameters, and options as an encoded dictionary."""

    parameters: list[Text]
    options: Any


class OptimizerEntry(_Part):
    """class: of the optimizer; state: pairs of a parameter's name and an encoded dictionary."""

    class_: Annotated[Text, Field(alias="class")]
    groups: list[Group]
    state: list[Annotated[list[Any], Field(min_length=2, max_length=2)]]


class ObjectEntry(_Part):
    """An object with a state."""

    class_: Annotated[Text, Field(alias="class")]
    state: Any


class RunDocument(_Part):
    """The whole of `checkpoint.json`, but for its own hash.

    training: whether the graph was in training mode; computed_by: the version of PyTorch and the
    number of threads, on which the last bits depend; layouts: see `layouts.py`; the others are the
    arguments of `save_checkpoint`, and the random states.
    """

    format: Literal["qpc-checkpoint"]
    format_version: Literal[1]
    qpc: Text
    files: dict[str, Any]  # see qpc.documents
    training: bool
    computed_by: dict[Text, Text]
    layouts: dict[Text, Annotated[list[int], Field(max_length=64)]]
    optimizer: OptimizerEntry | None
    scheduler: ObjectEntry | None
    random: Any
    generators: dict[Text, Any]
    modules: dict[Text, Any]
    extra: Any


def validated(document: Mapping[str, Any]) -> RunDocument:
    """The document, with everything in its place. Raises ValueError."""
    try:
        return RunDocument.model_validate(
            {key: value for key, value in document.items() if key != "sha256"}
        )
    except ValidationError as e:
        raise ValueError(first_problem(e)[:300]) from e
