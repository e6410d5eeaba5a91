"""The child of `artifacts.py`: breaks folders, loads them, and prints a line for each."""

from __future__ import annotations

import contextlib
import os
import random
import resource
import shutil
import sys
import tempfile
import traceback
import types
from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import torch

import qpc
from qpc import runtime
from qpc.documents import COMPILED_MODEL, SAVED_GRAPH, Kind
from qpc.errors import ArtifactError, QPCError
from qpc.meta import info
from qpc.types import resolve
from tests.robustness.damage import damage
from tests.robustness.forgery import MARK, forge

_MOST_BYTES = 2**30
_MOST_CALLED = 2**20  # elements of a value; what is larger is not called, as it may take long
_FORBIDDEN = ("os.", "subprocess.", "socket.", "shutil.", "ctypes.dlopen", "pty.", "urllib.")
_ALLOWED = ("os.listdir", "os.scandir", "os.putenv", "os.unsetenv", "os.walk", "os.fwalk")
_OF_MODELS = ("ctypes.dlopen", "os.mkdir", "os.remove", "os.rmdir", "shutil.rmtree", "os.memfd")


class _Watch:
    """Sees what the interpreter does while a folder is loaded."""

    def __init__(self, kind: str) -> None:
        self.armed, self.seen = False, list[str]()
        self._of_models = kind != "graph"
        sys.addaudithook(self._note)

    def _note(self, event: str, args: tuple[Any, ...]) -> None:
        if self.armed and (problem := self._problem(event, args)):
            self.seen.append(problem)

    def _problem(self, event: str, args: tuple[Any, ...]) -> str | None:
        if event == "compile" and MARK in str(args[0]):
            return f"compiles {str(args[0])[:200]!r}"
        if event == "exec" and isinstance(args[0], types.CodeType):
            return f"runs {args[0].co_names}" if MARK in str(args[0].co_consts) else None
        if event == "import" and MARK in str(args[0]):
            return f"imports {args[0]}"
        if event == "open":
            path, _, flags = args
            writes = bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
            in_memory = isinstance(path, int)  # an open file, as libraries are loaded from
            own = self._of_models and (in_memory or path.startswith(tempfile.gettempdir()))
            return f"writes to {path}" if writes and not own else None
        if self._of_models and event.startswith(_OF_MODELS):
            return None
        if event.startswith(_FORBIDDEN) and not event.startswith(_ALLOWED):
            return f"{event} {str(args)[:100]}"
        return None


@dataclass(frozen=True)
class _Subject:
    """What is broken: folders with a document, how they are forged and loaded.

    sealed: the document bears hashes of all files, so that damage is always an error.
    """

    document: str
    load: Callable[[Path], Any]
    forge: Callable[[random.Random, Path, list[Path]], str]
    sealed: bool = True


def _subject(kind: str) -> _Subject:
    if kind == "graph":
        return _of_kind(SAVED_GRAPH, qpc.load_graph)
    if kind in ("model", "runtime"):
        return _of_kind(COMPILED_MODEL, qpc.load if kind == "model" else runtime.load)
    from tests.robustness import forged_onnx
    from tests.robustness.artifact_bases import float_graph

    if kind == "onnx":
        return _Subject(
            forged_onnx.MODEL,
            lambda folder: qpc.trace_onnx(folder / forged_onnx.MODEL),
            lambda rng, folder, _: forged_onnx.forge_model(rng, folder),
            sealed=False,
        )
    gm = float_graph()
    return _Subject(
        forged_onnx.ENCODINGS,
        lambda folder: qpc.import_encodings(gm, folder / forged_onnx.ENCODINGS),
        lambda rng, folder, _: forged_onnx.forge_encodings(rng, folder),
        sealed=False,
    )


def _of_kind(kind: Kind, load: Callable[[Path], Any]) -> _Subject:
    return _Subject(
        kind.document, load, lambda rng, folder, others: forge(rng, folder, others, kind)
    )


