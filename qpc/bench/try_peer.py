"""Run a file once in another runtime.

    python -m qpc.bench.try_peer NAME FILE THREADS INPUTS

INPUTS: dtypes and shapes as JSON, such as `[["float32", [1, 3, 8, 8]]]`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

from qpc.bench.peers import PEERS


def main(name: str, file: str, threads: str, inputs: str) -> None:
    """Zeros go in; what comes out does not matter."""
    given = [np.zeros(shape, dtype) for dtype, shape in json.loads(inputs)]
    PEERS[name](Path(file).read_bytes(), given, int(threads)).run()


if __name__ == "__main__":
    main(*sys.argv[1:])
