"""Passes, pipelines, criteria and the like as YAML, and back.

    pipeline:
      passes:
      - fold-batch-norm
      - kind: create-masks
        criterion: {kind: l1, normalize: mean}
        allocation: {kind: global, amount: 0.5, of: macs}

Whatever has a name is a mapping of its `kind` and its settings, or the name alone if none is given.
A document holds one thing, under the word for what it is. The form is closed: it is read as plain
data (`yaml.safe_load`), names are looked up among those that were registered, and settings are
those that the classes declare, with their types.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import Field
from types import NoneType, UnionType
from typing import (
    Any,
    Literal,
    TypeVar,
    Union,
    cast,
    get_args,
    get_origin,
    get_type_hints,
    overload,
)

import yaml

import qpc.passes
from qpc.base import Pass
from qpc.errors import ConfigError
from qpc.facts import CORE_FORM, Fact
from qpc.families import Family, nearest
from qpc.pipeline import Pipeline
from qpc.pruning import activations, gradients, magnitude
from qpc.pruning.allocation import ALLOCATIONS
from qpc.pruning.criteria import CRITERIA
from qpc.pruning.granularity import GRANULARITIES
from qpc.pruning.regularizers import REGULARIZERS
from qpc.pruning.schedules import SCHEDULES
from qpc.pruning.weight_rules import WEIGHT_RULES
from qpc.quant.observers import OBSERVERS
from qpc.settings import Settings

_T = TypeVar("_T")
_C = TypeVar("_C", bound=type)
_KIND = "kind"
_PIPELINE = "pipeline"
_MOST_VALUES, _MOST_BYTES, _DEPTH = 10_000, 2**20, 32
_NAMING = (qpc.passes, activations, gradients, magnitude)  # imported for the names that they bring


class _Passes(Family):
    """Every class of a pass has its name: no decorator is needed."""

    def _known(self, name: str) -> type | None:
        found = {cls for cls in _named_passes() if cls.name == name}
        if len(found) > 1:
            places = " and ".join(sorted(f"{cls.__module__}.{cls.__qualname__}" for cls in found))
            raise ConfigError(f"there are several passes {name!r}: {places}")
        return next(iter(found), None)

    def name_of(self, cls: type) -> str | None:
        return next((each.name for each in _named_passes() if each is cls), None)

    def _known_names(self) -> Iterable[str]:
        return {cls.name for cls in _named_passes()}

    def named(self, name: str) -> Callable[[_C], _C]:
        """A decorator that changes nothing; ConfigError for a class with another name."""

        def checked(cls: _C) -> _C:
            if self.name_of(cls) != name:
                raise ConfigError(
                    f"the pass {cls.__name__} must have the class keyword name={name!r}"
                )
            return cls

        return checked


PASSES = _Passes("pass", Pass, group="qpc.passes")
"""Passes by name: QPC's, those of all modules that were imported, those of installed packages."""
FAMILIES = (
    PASSES,
    CRITERIA,
    ALLOCATIONS,
    SCHEDULES,
    GRANULARITIES,
    WEIGHT_RULES,
    REGULARIZERS,
    OBSERVERS,
)
"""All that has names."""


def to_yaml(thing: object) -> str:
    """A pipeline, or anything else with a name, as text that `from_yaml` reads.

    All settings are written, those with their default values too. Raises ConfigError, which says
    where, for what no text can hold, such as calibration data, functions and analyses.
    """
    if isinstance(thing, Pipeline):
        data: dict[str, Any] = {_PIPELINE: _pipeline_as_data(thing)}
    else:
        family = _family_of(type(thing))
        if family is None:
            raise _unwritable("it", thing)
        data = {_word(family): _named_as_data(thing, family, _word(family))}
    return yaml.safe_dump(data, sort_keys=False, allow_unicode=True)


@overload
def from_yaml(text: str) -> object: ...
@overload
def from_yaml(text: str, kind: type[_T]) -> _T: ...
def from_yaml(text: str, kind: type[_T] | None = None) -> object:
    """What `to_yaml` wrote; settings that are left out have their default values.

    kind: the class that it must be of, such as `qpc.Pipeline`.

    Raises ConfigError, which says where, for unknown names (with the nearest one), for settings
    that do not exist or are of another type, and for what the classes themselves refuse.
    """
    data = plain_data(text)
    if not isinstance(data, dict) or len(data) != 1:
        raise ConfigError(
            "the text must hold one thing, under the word for what it is",
            fix="such as `pipeline: {passes: [fold-batch-norm]}` or `criterion: l1`",
        )
    ((word, value),) = data.items()
    made = _made(str(word), value)
    if kind is not None and not isinstance(made, kind):
        raise ConfigError(f"the text holds a {word}, not a {kind.__name__}")
    return made


