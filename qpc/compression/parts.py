"""What recipes are made of: settings whose errors know their place, and things by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Self

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler, ValidationError, model_validator
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from qpc.errors import ConfigError
from qpc.families import Family, nearest
from qpc.pruning.allocation import ALLOCATIONS
from qpc.pruning.criteria import CRITERIA
from qpc.pruning.granularity import GRANULARITIES
from qpc.pruning.schedules import SCHEDULES
from qpc.pruning.weight_rules import WEIGHT_RULES
from qpc.settings import Settings
from qpc.yaml_form import named_data, named_thing

Location = tuple[str | int, ...]
"""Where something stands in a recipe: names of fields and places in lists."""
_KIND, _INNER = "kind", "inner"


class Part(Settings):
    """Settings of a recipe, whose errors name the nearest field for one that does not exist."""

    def __init__(self, /, **data: Any) -> None:
        try:
            super(Settings, self).__init__(**data)
        except ValidationError as e:
            raise ConfigError(f"{type(self).__name__}: {sentence(*problem_of(e))}") from e

    # Settings inside others are then validated in place, and errors know the whole path.
    __init__.__pydantic_base_init__ = True  # type: ignore[attr-defined]  # functions have any attribute

    @model_validator(mode="before")
    @classmethod
    def _knows_all_settings(cls, data: object) -> object:
        if isinstance(data, Mapping):
            for key in data:
                if key not in cls.model_fields:
                    raise unknown_setting(str(key), tuple(cls.model_fields))
        return data

    @classmethod
    def model_validate(cls, obj: Any, **options: Any) -> Self:
        try:
            return super(Settings, cls).model_validate(obj, **options)
        except ValidationError as e:
            raise ConfigError(f"{cls.__name__}: {sentence(*problem_of(e))}") from e


def unknown_setting(key: str, known: tuple[str, ...]) -> PydanticCustomError:
    """The error for a setting that does not exist."""
    hint = nearest(key, known)
    text = f"there is no such setting; {hint}"
    return PydanticCustomError("unknown_setting", "{text}", {"text": text, _INNER: (key,)})


def inside(error: ValidationError) -> PydanticCustomError:
    """The first problem of settings that were validated by themselves, for those around them."""
    where, text = problem_of(error)
    return PydanticCustomError("inside", "{text}", {"text": text, _INNER: where})


def problem_of(error: ValidationError) -> tuple[Location, str]:
    """The first of pydantic's complaints: where it is about, and what it is, in one line."""
    first = error.errors(include_url=False)[0]
    context = first.get("ctx", {})
    where = (*first["loc"], *context.get(_INNER, ()))
    if "text" in context:
        return where, str(context["text"])
    value = first["input"]
    shown = isinstance(value, dict | list) or first["type"] == "missing"
    got = "" if shown else f", got {value!r}"
    if first["type"] == "value_error":
        got = ""  # these say it themselves
    return where, f"{first['msg'].removeprefix('Value error, ')}{got}"


def sentence(location: Location, problem: str) -> str:
    """A complaint with its place."""
    path = path_of(location)
    return f"{path}: {problem}" if path else problem


def path_of(location: Location) -> str:
    """A place in a recipe as text, such as `rounds.steps[1].epochs`."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location)
    return text.lstrip(".")


@dataclass(frozen=True)
class Spec:
    """Something with a name, and its settings: a criterion, an allocation, a pass.

    data: what the text says; thing: the object, if it was given in place of a text. Settings that
    no text can hold, such as batches, are supplied when it is made.
    """

    family: Family
    data: object
    thing: object = None

    def make(self, **supply: object) -> object:
        """The object, with `supply` for settings of these names that the text leaves open."""
        if self.thing is not None:
            return self.thing
        return named_thing(self.data, self.family, self.family.name, supply)

    def plain(self) -> object:
        """As plain data; raises ConfigError for an object that has no name."""
        if self.thing is not None:
            return named_data(self.thing, self.family, self.family.name)
        return self.data

    @property
    def settings(self) -> Mapping[str, object]:
        """What the text sets, without the name."""
        data = self.plain()
        return {k: v for k, v in data.items() if k != _KIND} if isinstance(data, dict) else {}

    @staticmethod
    def of(value: object, family: Family, assumed: Mapping[str, object]) -> Spec:
        """Read a value; raises ConfigError for what does not exist or cannot be.

        assumed: settings of the text that are filled in for this check if it leaves them open.
        """
        if isinstance(value, Spec):
            return value
        if not isinstance(value, str | dict):
            if isinstance(value, type) or not _is_of(value, family):
                got = f"the class {value.__name__}" if isinstance(value, type) else repr(value)
                raise ConfigError(f"must be a {family.name} or its name, got {got}")
            return Spec(family, None, value)
        checked = {_KIND: value} if isinstance(value, str) else dict(value)
        needed = {key: known for key, known in assumed.items() if key not in checked}
        named_thing(checked, family, family.name, {**SUPPLIED, **needed})
        return Spec(family, value)


def _is_of(value: object, family: Family) -> bool:
    return isinstance(value, family.base)


def no_loss(*_: object) -> Any:
    """Stands for a loss until there is one."""
    raise NotImplementedError


SUPPLIED: Mapping[str, object] = {"batches": [], "loss": no_loss}
"""Settings that a run supplies, with values to check a recipe with before there is a run."""


@dataclass(frozen=True)
class Named:
    """Makes pydantic read `Spec`s of one family.

    assumed: settings that the step around it fills in.
    """

    family: Family
    assumed: tuple[tuple[str, object], ...] = ()

    def __get_pydantic_core_schema__(
        self, source: object, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(
            self._read,
            serialization=core_schema.plain_serializer_function_ser_schema(Spec.plain),
        )

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        names = list(self.family.names())
        by_kind = {"type": "object", "properties": {_KIND: {"enum": names}}, "required": [_KIND]}
        return {"anyOf": [{"enum": names}, by_kind]}

    def _read(self, value: object) -> Spec:
        try:
            return Spec.of(value, self.family, dict(self.assumed))
        except ConfigError as e:
            hint = f"; {e.fix}" if e.fix else ""
            what = e.what.removeprefix(f"{self.family.name}: ")
            raise PydanticCustomError("named", "{text}", {"text": f"{what}{hint}"}) from e


CriterionSpec = Annotated[Spec, Named(CRITERIA)]
AllocationSpec = Annotated[Spec, Named(ALLOCATIONS)]
ScheduleSpec = Annotated[Spec, Named(SCHEDULES, (("final", 1.0), ("steps", 1)))]
RuleSpec = Annotated[Spec, Named(WEIGHT_RULES)]
GranularitySpec = Annotated[Spec, Named(GRANULARITIES)]
