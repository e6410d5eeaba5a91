"""Recipes: what is done to a model, for how long, and what is asked of the result."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Field, PlainValidator, StrictBool, StrictInt, WithJsonSchema, model_validator

from qpc.compression.any_step import STEP_TITLE, AnyStep, step_schema
from qpc.compression.data import Data
from qpc.compression.parts import Part
from qpc.compression.step import Step
from qpc.compression.steps import FineTune, Prune, Qat, Quantize
from qpc.errors import ConfigError

Measure = Literal["macs", "parameters", "bytes", "latency_ms"]
"""What a model costs, by the names that tables and targets use."""
MEASURES: tuple[Measure, ...] = ("macs", "parameters", "bytes", "latency_ms")
_PERCENT = r"^\d+(\.\d+)? ?%$"
_WHOLE = 100  # per cent
Finite = Annotated[float, Field(strict=True, allow_inf_nan=False)]


def _checked_amount(value: object) -> object:
    number = value if isinstance(value, int | float) and not isinstance(value, bool) else math.nan
    if isinstance(value, str) and re.fullmatch(_PERCENT, value):
        if 0 < float(value.rstrip("% ")) <= _WHOLE:
            return value
    elif 0 < number < math.inf:
        return float(number)
    raise ValueError(f'must be a number above 0, or a share such as "50%", got {value!r}')


Amount = Annotated[
    float | str,
    PlainValidator(_checked_amount),
    WithJsonSchema({"anyOf": [{"type": "number", "exclusiveMinimum": 0}, {"pattern": _PERCENT}]}),
]
"""A number in the measure's own unit, or a share of what the model cost before, such as "50%"."""


class Budget(Part):
    """How much worse the model may become.

    lose: by how much its metric may be worse than before compression; limit: the worst value
    allowed. One of them.
    """

    lose: Annotated[Finite, Field(ge=0)] | None = None
    limit: Finite | None = None

    @model_validator(mode="after")
    def _says_one_thing(self) -> Self:
        if (self.lose is None) == (self.limit is None):
            raise ValueError("a budget needs one of lose and limit")
        return self


class Target(Part):
    """What the model is to cost at most; the rounds end when all that is given here is reached.

    macs, parameters: counts. bytes: of all its tensors. latency_ms: of one call of the compiled
    model on this machine. Each is a number, or a share such as "50%": of what the model cost as it
    was given, and for the latency of that of the first candidate, before any round.
    """

    macs: Amount | None = None
    parameters: Amount | None = None
    bytes: Amount | None = None
    latency_ms: Amount | None = None

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if not self.amounts():
            raise ValueError(f"a target needs one of {', '.join(MEASURES)}")
        return self

    def amounts(self) -> dict[Measure, float | str]:
        """What is given, by its name."""
        given: dict[Measure, float | str | None] = {name: getattr(self, name) for name in MEASURES}
        return {name: value for name, value in given.items() if value is not None}


class Compile(Part):
    """How models are compiled to measure them.

    target, threads: as in `qpc.compile`. batch_size: of the calls that are timed. repeats: how many
    calls there are, of which the median counts. save: keep the best model compiled, too.
    """

    target: str = "native"
    threads: Annotated[StrictInt, Field(ge=1)] = 1
    batch_size: Annotated[StrictInt, Field(ge=1)] = 1
    repeats: Annotated[StrictInt, Field(ge=1)] = 50
    save: StrictBool = True


class Rounds(Part):
    """What is repeated.

    at_most: how many rounds there are at the most. steps: of each, on the model of the last one.
    patience: how many rounds in a row may be outside of the budget before the rounds end.
    """

    at_most: Annotated[StrictInt, Field(ge=1, le=1000)]
    steps: Annotated[tuple[AnyStep, ...], Field(min_length=1)]
    patience: Annotated[StrictInt, Field(ge=0)] = 0


