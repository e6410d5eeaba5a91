"""Checkpoints: all that training needs to go on as if it had never stopped, bit for bit.

The same bits need the same version of PyTorch, the same kind of CPU or GPU, and as many threads:
how many share a sum decides the order in which it is formed. `Checkpoint.resume` logs a warning
where version or threads differ.

A checkpoint is a folder with the saved graph (see `qpc.storage`), a file of further tensors and a
document that says what is what, sealed by a hash of all. It is written whole or not at all. As
saved graphs, checkpoints are data: there is no pickle in them, and nothing they hold is executed.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from safetensors.torch import load, save
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.optim import Optimizer

from qpc import documents
from qpc.documents import CHECKPOINT, SAVED_GRAPH, damaged
from qpc.errors import ArtifactError, ConfigError, QPCError
from qpc.facts import require_graph
from qpc.modes import ordinary_torch
from qpc.settings import require_kind
from qpc.storage import graph_files, graph_of_files
from qpc.training import optimizer_values, random_state
from qpc.training.layouts import layouts_of, set_layouts
from qpc.training.optimizer_state import names_of, take_state
from qpc.training.random_state import RandomSource
from qpc.training.run_document import RunDocument, validated
from qpc.training.state_values import StateWriter, decode
from qpc.version import VERSION

_log = logging.getLogger(__name__)
_STATE = "state.safetensors"
_GRAPH_FILES = (SAVED_GRAPH.document, *SAVED_GRAPH.files)


@runtime_checkable
class Stateful(Protocol):
    """What can say its state as plain values and take it back, as schedulers do."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state_dict: dict[str, Any]) -> object: ...


@dataclass(frozen=True)
class Checkpoint:
    """What `load_checkpoint` returns.

    graph: the graph as it was, in training mode if it was in it, on the CPU.
    extra: the values of the user's own.
    """

    graph: GraphModule
    extra: dict[str, Any]
    _state: Mapping[str, Any]
    _where: str

    @ordinary_torch()
    def resume(
        self,
        *,
        optimizer: Optimizer | None = None,
        scheduler: Stateful | None = None,
        generators: Mapping[str, RandomSource] | None = None,
        modules: Mapping[str, nn.Module] | None = None,
    ) -> None:
        """Bring everything that was saved, but for the graph, into the state that it was in.

        Make the same objects as in the beginning, the optimizer with `graph.parameters()` (moved to
        another device before, if need be), and pass them here last of all: the random states of
        Python, NumPy and PyTorch are set too. Options of the optimizer are those that were saved.

        Raises ConfigError if these are not the objects that were saved: none where there was one,
        of another class, or with other parameters. Then nothing has changed, unless an object has
        taken a part of its state before it found the rest to be another's.
        """
        given: tuple[tuple[str, object], ...] = (
            ("optimizer", optimizer),
            ("scheduler", scheduler),
            ("generators", generators or None),
            ("modules", modules or None),
        )
        for name, value in given:
            self._require_same(name, value)
        names = _names(self.graph, modules or {})
        state = self._state
        if optimizer is not None:
            place = optimizer_values.checked(state["optimizer"], optimizer, names)
        for name, source in (generators or {}).items():
            random_state.require_same_kind(name, source, state["generators"][name])
        for name, module in (modules or {}).items():
            _load(f"modules[{name!r}]", module, state["modules"][name])
        if scheduler is not None:
            _load("scheduler", scheduler, state["scheduler"]["state"])
        if optimizer is not None:
            place()
        for name, source in (generators or {}).items():
            random_state.set_state(name, source, state["generators"][name])
        random_state.set_global_state(state["random"])
        _warn_of_other_bits(state["computed_by"])

    @ordinary_torch()
    def carry_optimizer(self, optimizer: Optimizer, after: GraphModule) -> None:
        """Let a new optimizer, of a graph made of this one, begin with the state that was saved.

        Unlike `resume`, this takes momentum and the like alone, without the channels that are gone
        since, and leaves groups, options and random states as they are.

        Raises ConfigError if no optimizer was saved, or one of another class, and PassError as
        `qpc.training.carry_optimizer`.
        """
        self._require_same("optimizer", optimizer)
        take_state(optimizer, self._own_state(), self.graph, after)

    def _own_state(self) -> dict[str, Mapping[str, Any]]:
        """The saved state of parameters of the graph itself, by name."""
        known = dict(self.graph.named_parameters(remove_duplicate=False))
        saved: Mapping[str, Mapping[str, Any]] = self._state["optimizer"]["state"]
        return {name: values for name, values in saved.items() if name in known}

    def _require_same(self, name: str, value: object) -> None:
        saved = self._state[name] or None
        if (value is None) != (saved is None):
            has, got = ("no", "one") if saved is None else ("one", "none")
            raise ConfigError(
                f"{name}: the checkpoint {self._where} holds {has}, got {got}",
                fix="resume with what was passed to save_checkpoint; to look at the graph alone, "
                "use checkpoint.graph",
            )
        if value is None or saved is None:
            return
        if isinstance(value, Mapping) and value.keys() != saved.keys():
            raise ConfigError(
                f"{name}: the checkpoint {self._where} holds {sorted(saved)}, got {sorted(value)}"
            )
        if name in ("optimizer", "scheduler"):
            _require_class(name, value, saved["class"])


