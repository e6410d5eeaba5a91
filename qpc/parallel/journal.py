"""Results on disk, so that a run that was interrupted goes on where it was.

A folder holds `run.json`, which says what the run is about, and a file for each job that is done,
called by the hash of the job's name. Each is a sealed document that appears whole or not at all, so
there is nothing to repair after a crash, and several processes may even work on one run.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from qpc.documents import LIMIT_BYTES, check_seal, damaged, parse, seal
from qpc.errors import ArtifactError
from qpc.files import read_regular, replace_file
from qpc.parallel.work import Plain
from qpc.version import VERSION

_RUN, _MARK, _FORMAT = "run.json", "qpc-run", 1
_FIX = "remove the folder to begin anew, or choose another one"


@dataclass(frozen=True)
class Journal:
    """What is known about one run, in a folder of its own.

    subject: what the run is about, such as hashes of its data, by names that errors can use.
    """

    folder: Path
    subject: Mapping[str, str]

    @staticmethod
    def open(folder: str | os.PathLike[str], subject: Mapping[str, str]) -> Journal:
        """Begin a run in a folder, which is made if it is not there, or go on with the one there.

        Raises ArtifactError if the folder holds something else, or a run about something else, or
        cannot be written.
        """
        journal = Journal(Path(folder), subject)
        try:
            journal.folder.mkdir(parents=True, exist_ok=True)
            strangers = sorted(set(os.listdir(journal.folder)) - {_RUN})
        except OSError as e:
            raise ArtifactError(
                f"cannot use {str(folder)!r} for a run: {e.strerror or e}",
                fix="choose a folder that you may write to",
            ) from e
        if (journal.folder / _RUN).exists():
            journal._check_subject()
        elif strangers := [name for name in strangers if not name.startswith(".")]:
            raise ArtifactError(
                f"{str(folder)!r} holds something else than a run: {strangers[0]!r}",
                fix="choose a new folder",
            )
        else:
            journal._write(_RUN, {"subject": dict(subject)})
        return journal

    def find(self, job: str) -> tuple[Plain] | None:
        """The result of a job; None if it is not done. Raises ArtifactError if it is damaged."""
        path = self.folder / _file_name(job)
        if not path.exists():
            return None
        content = self._read(path.name)
        if content.get("job") != job:
            raise damaged(f"{str(path)!r}", "it is about another job", _FIX)
        return (content.get("result"),)

    def record(self, job: str, result: Plain) -> None:
        """Keep the result of a job. Raises ArtifactError if it cannot be written."""
        self._write(_file_name(job), {"job": job, "result": result})

    def _check_subject(self) -> None:
        found = self._read(_RUN).get("subject")
        old = found if isinstance(found, dict) else {}
        changed = [key for key in (*self.subject, *old) if old.get(key) != self.subject.get(key)]
        if changed:
            raise ArtifactError(
                f"the run in {str(self.folder)!r} is about something else: "
                f"{', '.join(dict.fromkeys(changed))} changed",
                fix="choose another folder, or remove this one to begin anew",
            )

    def _read(self, name: str) -> dict[str, Plain]:
        where = f"{str(self.folder / name)!r}"
        data = read_regular(self.folder / name, LIMIT_BYTES)
        document = parse(data, where, _FIX)
        if document.get("format") != _MARK or document.get("format_version") != _FORMAT:
            raise ArtifactError(f"{where} was not written by QPC {VERSION}", fix=_FIX)
        check_seal(document, data, where, _FIX)
        return document

    def _write(self, name: str, content: Mapping[str, Plain]) -> None:
        data = seal({"format": _MARK, "format_version": _FORMAT, **content})
        try:
            replace_file(self.folder / name, data)
        except OSError as e:
            raise ArtifactError(
                f"cannot write to {str(self.folder)!r}: {e.strerror or e}",
                fix="make room, and run the same again: it goes on from there",
            ) from e


def _file_name(job: str) -> str:
    return f"{hashlib.sha256(job.encode()).hexdigest()[:32]}.json"
