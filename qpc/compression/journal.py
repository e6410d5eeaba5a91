"""What has been done, written after every step, so that a run that was killed goes on.

A folder holds `recipe.yaml`, as it was resolved, `journal.json`, and the graphs that are still
needed under `graphs/`. A step's graph is written first, then the journal, each of them whole or not
at all, then graphs that nothing needs any more are removed. So at any moment the journal names only
graphs that are there.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml
from torch.fx import GraphModule

from qpc.compression.recipe import differences
from qpc.compression.result import Row
from qpc.documents import LIMIT_BYTES, check_seal, parse, seal
from qpc.errors import ArtifactError, CompressionError, ConfigError
from qpc.files import read_regular, replace_file
from qpc.staging import clean_up
from qpc.storage import load_graph, save_graph
from qpc.version import VERSION

JOURNAL, RECIPE, GRAPHS, CHECKPOINTS = "journal.json", "recipe.yaml", "graphs", "checkpoints"
_LOCK, _FORMAT, _VERSION = "lock", "qpc-compression", 1
_FIX = "remove the folder to begin anew, or choose another one"


@dataclass(frozen=True)
class Entry:
    """One step that is done.

    step: its name. graph: the name of the graph that it left; empty if it left none.
    fingerprint: of that graph. seconds: how long it took. row: what it was judged as, if it was.
    remarks: what its passes say. optimizer: the name of what the last training step until here has
    left of its optimizer; empty if no step wants it.
    """

    step: str
    graph: str
    fingerprint: str
    seconds: float
    row: Row | None = None
    remarks: tuple[str, ...] = ()
    optimizer: str = ""

    def plain(self) -> dict[str, Any]:
        """As plain data for JSON."""
        return asdict(self)

    @staticmethod
    def of(data: Mapping[str, Any]) -> Entry:
        """From what `plain` returned."""
        row = None if data["row"] is None else Row(**data["row"])
        return Entry(**{**data, "row": row, "remarks": tuple(data["remarks"])})


@dataclass
class Journal:
    """The steps of a run that are done, in a folder that this process has for itself."""

    folder: Path
    recipe: Mapping[str, Any]
    entries: list[Entry]
    writes: bool = True

    @staticmethod
    def begin(folder: Path, recipe: Mapping[str, Any]) -> Journal:
        """Begin a run, or go on with the one that is there.

        Raises CompressionError if the folder holds something else, or a run of another recipe.
        """
        path = folder / JOURNAL
        if path.exists():
            return _opened(folder, recipe)
        clean_up(folder)
        try:
            strangers = sorted(name for name in os.listdir(folder) if name not in _OWN)
        except OSError as e:
            raise CompressionError(f"cannot read {str(folder)!r}: {e.strerror}", fix=_FIX) from e
        if strangers:
            raise CompressionError(
                f"{str(folder)!r} holds something else than a run: {strangers[0]!r}",
                fix="choose a new folder",
            )
        journal = Journal(folder, recipe, [])
        text = yaml.safe_dump(dict(recipe), sort_keys=False, allow_unicode=True)
        journal._write(RECIPE, text.encode())
        journal._write(JOURNAL, journal._document())
        return journal

    def find(self, step: str) -> Entry | None:
        """What is known about a step; None if it is not done."""
        return next((entry for entry in self.entries if entry.step == step), None)

    def record(self, entry: Entry, gm: GraphModule | None, needed: Iterable[str]) -> None:
        """Keep what a step has left.

        needed: the names of graphs that are needed from here on; the others are removed.
        """
        if self.writes and gm is not None:
            save_graph(gm, self._graph(entry.graph))
        self.entries.append(entry)
        if self.writes:
            self._write(JOURNAL, self._document())
            self._remove_all_but({*needed, entry.graph, entry.optimizer})

    def load(self, name: str) -> GraphModule:
        """A graph that a step has left."""
        return load_graph(self._graph(name))

    def optimizer(self, name: str) -> Path:
        """Where the state of an optimizer is kept."""
        return self._graph(name)

    def write_result(self, files: Mapping[str, str]) -> None:
        """Write what came out, as texts by file name."""
        for name, text in files.items():
            self._write(name, text.encode())

    def _graph(self, name: str) -> Path:
        return self.folder / GRAPHS / name

    def _document(self) -> bytes:
        return seal(
            {
                "format": _FORMAT,
                "format_version": _VERSION,
                "qpc": VERSION,
                "recipe": dict(self.recipe),
                "steps": [entry.plain() for entry in self.entries],
            }
        )

    def _write(self, name: str, data: bytes) -> None:
        try:
            replace_file(self.folder / name, data)
        except OSError as e:
            raise ArtifactError(
                f"cannot write {name!r} in {str(self.folder)!r}: {e.strerror or e}",
                fix="make room, and run the same again: it goes on from the last step",
            ) from e

    def _remove_all_but(self, needed: set[str]) -> None:
        folder = self.folder / GRAPHS
        for path in folder.iterdir() if folder.is_dir() else ():
            if path.name not in needed:
                shutil.rmtree(path, ignore_errors=True)
        shutil.rmtree(self.folder / CHECKPOINTS, ignore_errors=True)


def _opened(folder: Path, recipe: Mapping[str, Any]) -> Journal:
    where = f"the journal in {str(folder)!r}"
    data = read_regular(folder / JOURNAL, LIMIT_BYTES)
    document = parse(data, where, _FIX)
    if document.get("format") != _FORMAT or document.get("format_version") != _VERSION:
        raise CompressionError(f"{where} is of another version of QPC", fix=_FIX)
    check_seal(document, data, where, _FIX)
    # Compared as JSON, in which tuples are lists.
    if changed := list(differences(document["recipe"], json.loads(json.dumps(recipe)))):
        raise ConfigError(
            f"the run in {str(folder)!r} has another recipe: {'; '.join(changed[:3])}",
            fix="choose another folder for the new recipe, or remove this one",
        )
    return Journal(folder, recipe, [Entry.of(each) for each in document["steps"]])


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Have a folder, which is made if it is not there, for this process alone.

    The lock goes with the process, however that ends. Raises CompressionError if another one holds
    it, or the folder cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as e:
        raise CompressionError(
            f"cannot use {str(folder)!r} for a run: {e.strerror}",
            fix="choose a folder that you may write to",
        ) from e
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as e:
            raise CompressionError(
                f"another process works in {str(folder)!r}",
                fix="wait for it, or choose another folder",
            ) from e
        except OSError:
            pass  # some file systems have no locks
        yield
    finally:
        os.close(file)


_OWN = (_LOCK, RECIPE, GRAPHS, CHECKPOINTS)
