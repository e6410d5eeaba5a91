"""Documents that somebody changed and sealed again, so that only their meaning is wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from qpc import documents

Edit = Callable[[dict[str, Any]], object]


def forge(path: Path, edit: Edit) -> None:
    """Edit the document at `path` and seal it."""
    document = json.loads(path.read_bytes())
    edit(document)
    document.pop("sha256", None)
    path.write_bytes(documents.seal(document))


def forged(content: dict[str, bytes], name: str, edit: Edit) -> dict[str, bytes]:
    """The same for files that are not on disk; hashes of the other files are brought up to date."""
    document = json.loads(content[name])
    others = {key: data for key, data in content.items() if key != name}
    document["files"] = documents.described(others)
    edit(document)
    document.pop("sha256", None)
    return {name: documents.seal(document), **others}
