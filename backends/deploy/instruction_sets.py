"""A library that holds the code of several instruction sets, of which the CPU's best is used."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import replace

from qpc.backends.deploy import elf
from qpc.backends.deploy.deployable import Array, Deployable, raw_bytes
from qpc.backends.deploy.library import ExportedLibrary, write_merged
from qpc.backends.deploy.merge import constants, merge
from qpc.errors import BackendError, UnsupportedTargetError
from qpc.targets import Target
from qpc.targets.data import LINUX

Entry = Callable[[Deployable], bytes]
Dispatch = Callable[[Deployable, Sequence[Deployable]], bytes]
_LINE = 64  # bytes to which constants are aligned


def check_targets(targets: Sequence[Target], form: str, threads: int) -> None:
    """Raise BackendError for targets that cannot be in one library, the best last."""
    first = targets[0]
    known = {feature for feature, _, _ in first.architecture.capabilities}
    if first.architecture.system != LINUX or not known:
        raise UnsupportedTargetError(
            f"a library for {first.name!r} cannot ask what its CPU can do",
            fix="several instruction sets are for aarch64 with Linux; else export one for each",
        )
    if form != "objects" or threads > 1:
        raise BackendError(
            "several instruction sets are in machine code for one thread only",
            fix="form='objects' and threads=1, or one target",
        )
    for target in targets[1:]:
        if target.architecture.name != first.architecture.name:
            raise UnsupportedTargetError(
                f"{first.name!r} and {target.name!r} have different architectures",
                fix="one library is for one of them",
            )
        if unknown := set(target.features) - known:
            raise UnsupportedTargetError(
                f"Linux does not say whether a CPU has {', '.join(sorted(unknown))}, which "
                f"{target.name!r} needs"
            )
        if not set(target.features) > set(first.features):
            raise UnsupportedTargetError(
                f"{target.name!r} needs nothing that {first.name!r} does not",
                fix="the first target is what every CPU can do, the last the best",
            )


def named_by_content(model: Deployable, name: str) -> Deployable:
    """The same under another name, its constants called by what they hold."""
    names = {old: _content_name(array) for old, array in model.weights.items()}
    weights = {names[old]: array for old, array in model.weights.items()}
    return replace(
        model,
        name=name,
        weights=weights,
        weight_names=tuple(names[old] for old in model.weight_names),
    )


def write_instruction_sets(
    models: Sequence[Deployable],
    kernels: Sequence[Sequence[bytes]],
    entry: Entry,
    dispatch: Dispatch,
    path: str | os.PathLike[str],
) -> ExportedLibrary:
    """Write the library of a model that is compiled for several targets to the folder `path`.

    kernels: object files, by model. entry, dispatch: make the object files of the functions that
    call them, and that choose. Raises as `write_objects` does.
    """
    arena = max(model.entry.arena for model in models)
    models = [replace(model, entry=replace(model.entry, arena=arena)) for model in models]
    whole = models[0]
    choices = [
        named_by_content(model, f"{model.name}_{number}_{model.target.isa.replace('-', '_')}")
        for number, model in enumerate(models)
    ]
    parts = []
    for choice, objects in zip(choices, kernels, strict=True):
        own = [elf.read(raw) for raw in (*objects, entry(choice))]
        parts.append(merge(own, (choice.run,)).made)
    tensors = {
        name: raw_bytes(array) for choice in choices for name, array in choice.weights.items()
    }
    caller = elf.read(dispatch(whole, choices))
    merged = merge([*parts, constants(parts[0], tensors, _LINE), caller], (whole.run,))
    names = [model.target.name for model in models]
    note = f"instruction sets: {', '.join(names)}; each call takes the last that the CPU has"
    layers = f"layers and their constants are those of {names[-1]}"
    about = replace(models[-1], target=whole.target, notes=(*whole.notes, note, layers))
    return write_merged(about, merged, path, instruction_sets=names)


def _content_name(array: Array) -> str:
    about = f"{array.dtype.str} {array.shape}".encode()
    return f"constant_{hashlib.sha256(about + raw_bytes(array)).hexdigest()[:24]}"
