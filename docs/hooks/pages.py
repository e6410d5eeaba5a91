"""Pages of the site that are made of QPC itself: the catalogues and the reference.

`mkdocs` calls `on_files`; what is made is text, by functions that the tests call, too.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import qpc
import qpc.passes
from qpc.base import Pass
from qpc.families import Family
from qpc.homes import all_homes
from qpc.registry import OpSpec, Quantization, Role
from qpc.yaml_form import FAMILIES, PASSES

sys.path.append(str(Path(__file__).parent))  # mkdocs loads this file by its path
from docstrings import listed  # from beside it

MODULES: Mapping[str, str] = {
    "qpc.assets": "a trained network and images to try things with",
    "qpc.callbacks.mlflow": "runs in MLflow",
    "qpc.callbacks.tensorboard": "runs in TensorBoard",
    "qpc.compression.classification": "ready functions that train and judge classifiers",
    "qpc.compression.step": "steps of recipes of one's own",
    "qpc.compression.training": "what a training function is told",
    "qpc.edit": "the editor of graphs",
    "qpc.errors": "all exceptions",
    "qpc.families": "names for classes of one's own",
    "qpc.parallel.processes": "jobs in several processes",
    "qpc.plugins": "what installed packages bring",
    "qpc.pruning.activations": "criteria that look at values",
    "qpc.pruning.allocation": "how many channels each group loses",
    "qpc.pruning.gradients": "criteria that look at a loss",
    "qpc.pruning.granularity": "which weights are masked together",
    "qpc.pruning.magnitude": "criteria that look at parameters",
    "qpc.pruning.regularizers": "penalties that push weights towards zero",
    "qpc.pruning.schedules": "pruning in steps",
    "qpc.pruning.weight_rules": "which weights stay",
    "qpc.quant.config": "what to quantize how",
    "qpc.quant.observers": "which ranges to quantize",
    "qpc.rewrite": "rewriting by small rules",
    "qpc.runtime": "compiled models without PyTorch and TVM",
    "qpc.targets": "CPUs and boards",
    "qpc.testing": "the harness that tests a pass",
    "qpc.training": "quantization-aware training",
}
"""Modules with public names that are not reached from `qpc` itself, and what they hold."""


def pages() -> dict[str, str]:
    """All generated pages, by their paths in the site."""
    found = {
        "passes.md": pass_catalogue(),
        "names.md": name_catalogue(),
        "operators.md": operator_catalogue(),
        "reference/index.md": reference_index(),
    }
    for name in public_names():
        found[f"reference/{name}.md"] = f"# qpc.{name}\n\n::: {home_of(name)}\n"
    for module in MODULES:
        found[f"reference/{module}.md"] = f"# {module}\n\n::: {module}\n"
    return found


def on_files(files: Any, config: Any) -> Any:
    """Add the generated pages to those that were found; mkdocs calls this."""
    from mkdocs.structure.files import File

    for path, text in pages().items():
        files.append(File.generated(config, path, content=text))
    return files


# --- the reference --------------------------------------------------------------------------------


def public_names() -> list[str]:
    """The names that `qpc` has, without the version."""
    return [name for name in qpc.__all__ if not name.startswith("_")]


def home_of(name: str) -> str:
    """Where a public name is defined, as a path for mkdocstrings."""
    found = getattr(qpc, name)
    return f"{found.__module__}.{found.__qualname__}"


def reference_index() -> str:
    """All public names with the first lines of their docstrings, and the other modules."""
    names = [
        (f"[`qpc.{name}`]({name}.md)", _first_line(getattr(qpc, name))) for name in public_names()
    ]
    modules = [(f"[`{module}`]({module}.md)", text) for module, text in MODULES.items()]
    return f"""# Reference

Everything that `import qpc` offers. Names are loaded when they are first used.

{_table(("name", ""), names)}

## Further modules

{_table(("module", ""), modules)}

Passes are in the [catalogue of passes](../passes.md), exceptions on
[a page of their own](../errors.md).
"""


# --- passes ---------------------------------------------------------------------------------------


def own_passes() -> list[type[Pass]]:
    """QPC's passes, by their names."""
    found = (getattr(qpc.passes, name) for name in qpc.passes.__all__)
    return sorted(found, key=lambda cls: str(cls.name))


def pass_catalogue() -> str:
    """A section for each pass: what its module says, its settings, and the facts it declares."""
    listing = [(f"[`{cls.name}`](#{cls.name})", _first_line(_module(cls))) for cls in own_passes()]
    sections = "\n\n".join(map(_pass, own_passes()))
    return f"""# Catalogue of passes

Made of the docstrings and the declarations of the classes. A pass may run where the facts that it
requires hold; [concepts](concepts.md#facts) says what facts are.

{_table(("pass", ""), listing)}

{sections}
"""


