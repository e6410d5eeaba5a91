"""Options of a command from a YAML file: what commands keep beside what they write."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import typer

_COMMAND = "command"
_HINT = "--settings"


def read_settings(ctx: typer.Context, file: Path | None) -> Path | None:
    """Make what a file says the defaults of a command's options.

    Raises BadParameter if it cannot be read, is about another command, or has unknown options.
    """
    if file is None or ctx.resilient_parsing:
        return file
    import yaml

    from qpc.plain_yaml import plain_yaml

    try:
        found = plain_yaml(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as e:
        why = getattr(e, "strerror", None) or " ".join(str(e).split())
        raise typer.BadParameter(f"cannot read {str(file)!r}: {why}", param_hint=_HINT) from None
    if not isinstance(found, dict):
        raise typer.BadParameter(f"{str(file)!r} must hold options by name", param_hint=_HINT)
    about = found.pop(_COMMAND, ctx.info_name)
    if about != ctx.info_name:
        raise typer.BadParameter(f"{str(file)!r} is about `qpc {about}`", param_hint=_HINT)
    ctx.default_map = {**(ctx.default_map or {}), **_known(ctx, file, found)}
    return file


def _known(ctx: typer.Context, file: Path, found: dict[Any, Any]) -> dict[str, Any]:
    names = {str(p.name) for p in ctx.command.params}
    made = {str(name).replace("-", "_"): value for name, value in found.items()}
    if unknown := sorted(made.keys() - names):
        raise typer.BadParameter(
            f"{str(file)!r} has {unknown[0]!r}, which is no option of `qpc {ctx.info_name}`",
            param_hint=_HINT,
        )
    return made