class Recipe(Part):
    """How to compress a model.

    model: a function that makes it, as `module:function` or `file.py:function`; data: what to train
    and judge it with. Both are for the command line; in Python they are arguments.
    seed: of everything random. metric: what `evaluate` returns, in words; better: which is.
    budget, target: see there. compile: whether and how candidates are compiled and timed.
    prefer: of several models that are good enough the one is chosen that costs least in this.
    judge: whether candidates are judged as integers, or as the floats that are rounded to the same
    grids, which is quicker and may differ in the last digits.
    start: steps that are done once. rounds: steps that are repeated. finish: steps that make a
    candidate of the model after the start and after each round; the next round goes on without
    them. A candidate whose values are rounded to grids then becomes one of integers.
    """

    model: str | None = None
    data: Data | None = None
    seed: Annotated[StrictInt, Field(ge=0, lt=2**63)] = 0
    metric: Annotated[str, Field(min_length=1)] = "accuracy"
    better: Literal["higher", "lower"] = "higher"
    budget: Budget | None = None
    target: Target | None = None
    compile: Compile | None = None
    prefer: Measure | None = None
    judge: Literal["integers", "rounded"] = "integers"
    start: tuple[AnyStep, ...] = ()
    rounds: Rounds | None = None
    finish: tuple[AnyStep, ...] = ()

    @model_validator(mode="after")
    def _does_something(self) -> Self:
        if not any(True for _ in self.steps()):
            raise ValueError("a recipe needs steps, in start, rounds or finish")
        return self

    def steps(self) -> Iterator[Step]:
        """All steps, those of the rounds once."""
        yield from self.start
        yield from self.rounds.steps if self.rounds else ()
        yield from self.finish

    @property
    def compilation(self) -> Compile | None:
        """How to compile candidates; None if nothing asks for their latency."""
        timed = self.prefer == "latency_ms" or (self.target and self.target.latency_ms)
        return self.compile or (Compile(save=False) if timed else None)

    @property
    def preference(self) -> Measure:
        """What decides between models that are good enough."""
        wanted: list[Measure] = [*(self.target.amounts() if self.target else ()), "bytes"]
        return self.prefer or wanted[0]

    def plain(self) -> dict[str, Any]:
        """Everything as plain data, defaults included.

        Raises ConfigError if it holds something that no text can name.
        """
        try:
            return self.model_dump(mode="json", exclude_none=True)
        except ConfigError:
            raise
        except Exception as e:  # pydantic hides what serializers raise
            raise ConfigError(
                f"the recipe cannot be written as text: {e}",
                fix="give what it names a name: the decorator .named of its family",
            ) from e

    def require_reachable(self) -> None:
        """Raise ConfigError for a target that these steps cannot reach, whatever the model."""
        if self.target is None or not all(isinstance(step, _KNOWN) for step in self.steps()):
            return
        for name in ("macs", "parameters"):
            amount = getattr(self.target, name)
            least = self._least_left(name)
            if isinstance(amount, str) and float(amount.rstrip("% ")) / _WHOLE < least - _SLACK:
                raise ConfigError(
                    f"the target {name}: {amount} cannot be reached: the steps leave "
                    f"{least:.0%} at least",
                    fix="prune by a greater amount, or set another target",
                )

    def _least_left(self, measure: str) -> float:
        """The share that is left if every step does all that it may."""
        pruned = [step for step in self.steps() if isinstance(step, Prune)]
        amounts = [step.final_amount for step in pruned if step.of == measure]
        if len(amounts) < len(pruned):
            return 0.0  # some are in other terms
        return 1.0 - max(amounts, default=0.0)


_KNOWN = (Prune, FineTune, Quantize, Qat)  # of others nobody knows what they remove
_SLACK = 0.01  # of the model: whole channels are removed, so amounts are met nearly


def schema() -> dict[str, Any]:
    """The JSON schema of recipes, for editors."""
    made: dict[str, Any] = _with_steps(Recipe.model_json_schema())
    made.setdefault("$defs", {})["step"] = step_schema()
    title = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "QPC recipe"}
    return {**title, **{key: value for key, value in made.items() if key != "title"}}


def _with_steps(value: Any) -> Any:
    if value == {"title": STEP_TITLE}:
        return {"$ref": "#/$defs/step"}
    if isinstance(value, dict):
        return {key: _with_steps(each) for key, each in value.items()}
    return [_with_steps(each) for each in value] if isinstance(value, list) else value


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[str]:
    """What differs between two recipes as plain data, in words."""
    for key in dict.fromkeys((*old, *new)):
        yield from _difference(key, old.get(key), new.get(key))


def _difference(path: str, old: object, new: object) -> Iterator[str]:
    if old == new:
        return
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in dict.fromkeys((*old, *new)):
            yield from _difference(f"{path}.{key}", old.get(key), new.get(key))
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for number, (a, b) in enumerate(zip(old, new, strict=True)):
            yield from _difference(f"{path}[{number}]", a, b)
    else:
        yield f"{path} was {_short(old)}, is {_short(new)}"


def _short(value: object) -> str:
    text = "not set" if value is None else repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


_SHOWN = 60  # characters of a value in a message


def in_units(amount: float | str, whole: float) -> float:
    """An amount of a target as a number in its unit; `whole`: what the model cost before."""
    return float(amount.rstrip("% ")) / _WHOLE * whole if isinstance(amount, str) else amount