def main(kind: str, first: int, stop: int, bases: Path) -> None:
    """Break a folder for each seed."""
    subject, watch = _subject(kind), _Watch(kind)
    folders = sorted(bases.iterdir())
    values = {
        (folder / subject.document).read_bytes(): _value(subject.load(folder)) for folder in folders
    }
    held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    resource.setrlimit(resource.RLIMIT_DATA, (held + 2 * _MOST_BYTES,) * 2)
    print("ready", flush=True)  # noqa: T201
    for seed in range(first, stop):
        with tempfile.TemporaryDirectory(prefix="qpc-try-") as place:
            outcome, what = _outcome(seed, folders, Path(place) / "it", subject, values, watch)
        used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        if used > max(_MOST_BYTES, held + _MOST_BYTES // 2):
            outcome, held = f"takes {used >> 20} MB ({outcome})", used
        line = f"{outcome}\t{what}".encode("ascii", "backslashreplace").decode()
        print(line.replace("\n", " ")[:2000], flush=True)  # noqa: T201


def _outcome(
    seed: int,
    folders: list[Path],
    folder: Path,
    subject: _Subject,
    values: dict[bytes, str],
    watch: _Watch,
) -> tuple[str, str]:
    rng = random.Random(seed)
    base = rng.choice(folders)
    shutil.copytree(base, folder)
    forged = rng.random() < 0.6
    what = f"{base.name}: " + (
        subject.forge(rng, folder, folders) if forged else damage(rng, folder, folders)
    )
    watch.seen.clear()
    watch.armed = True
    try:
        loaded = subject.load(folder)
        if forged and isinstance(loaded, torch.fx.GraphModule):
            _call(loaded)
        watch.armed = False
        plain = forged or not subject.sealed
        outcome = "loaded" if plain else _judge(folder, subject, _value(loaded), values)
    except ArtifactError as e:
        watch.armed = False
        outcome = "error" if e.fix and not _out_of_memory(e) else f"no fix: {e}"
        what += f" -> {e.what[:200]}"
    except QPCError as e:
        watch.armed = False
        outcome = "raw error: a QPCError" if subject.sealed else "error"
        what += f" -> {type(e).__name__}: {e.what[:200]}"
    except BaseException:
        watch.armed = False
        outcome = "raw error: " + " | ".join(traceback.format_exc().splitlines()[-3:])
    if watch.seen:
        outcome = f"runs code: {watch.seen}"
    return outcome, what


def _judge(folder: Path, subject: _Subject, value: str, values: dict[bytes, str]) -> str:
    """Damage that loads must be none: all files are those of one version."""
    expected = values.get((folder / subject.document).read_bytes())
    return "loaded" if value == expected else "a different value"


def _call(gm: torch.fx.GraphModule) -> None:
    """A forged graph computes what it says, or raises; it reads and writes no foreign memory."""
    nodes = [(node, info(node)) for node in gm.graph.nodes]
    shapes = [resolve(known.shape, 2) for _, known in nodes if known.shape is not None]
    if any(prod(shape) > _MOST_CALLED for shape in shapes):
        return
    inputs = [
        torch.zeros(resolve(known.shape or (), 2), dtype=known.dtype)
        for node, known in nodes
        if node.op == "placeholder"
    ]
    with contextlib.suppress(Exception), torch.no_grad():
        gm(*inputs)


def _value(loaded: Any) -> str:
    """Something that is equal only for equal models."""
    if isinstance(loaded, torch.fx.GraphModule):
        return qpc.fingerprint(loaded)
    answers = []
    for batch in loaded.batch_sizes:
        of_arrays = isinstance(loaded, runtime.Model)
        types = loaded.input_types(batch) if of_arrays else loaded.signature.inputs[batch]
        (shape,) = [wanted.shape for wanted in types]
        x = torch.linspace(-1, 1, torch.Size(shape).numel()).reshape(shape)
        answers.append([y.tolist() for y in loaded(x.numpy() if of_arrays else x)])
    return repr(answers)


def _out_of_memory(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, MemoryError) or "not enough memory" in str(error):
            return True
        error = error.__cause__
    return False


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]))
