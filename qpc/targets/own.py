"""Targets of one's own: a YAML file that says what differs from one that is known.

    name: my-board
    like: cortex-m4
    flash: 512 KiB
    ram: 96 KiB

Everything else is a field of `qpc.Target` under its name. `flash`, `ram`, `data_cache` and
`level2_cache` are those of its `board`, in bytes, or with a unit.
"""

from __future__ import annotations

import difflib
import os
import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import yaml

from qpc.errors import ArtifactError, UnsupportedTargetError
from qpc.files import read_regular
from qpc.plain_yaml import plain_yaml
from qpc.targets.data import Board, TargetData
from qpc.targets.form import decode_target, encode_target
from qpc.targets.target import Target

_LIMIT_BYTES = 2**20
_LIKE = "like"
_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9}
_UNITS |= {"K": 2**10, "M": 2**20, "G": 2**30, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}
_BOARD = tuple(field.name for field in fields(Board))
_FIELDS = tuple(field.name for field in fields(TargetData) if field.name != "board")


def read_target(path: str | os.PathLike[str]) -> Target:
    """The target that a YAML file describes.

    Raises UnsupportedTargetError, which names the file, for what is no target.
    """
    try:
        text = read_regular(Path(path), _LIMIT_BYTES).decode()
        given = plain_yaml(text)
    except (ArtifactError, UnicodeDecodeError, yaml.YAMLError) as e:
        raise UnsupportedTargetError(f"cannot read the target in {str(path)!r}: {e}") from e
    try:
        return _target(given)
    except UnsupportedTargetError as e:
        raise UnsupportedTargetError(f"{e.what}, in {str(path)!r}", fix=e.fix) from e
    except ValueError as e:
        raise UnsupportedTargetError(f"{e}, in {str(path)!r}") from e


def _target(given: object) -> Target:
    if not isinstance(given, dict) or not all(isinstance(key, str) for key in given):
        raise ValueError("a target is a list of fields, such as `name: my-board`")
    for key in given:
        _check_field(key)
    form: dict[str, Any] = {}
    if _LIKE in given:
        if str(given[_LIKE]).endswith((".yaml", ".yml")):
            raise ValueError("a target is like one that has a name, not like a file")
        form = encode_target(Target.parse(given[_LIKE]))
    else:
        form = {"board": {}, "tuning": [], "cpu": None, "abi": None, "activation": "uint8"}
        form |= {"object_format": "elf", "libraries": [], "counter": None}
    if "name" not in given:
        raise ValueError("a target needs a name")
    form |= {key: value for key, value in given.items() if key in _FIELDS}
    sizes = {key: size_in_bytes(given[key]) for key in _BOARD if key in given}
    return decode_target(form | {"board": form["board"] | sizes})


def _check_field(key: str) -> None:
    known = (_LIKE, *_FIELDS, *_BOARD)
    if key in known:
        return
    near = difflib.get_close_matches(key, known, n=1)
    raise UnsupportedTargetError(
        f"a target has no field {key!r}",
        fix=f"{near[0]!r} may be meant" if near else f"use some of: {', '.join(known)}",
    )


def size_in_bytes(value: object) -> int:
    """Bytes from a number, or a number with a unit: `96 KiB`, `1MB`. Raises ValueError."""
    if type(value) is int and value > 0:
        return value
    written = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", str(value))
    unit = _UNITS.get(written[2].upper()) if written else None
    if written is None or unit is None or float(written[1]) * unit < 1:
        raise ValueError(f"{value!r} is no size: write bytes, or a unit such as 96 KiB")
    return int(float(written[1]) * unit)