def named_data(thing: object, family: Family, path: str) -> object:
    """An object of a family as plain data, as `to_yaml` writes it; `path` is for errors."""
    return _named_as_data(thing, family, path)


def named_thing(
    value: object, family: Family, path: str, supply: Mapping[str, object] | None = None
) -> object:
    """The object of a family that plain data name, as in what `from_yaml` reads.

    supply: values for settings that no text can hold, such as batches; used where the class has a
    setting of that name. path: where it stands, for errors.
    """
    return _named(value, family, path, supply)


def _made(word: str, value: object) -> object:
    if word == _PIPELINE:
        return _pipeline(value)
    families = {_word(family): family for family in FAMILIES}
    if word not in families:
        raise ConfigError(f"nothing is called {word!r}", fix=nearest(word, (*families, _PIPELINE)))
    return _named(value, families[word], word)


# --- pipelines ------------------------------------------------------------------------------------


def _pipeline_as_data(pipeline: Pipeline) -> dict[str, Any]:
    passes = [
        _named_as_data(each, PASSES, f"{_PIPELINE}.passes[{i}]")
        for i, each in enumerate(pipeline.passes)
    ]
    names = sorted(fact.name for fact in pipeline.assume)
    for name in names:
        _fact(name, f"{_PIPELINE}.assume")
    return {"assume": names, "passes": passes}


def _pipeline(value: object) -> Pipeline:
    given = _mapping(value, _PIPELINE, ("passes", "assume"))
    if "passes" not in given:
        raise ConfigError(f"{_PIPELINE} needs the setting 'passes'")
    passes = [
        cast(Pass, _named(each, PASSES, path))
        for each, path in _items(given["passes"], f"{_PIPELINE}.passes")
    ]
    if "assume" not in given:
        return Pipeline(tuple(passes))
    names = _items(given["assume"], f"{_PIPELINE}.assume")
    return Pipeline(tuple(passes), frozenset(_fact(name, path) for name, path in names))


def _fact(name: object, path: str) -> Fact:
    """Facts that passes speak of; another module's are known as soon as its passes are."""
    known = {CORE_FORM.name: CORE_FORM}
    for cls in _named_passes():
        facts = (*cls.requires, *cls.establishes, *cls.invalidates)
        known.update((fact.name, fact) for fact in facts)
    if not isinstance(name, str) or name not in known:
        raise ConfigError(f"{path}: there is no fact {name!r}", fix=nearest(str(name), known))
    return known[name]


# --- things with names ----------------------------------------------------------------------------


def _named_as_data(thing: object, family: Family, path: str) -> Any:
    name = family.name_of(type(thing))
    if name is None:
        raise ConfigError(
            f"{path}: the class {type(thing).__name__} has no name that a text could use",
            fix=f'name it: the decorator .named("...") of the family of {family.name} names',
        )
    settings = _settings_as_data(thing, f"{path} ({name})")
    return {_KIND: name, **settings} if settings else name


def _named(
    value: object, family: Family, path: str, supply: Mapping[str, object] | None = None
) -> object:
    settings = {_KIND: value} if isinstance(value, str) else value
    if not isinstance(settings, dict) or not isinstance(settings.get(_KIND), str):
        raise ConfigError(
            f"{path} must be a name, or a mapping with the name as {_KIND!r}, got {_short(value)}",
            fix=f"{family.name} names: {', '.join(family.names())}",
        )
    name = settings[_KIND]
    cls = family.find(name)
    if cls is None:
        fix = nearest(name, family.names())
        raise ConfigError(f"{path}: there is no {family.name} {name!r}", fix=fix)
    rest = {key: given for key, given in settings.items() if key != _KIND}
    return _with_settings(cls, rest, f"{path} ({name})", supply)


def _settings_as_data(thing: object, path: str) -> dict[str, Any]:
    if isinstance(thing, Settings):
        dumped = thing.model_dump(mode="json", exclude_none=True)
        return {key: value for key, value in dumped.items() if key != _KIND}
    hints, data = _hints(type(thing)), {}
    for field in _fields(type(thing)):
        value, where = getattr(thing, field.name), f"{path}.{field.name}"
        if value is None and field.default is None:
            continue
        if not _is_textual(hints[field.name]):
            raise _unwritable(where, value)
        data[field.name] = _as_data(value, hints[field.name], where)
    return data