@ordinary_torch()
def save_checkpoint(
    path: str | os.PathLike[str],
    gm: GraphModule,
    *,
    optimizer: Optimizer | None = None,
    scheduler: Stateful | None = None,
    generators: Mapping[str, RandomSource] | None = None,
    modules: Mapping[str, nn.Module] | None = None,
    extra: Mapping[str, object] | None = None,
) -> None:
    """Write the state of training to the folder `path`, replacing a checkpoint that was there.

    The folder appears whole or not at all, and the checkpoint before stays until then: a process
    may be killed at any moment. Save between two steps; gradients are not saved. The random states
    of Python, NumPy and PyTorch are saved with everything.

    gm: the graph, in training or not, with its grids and masks; of a model under
    `DistributedDataParallel` it is `.module`.
    optimizer: any `torch.optim.Optimizer` of parameters of `gm` or `modules`.
    scheduler: of the learning rate, or anything with `state_dict` and `load_state_dict`.
    generators: generators of random numbers of one's own, by names of one's own.
    modules: further modules that are trained, such as projections of a distillation, by name.
    extra: counters and the like: None, bool, int, float, str, bytes, tensors, NumPy arrays, and
    lists, tuples and dictionaries (with keys of str or int) of such.

    Raises ArtifactError if something cannot be saved, or not there.
    """
    require_graph(gm, "save_checkpoint")
    given = {"optimizer": optimizer, "scheduler": scheduler, "generators": generators}
    _require_kinds({**given, "modules": modules, "extra": extra})
    names = _names(gm, modules or {})
    writer = StateWriter()
    try:
        fields = {
            "training": gm.training,
            "computed_by": _computed_by(),
            "layouts": layouts_of(gm),
            "optimizer": optimizer and optimizer_values.described(optimizer, names, writer),
            "scheduler": scheduler and _described(scheduler, writer),
            "random": writer.encode(random_state.global_state(), "random"),
            "generators": {
                name: writer.encode(random_state.state_of(name, source), f"generators.{name}")
                for name, source in (generators or {}).items()
            },
            "modules": {
                name: writer.encode(module.state_dict(), f"modules.{name}")
                for name, module in (modules or {}).items()
            },
            "extra": writer.encode(dict(extra or {}), "extra"),
        }
    except TypeError as e:
        raise ArtifactError(
            f"this checkpoint cannot be saved: {e}",
            fix="pass numbers, text, tensors, and lists and dictionaries of such",
        ) from e
    documents.write(path, _files(gm, fields, writer), CHECKPOINT)


@ordinary_torch()
def load_checkpoint(path: str | os.PathLike[str]) -> Checkpoint:
    """Return what `save_checkpoint` wrote; everything is checked before anything is built of it.

    `Checkpoint.resume` then brings optimizer and random states to where they were. `qpc.load_graph`
    reads the graph of a checkpoint, too.

    Raises ArtifactError if the folder is no checkpoint, is damaged, holds what no checkpoint may,
    or was written by another version.
    """
    content = documents.read(path, CHECKPOINT)
    where = repr(str(path))
    document, state = _checked(content, where)
    graph = graph_of_files({name: content[name] for name in _GRAPH_FILES}, where)
    try:
        set_layouts(graph, document.layouts)
    except ValueError as e:
        raise damaged(f"{CHECKPOINT.document} of {where}", str(e), CHECKPOINT.damaged) from e
    graph.train(document.training)
    return Checkpoint(graph, state.pop("extra"), state, where)


