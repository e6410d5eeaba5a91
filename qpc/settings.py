"""Settings that are checked when they are made: one error names field, value and what is allowed.

`Settings` is the base of settings that can be read from files; dataclasses call the functions below
it in `__post_init__`.
"""

from __future__ import annotations

import math
import re
from numbers import Integral, Real
from typing import Any, ClassVar, NoReturn, Self, SupportsFloat, SupportsInt, cast

from pydantic import BaseModel, ConfigDict, ValidationError

from qpc.errors import ConfigError

_KEBAB = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")


class Settings(BaseModel):
    """Frozen settings without unknown fields, whose errors are `ConfigError`s."""

    model_config: ClassVar[ConfigDict] = ConfigDict(frozen=True, extra="forbid")

    def __init__(self, /, **data: Any) -> None:
        try:
            super().__init__(**data)
        except ValidationError as e:
            raise ConfigError(f"{type(self).__name__}: {first_problem(e)}") from e

    # Settings inside others are then validated in place, and errors know the whole path.
    __init__.__pydantic_base_init__ = True  # type: ignore[attr-defined]  # functions have any attribute

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise ConfigError(
            f"{type(self).__name__} is frozen: its {name!r} cannot be set",
            fix=f"make another one: {type(self).__name__}(...)",
        )

    def model_dump(self, **options: Any) -> dict[str, Any]:
        self.require_nameable()
        return super().model_dump(**options)

    def require_nameable(self) -> None:
        """Raise ConfigError if a file could not name what these settings hold."""
        for value in self.__dict__.values():
            for item in value if isinstance(value, tuple) else (value,):
                if isinstance(item, Settings):
                    item.require_nameable()

    @classmethod
    def model_validate(cls, obj: Any, **options: Any) -> Self:
        try:
            return super().model_validate(obj, **options)
        except ValidationError as e:
            raise ConfigError(f"{cls.__name__}: {first_problem(e)}") from e


def first_problem(error: ValidationError) -> str:
    """The first of pydantic's complaints as one line: where, what, and a plain value."""
    first = error.errors(include_url=False)[0]
    path = ""
    for part in first["loc"]:
        if part in ("layer", "float") and path.endswith(".use"):
            continue  # the tag of a union, not a field
        path += f"[{part}]" if isinstance(part, int) else f".{part}"
    value = first["input"]
    got = "" if isinstance(value, dict | list) else f", got {value!r}"
    where = f"{path.lstrip('.')}: " if path else ""
    return f"{where}{first['msg'].removeprefix('Value error, ')}{got}"


def require_number(
    name: str, value: object, least: float, most: float = math.inf, *, above: bool = False
) -> None:
    """Raise ConfigError unless `value` is a number from `least` to `most`.

    above: `least` itself is not allowed.
    """
    known = _is(value, Real)
    if known:
        number = float(cast(SupportsFloat, value))
        if (least < number if above else least <= number) and number <= most:
            return
    start = f"greater than {least:g}" if above else f"at least {least:g}"
    both = f"{start} and at most {most:g}" if above else f"from {least:g} to {most:g}"
    allowed = start if most == math.inf else both
    raise ConfigError(f"{name} must be {'' if known else 'a number, '}{allowed}, got {value!r}")


def require_count(name: str, value: object, least: int = 1) -> None:
    """Raise ConfigError unless `value` is a whole number from `least` up."""
    known = _is(value, Integral)
    if known and int(cast(SupportsInt, value)) >= least:
        return
    whole = "" if known else "a whole number, "
    raise ConfigError(f"{name} must be {whole}at least {least}, got {value!r}")


def require_choice(name: str, value: object, allowed: tuple[str, ...]) -> None:
    """Raise ConfigError unless `value` is one of the words in `allowed`."""
    if not isinstance(value, str) or value not in allowed:
        *others, last = map(repr, allowed)
        raise ConfigError(f"{name} must be {', '.join(others)} or {last}, got {value!r}")


def require_kind(
    name: str, value: object, kind: type | tuple[type, ...], what: str, *, fix: str | None = None
) -> None:
    """Raise ConfigError unless `value` is of a kind; `what` says in words which, with an article.

    A class in place of an object of it is a common slip, and is said.
    """
    if isinstance(value, kind) and not isinstance(value, type):
        return
    got = f"the class {value.__name__}" if isinstance(value, type) else type(value).__name__
    if isinstance(value, type) and issubclass(value, kind):
        fix = f"make one: {value.__name__}(...)"
    raise ConfigError(f"{name} must be {what}, got {got}", fix=fix)


def require_patterns(name: str, value: object) -> None:
    """Raise ConfigError unless `value` is a shell pattern or a tuple of such."""
    parts = value if isinstance(value, tuple) else (value,)
    if not all(isinstance(part, str) for part in parts):
        raise ConfigError(f"{name} must be a pattern or a tuple of patterns, got {value!r}")


def is_kebab_case(value: object) -> bool:
    """Whether a value is a name of small letters and digits, whose words are joined by hyphens."""
    return isinstance(value, str) and _KEBAB.fullmatch(value) is not None


def _is(value: object, kind: type) -> bool:
    """Whether `value` is a number of a kind; a truth value is none."""
    return isinstance(value, kind) and not isinstance(value, bool)