def _with_settings(
    cls: type, given: Mapping[str, object], path: str, supply: Mapping[str, object] | None = None
) -> object:
    """An object with settings, whose own complaints are told with the place they are about."""
    try:
        if issubclass(cls, Settings):
            return cls.model_validate(dict(given))
        fields = {field.name: field for field in _fields(cls)}
        _mapping(given, path, tuple(fields))
        more = {k: v for k, v in (supply or {}).items() if k in fields and k not in given}
        _require([name for name, f in fields.items() if _is_required(f)], {**given, **more})
        hints = _hints(cls)
        read = {k: _read(v, hints[k], f"{path}.{k}") for k, v in given.items()}
        return cls(**read, **more)
    except ConfigError as e:
        if e.what.startswith(path):
            raise
        raise ConfigError(f"{path}: {e.what}", fix=e.fix) from e


def _require(names: Iterable[str], given: Mapping[str, object]) -> None:
    for name in names:
        if name not in given:
            raise ConfigError(f"needs the setting {name!r}")


def _as_data(value: object, hint: Any, path: str) -> Any:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    kinds = _members(hint)
    if family := next((f for kind in kinds if (f := _family_with_base(kind))), None):
        return _named_as_data(value, family, path)
    inner = next((get_args(kind)[-2:] for kind in kinds if get_args(kind)), (None, None))
    if isinstance(value, tuple | list):
        return [_as_data(each, inner[0], f"{path}[{i}]") for i, each in enumerate(value)]
    if isinstance(value, Mapping):
        return {key: _as_data(each, inner[1], f"{path}.{key}") for key, each in value.items()}
    if isinstance(value, Settings) or dataclasses.is_dataclass(value):
        return _settings_as_data(value, path)
    raise _unwritable(path, value)


def _unwritable(path: str, value: object) -> ConfigError:
    kind = "a class" if isinstance(value, type) else f"of the class {type(value).__name__}"
    return ConfigError(
        f"{path} cannot be written as text, as it is {kind}",
        fix="keep it in Python; texts hold names, numbers, truth values and lists of these",
    )


# --- values by the types of fields ----------------------------------------------------------------


def _read(value: object, hint: Any, path: str) -> object:
    """The value of a field that is declared with the type `hint`."""
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return _read_one_of(value, args, path)
    if origin is Literal:
        if value not in args:
            fix = nearest(str(value), map(str, args))
            raise ConfigError(
                f"{path} must be one of {', '.join(map(repr, args))}, got {_short(value)}", fix=fix
            )
        return value
    if origin is tuple:
        return tuple(_read(each, args[0], where) for each, where in _items(value, path))
    if isinstance(origin, type) and issubclass(origin, Mapping):
        if not isinstance(value, dict):
            raise ConfigError(f"{path} must be a mapping, got {_short(value)}")
        return {str(k): _read(v, args[1], f"{path}.{k}") for k, v in value.items()}
    if hint in _SCALARS:
        return _scalar(value, hint, path)
    if (family := _family_with_base(hint)) is not None:
        return _named(value, family, path)
    if isinstance(hint, type) and (issubclass(hint, Settings) or dataclasses.is_dataclass(hint)):
        if not isinstance(value, dict):
            raise ConfigError(f"{path} must be a mapping of settings, got {_short(value)}")
        return _with_settings(hint, value, path)
    raise ConfigError(f"{path} cannot be given as text", fix="make the object in Python")


def _read_one_of(value: object, hints: tuple[Any, ...], path: str) -> object:
    """The first of several types that fits: lists are tried as lists, mappings as mappings."""
    problems = []
    for hint in hints:
        if not _is_textual(hint):
            continue
        try:
            return _read(value, hint, path)
        except ConfigError as e:
            problems.append(e)
    if not problems:
        raise ConfigError(f"{path} cannot be given as text", fix="make the object in Python")
    structured = isinstance(value, dict | list)
    raise problems[-1] if structured else problems[0]


_SCALARS: Mapping[object, tuple[tuple[type, ...], str]] = {
    bool: ((bool,), "True or False"),
    int: ((int,), "a whole number"),
    float: ((int, float), "a number"),
    str: ((str,), "a text"),
    NoneType: ((NoneType,), "nothing"),
}