# --- files ----------------------------------------------------------------------------------------


def _files(gm: GraphModule, fields: Mapping[str, Any], writer: StateWriter) -> dict[str, bytes]:
    content = {**graph_files(gm), _STATE: save(writer.tensors)}
    document = {
        "format": CHECKPOINT.mark,
        "format_version": CHECKPOINT.version,
        "qpc": VERSION,
        "files": documents.described(content),
        **fields,
    }
    try:
        content[CHECKPOINT.document] = documents.seal(document)
        _checked(content, "this checkpoint")  # what is saved can be loaded
    except (ArtifactError, ValueError) as e:
        raise ArtifactError(
            f"this checkpoint cannot be saved: {e}", fix="keep long lists as tensors"
        ) from e
    return content


def _checked(content: Mapping[str, bytes], where: str) -> tuple[RunDocument, dict[str, Any]]:
    """The document of a checkpoint, and the values in it."""
    raw = documents.verified(content, CHECKPOINT, where)
    try:
        document = validated(raw)
        tensors = load(content[_STATE])
        state = {
            "optimizer": optimizer_values.decoded(document.optimizer, tensors),
            "scheduler": None
            if document.scheduler is None
            else {
                "class": document.scheduler.class_,
                "state": decode(document.scheduler.state, tensors),
            },
            "generators": {k: decode(v, tensors) for k, v in document.generators.items()},
            "modules": {k: decode(v, tensors) for k, v in document.modules.items()},
            "random": decode(document.random, tensors),
            "extra": dict(decode(document.extra, tensors)),  # whatever else it is raises
            "computed_by": document.computed_by,
        }
        random_state.check_global_state(state["random"])
    except QPCError:
        raise
    except Exception as e:  # whatever safetensors and pydantic say is about the file
        text = f"{CHECKPOINT.document} of {where}"
        raise damaged(text, str(e)[:500], CHECKPOINT.damaged) from e
    return document, state


# --- objects --------------------------------------------------------------------------------------


_KINDS: Mapping[str, tuple[type, str]] = {
    "optimizer": (Optimizer, "a torch.optim.Optimizer or None"),
    "scheduler": (Stateful, "an object with state_dict and load_state_dict or None"),
    "generators": (Mapping, "generators by name, or None"),
    "modules": (Mapping, "modules by name, or None"),
    "extra": (Mapping, "values by name, or None"),
}


def _require_kinds(given: Mapping[str, object]) -> None:
    for name, value in given.items():
        if value is not None:
            require_kind(name, value, *_KINDS[name])


def _names(gm: GraphModule, modules: Mapping[str, nn.Module]) -> dict[Tensor, tuple[str, ...]]:
    """All names of each parameter; those of further modules begin with theirs and a colon."""
    found = names_of(gm)
    for prefix, module in modules.items():
        require_kind(f"modules[{prefix!r}]", module, nn.Module, "a module")
        for parameter, names in names_of(module).items():
            found.setdefault(parameter, tuple(f"{prefix}:{name}" for name in names))
    return found


def _described(scheduler: Stateful, writer: StateWriter) -> dict[str, Any]:
    state = writer.encode(scheduler.state_dict(), "scheduler")
    return {"class": _class(scheduler), "state": state}


def _class(value: object) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}"


def _require_class(name: str, value: object, saved: str) -> None:
    if _class(value) != saved:
        raise ConfigError(
            f"{name}: the checkpoint holds the state of a {saved}, got a {_class(value)}",
            fix="make the same object as when it was saved",
        )


def _computed_by() -> dict[str, str]:
    return {"PyTorch": str(torch.__version__), "threads": str(torch.get_num_threads())}


def _warn_of_other_bits(saved: Mapping[str, str]) -> None:
    here = _computed_by()
    for name in here.keys() & saved.keys():
        if here[name] != saved[name]:
            text = "training goes on, but not with the same bits: %s was %s, and is %s here"
            _log.warning(text, name, saved[name], here[name])


def _load(name: str, value: Stateful, state: dict[str, Any]) -> None:
    try:
        value.load_state_dict(state)
    except Exception as e:  # whatever an object of any class says to a state that is not its own
        raise ConfigError(f"{name} cannot take the state that was saved: {e}") from e
