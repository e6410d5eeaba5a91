"""Recipes as YAML files, and where each setting stands: errors name file, line and field."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import yaml
from pydantic import TypeAdapter, ValidationError

from qpc.compression.parts import Location, problem_of, sentence
from qpc.compression.recipe import Recipe
from qpc.errors import ArtifactError, ConfigError
from qpc.files import read_regular
from qpc.yaml_form import plain_data

if TYPE_CHECKING:
    from yaml import Node

_MOST_BYTES = 2**20


def read_recipe(path: str | os.PathLike[str]) -> Recipe:
    """Read a recipe from a YAML file.

    Raises ConfigError, which names the file, the line and the field, for the first mistake.
    """
    file = Path(path)
    try:
        text = read_regular(file, _MOST_BYTES).decode()
    except ArtifactError as e:
        raise ConfigError(f"the recipe is not there: {e.what}", fix=e.fix) from e
    except UnicodeDecodeError as e:
        raise ConfigError(f"the recipe {str(file)!r} is not UTF-8: {e.reason}") from e
    return recipe_of(text, str(file))


def recipe_of(text: str, where: str = "the recipe") -> Recipe:
    """Read a recipe from YAML; `where` is what errors call it."""
    try:
        data = plain_data(text)
    except ConfigError as e:
        raise ConfigError(f"{where}: {e.what}") from e
    if not isinstance(data, dict):
        raise ConfigError(
            f"{where} must hold a mapping of settings", fix="see docs/compression.md for one"
        )
    try:
        return TypeAdapter(Recipe).validate_python(data)
    except ValidationError as e:
        location, problem = problem_of(e)
        line, place = located(text, location)
        raise ConfigError(f"{where}, line {line}: {sentence(place, problem)}") from e


def located(text: str, location: Location) -> tuple[int, Location]:
    """The line, from 1, of the setting at a place or the nearest one around it, and the place.

    What pydantic adds to places, the members of unions, is left out of it.
    """
    lines = dict(_lines(yaml.compose(text, yaml.SafeLoader), ()))
    place: Location = ()
    for number, part in enumerate(location, start=1):
        if (*place, part) in lines or (number == len(location) and _is_field(part)):
            place = (*place, part)
    nearest = place
    while nearest not in lines and nearest:
        nearest = nearest[:-1]
    return lines.get(nearest, 1), place


def _is_field(part: str | int) -> bool:
    """Whether it is a name that a setting may have; classes are members of unions."""
    return isinstance(part, str) and part.isidentifier() and part.islower()


def _lines(node: Node | None, path: Location) -> Iterator[tuple[Location, int]]:
    """Places and lines of everything inside a node of YAML."""
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            place = (*path, str(key.value))
            yield place, key.start_mark.line + 1
            yield from _lines(value, place)
    elif isinstance(node, yaml.SequenceNode):
        for number, value in enumerate(node.value):
            place = (*path, number)
            yield place, value.start_mark.line + 1
            yield from _lines(value, place)
