"""Any step of a recipe, by its name: how it is read, and the JSON schema of what can be read."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, SerializeAsAny, ValidationError, WithJsonSchema
from pydantic_core import PydanticCustomError

from qpc.compression import steps
from qpc.compression.parts import inside
from qpc.compression.pass_step import PassStep
from qpc.compression.step import STEPS, Step
from qpc.families import nearest
from qpc.yaml_form import PASSES

STEP_TITLE = "Step"
"""Stands in schemas for any step."""
_NAMING = (steps,)  # imported for the names that it brings


def read_step(value: object) -> Step:
    """A step from a recipe's data: its name, or a mapping of its `kind` and its settings."""
    if isinstance(value, Step):
        return value
    data = {"kind": value} if isinstance(value, str) else value
    if not isinstance(data, dict) or not isinstance(data.get("kind"), str):
        text = "a step must be a name, or a mapping with the name as 'kind'"
        raise PydanticCustomError("step", "{text}", {"text": text})
    cls = _class_of(data["kind"])
    try:
        found: Step = cls.__pydantic_validator__.validate_python(data)
    except ValidationError as e:
        raise inside(e) from e
    return found


def _class_of(name: str) -> Any:
    if (cls := STEPS.find(name)) is not None:
        return cls
    if PASSES.find(name) is not None:
        return PassStep
    text = f"there is no step {name!r}; {nearest(name, (*STEPS.names(), *PASSES.names()))}"
    raise PydanticCustomError("step", "{text}", {"text": text, "inner": ("kind",)})


def step_schema() -> dict[str, object]:
    """The JSON schema of a step: a name, or a mapping for each kind of step, or a pass."""
    names = [*STEPS.names(), *PASSES.names()]
    kinds = [_inlined(STEPS.find(name)) for name in STEPS.names()]
    passes = {
        "type": "object",
        "properties": {"kind": {"enum": list(PASSES.names())}},
        "required": ["kind"],
    }
    return {"anyOf": [{"enum": names}, *kinds, passes]}


def _inlined(cls: Any) -> dict[str, Any]:
    """A step's schema in which definitions stand where they are used."""
    schema: dict[str, Any] = cls.model_json_schema()
    known = schema.pop("$defs", {})

    def resolved(value: Any) -> Any:
        if isinstance(value, dict):
            if "$ref" in value:
                return resolved(known[value["$ref"].rpartition("/")[2]])
            return {key: resolved(each) for key, each in value.items() if key != "discriminator"}
        return [resolved(each) for each in value] if isinstance(value, list) else value

    found: dict[str, Any] = resolved(schema)
    return {**found, "required": sorted({"kind", *found.get("required", [])})}


AnyStep = Annotated[
    SerializeAsAny[Step], BeforeValidator(read_step), WithJsonSchema({"title": STEP_TITLE})
]
"""Any step of a recipe."""