def _pass(cls: type[Pass]) -> str:
    parts = [f"## {cls.name}", _module_text(_module(cls)), f"`qpc.passes.{cls.__name__}`"]
    return "\n\n".join([*parts, _settings(cls), _facts(cls)])


def _module_text(module: ModuleType) -> str:
    """The module's docstring, with the table of Before and After as it stands there."""
    parts = inspect.cleandoc(module.__doc__ or "").split("\n\n")
    aligned = ("Before:", "    ")
    return "\n\n".join(f"```text\n{p}\n```" if p.startswith(aligned) else p for p in parts)


def _settings(cls: type[Pass]) -> str:
    fields = [field for field in dataclasses.fields(cls) if field.init]
    if not fields:
        return "No settings."
    rows = [(f"`{field.name}`", _code(str(field.type)), _default(field)) for field in fields]
    _, *about = inspect.cleandoc(cls.__doc__ or "").split("\n\n", 1)
    return "\n\n".join([_table(("setting", "type", "default"), rows), *map(listed, about)])


def _default(field: dataclasses.Field[object]) -> str:
    if field.default is not dataclasses.MISSING:
        return _code(repr(field.default))
    if field.default_factory is not dataclasses.MISSING:
        return _code(repr(field.default_factory()))
    return "must be given"


def _facts(cls: type[Pass]) -> str:
    declared = {
        "Requires": cls.requires,
        "Establishes": cls.establishes,
        "Invalidates": cls.invalidates,
    }
    named = {word: sorted(fact.name for fact in facts) for word, facts in declared.items()}
    return "\n".join(
        f"- {word}: {', '.join(map(_code, names)) or 'nothing'}" for word, names in named.items()
    )


# --- names in texts -------------------------------------------------------------------------------


def name_catalogue() -> str:
    """What has a name in texts, besides passes: for each family its classes."""
    families = "\n\n".join(_family(family) for family in FAMILIES if family is not PASSES)
    return f"""# Catalogue of names

What texts, recipes and commands call criteria, observers and the like;
[pipelines as text](text-forms.md) says how they are written.

{families}
"""


def _family(family: Family) -> str:
    found = [(name, family.find(name)) for name in family.names()]
    rows = [
        (f"`{name}`", f"`{cls.__module__}.{cls.__name__}`", _first_line(cls))
        for name, cls in found
        if cls is not None
    ]
    return f"## {family.name.capitalize()}\n\n{_table(('name', 'class', ''), rows)}"


# --- operators ------------------------------------------------------------------------------------


def operator_catalogue() -> str:
    """A table for each home of operators: what quantization and pruning know of each."""
    homes = "\n\n".join(map(_home, all_homes()))
    roles = "\n".join(f"- `{role.name.lower()}`: {role.value}" for role in Role)
    return f"""# Catalogue of operators

Made of the records (`OpSpec`) in the operators' homes. Operators without a record stay in float
and keep their channels. [Add an operator](add-an-operator.md) says how to change that.

- **integers**: it has an integer form, or is one; what **depends** is decided for each call.
- **pruning**: channels can be followed through it; others must stay.
- **exact**: one result on every target, however it is compiled.

{homes}

## Roles

{roles}
"""


def _home(home: ModuleType) -> str:
    name = home.__name__.rpartition(".")[2].replace("_", " ").capitalize()
    specs = sorted(home.SPECS, key=lambda spec: str(spec.target))
    head = ("operator", "role", "integers", "pruning", "exact")
    return f"## {name}\n\n{_first_line(home)}\n\n{_table(head, map(_operator, specs))}"


def _operator(spec: OpSpec) -> tuple[str, ...]:
    found = spec.quantization
    name = str(spec.target).removesuffix(".default")
    if not isinstance(found, Quantization):
        role, integers = "depends", "depends"
    elif name.startswith("qpc."):
        role, integers = "integer", "is one"
    else:
        role, integers = found.role.name.lower(), "yes" if found.convert else ""
    marks = ("yes" if mark else "" for mark in (spec.follows_channels, spec.exact))
    return f"`{name}`", role, integers, *marks


# --- words ----------------------------------------------------------------------------------------


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A table in Markdown; cells have escaped their vertical bars."""
    lines = [tuple(head), *map(tuple, rows)]
    lines.insert(1, ("---",) * len(lines[0]))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _module(cls: type) -> ModuleType:
    return importlib.import_module(cls.__module__)


def _first_line(documented: object) -> str:
    text = inspect.getdoc(documented) or ""
    return text.split("\n\n")[0].replace("\n", " ").replace("|", "\\|")


def _code(text: str) -> str:
    escaped = text.replace("|", "\\|")
    return f"`{escaped}`"