def _scalar(value: object, hint: object, path: str) -> object:
    kinds, words = _SCALARS[hint]
    if not isinstance(value, kinds) or (isinstance(value, bool) and hint is not bool):
        raise ConfigError(f"{path} must be {words}, got {_short(value)}")
    return value


def _members(hint: Any) -> tuple[Any, ...]:
    """The types of a union; any other type by itself."""
    return get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)


def _is_textual(hint: Any) -> bool:
    """Whether a text can give some value of a type."""
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return any(_is_textual(each) for each in args if each is not NoneType)
    if origin is tuple:
        return len(args) == 2 and args[1] is Ellipsis and _is_textual(args[0])
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return args[0] is str and _is_textual(args[1])
    if origin is Literal or hint in _SCALARS or _family_with_base(hint) is not None:
        return True
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        hints = _hints(hint)
        return all(_is_textual(hints[field.name]) for field in _fields(hint))
    return isinstance(hint, type) and issubclass(hint, Settings)


# --- classes and fields ---------------------------------------------------------------------------


def _named_passes() -> list[type[Pass]]:
    """The classes of passes that exist, but for those that are only derived from."""
    found: list[type[Pass]] = [Pass]  # type: ignore[type-abstract]  # nothing is made of it
    for cls in found:
        found += [each for each in cls.__subclasses__() if each not in found]
    return [cls for cls in found if "name" in vars(cls)]


def _family_of(cls: type) -> Family | None:
    """The family in which a class has a name, or the one from whose base it is derived."""
    named = next((family for family in FAMILIES if family.name_of(cls) is not None), None)
    return named or next((f for f in FAMILIES if f.base in cls.__mro__), None)


def _family_with_base(hint: object) -> Family | None:
    return next((family for family in FAMILIES if family.base is hint), None)


def _word(family: Family) -> str:
    return family.name.replace(" ", "-")


def _fields(cls: type) -> list[Field[Any]]:
    return [field for field in dataclasses.fields(cls) if field.init]


def _is_required(field: Field[Any]) -> bool:
    missing = dataclasses.MISSING
    return field.default is missing and field.default_factory is missing


def _hints(cls: type) -> dict[str, Any]:
    try:
        return get_type_hints(cls)
    except NameError as e:
        raise ConfigError(
            f"the types of the settings of {cls.__name__} cannot be read: {e}",
            fix="import what they name outside of `if TYPE_CHECKING`",
        ) from e


# --- plain data -----------------------------------------------------------------------------------


class _Loader(yaml.SafeLoader):
    """Plain data only, in which no key stands twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        if twice := next((key for i, key in enumerate(keys) if key in keys[:i]), None):
            raise yaml.YAMLError(f"the key {twice!r} stands there twice")
        return cast(dict[Any, Any], super().construct_mapping(node, deep))


def plain_data(text: object) -> object:
    """The plain data in a text; raises ConfigError for what is no YAML, or too large."""
    if not isinstance(text, str):
        raise ConfigError(f"from_yaml takes a text, got {type(text).__name__}")
    if len(text) > _MOST_BYTES:
        raise ConfigError("the text is too large for settings")
    try:
        data: object = yaml.load(text, _Loader)
    except (yaml.YAMLError, RecursionError, ValueError) as e:
        raise ConfigError(f"the text is no YAML: {' '.join(str(e).split())[:300]}") from e
    _count(data, _DEPTH, iter(range(_MOST_VALUES)))
    return data


def _count(data: object, depth: int, left: Iterator[int]) -> None:
    """Refuse what is small as text only, because it names its own parts again and again."""
    if depth == 0 or next(left, None) is None:
        raise ConfigError("the text is too large for settings, or nested too deeply")
    if isinstance(data, dict):
        for key, value in data.items():
            if not isinstance(key, str):
                raise ConfigError(f"{_short(key)} is no name of a setting")
            _count(value, depth - 1, left)
    elif isinstance(data, list):
        for value in data:
            _count(value, depth - 1, left)


def _mapping(value: object, path: str, known: tuple[str, ...]) -> Mapping[str, object]:
    if not isinstance(value, Mapping):
        raise ConfigError(f"{path} must be a mapping of settings, got {_short(value)}")
    for key in value:
        if key not in known:
            raise ConfigError(f"{path} has no setting {key!r}", fix=nearest(str(key), known))
    return value


def _items(value: object, path: str) -> list[tuple[object, str]]:
    if not isinstance(value, list):
        raise ConfigError(f"{path} must be a list, got {_short(value)}")
    return [(each, f"{path}[{i}]") for i, each in enumerate(value)]


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}..."
