"""Saved graphs and compiled models, damaged and forged, many of them:

    python -m tests.robustness.artifacts --kind graph --tries 1000 --seed 0

Each try breaks a folder and loads it. Damage must be an error, whatever it is. What was forged,
with all hashes recomputed, may load if it has a meaning. Nothing may run code or write files, raise
anything but an ArtifactError with a fix, die, hang for ten seconds or take a gigabyte. Tries run in
child processes, many in each: one that dies or hangs is a fault of that seed, and the rest go on.
Prints every fault with the command that repeats it. Exits with 1 if there was one.
"""

from __future__ import annotations

import argparse
import os
import select
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PATIENCE_S = 10.0
"""A try may compute as long, or wait for anything for _WAIT_S."""
_WAIT_S = 120.0
_START_S = 900.0  # for imports, on a machine that has other things to do
_BATCH = 2000  # tries in one child
KINDS = ("graph", "model", "runtime", "onnx", "encodings")
"""Saved graphs, compiled models, these as `qpc.runtime` loads them, and what others have written.

The last two bear no hashes: what is damaged may load. All that goes wrong is one QPCError.
"""


@dataclass(frozen=True)
class Try:
    """One broken folder and what came of it: "error", "loaded" or a fault."""

    kind: str
    seed: int
    outcome: str
    what: str

    @property
    def fault(self) -> bool:
        """Whether this must not be."""
        return self.outcome not in ("error", "loaded")

    def __str__(self) -> str:
        command = f"python -m tests.robustness.artifacts --kind {self.kind} --tries 1"
        return f"{self.outcome}: {self.what}\n  repeat with: {command} --seed {self.seed}"


def tries(kind: str, seeds: range, bases: Path) -> Iterator[Try]:
    """Break copies of the folders in `bases`, one for each seed."""
    first = seeds.start
    while first < seeds.stop:
        for outcome in _batch(kind, range(first, min(first + _BATCH, seeds.stop)), bases):
            yield outcome
            first = outcome.seed + 1


def _batch(kind: str, seeds: range, bases: Path) -> Iterator[Try]:
    """The tries of one child; it ends early if one of them ends it."""
    with tempfile.TemporaryDirectory(prefix="qpc-artifacts-") as empty:
        module = "tests.robustness.break_one"
        command = [
            sys.executable,
            "-m",
            module,
            kind,
            str(seeds.start),
            str(seeds.stop),
            str(bases),
        ]
        environment = dict(os.environ, PYTHONPATH=os.pathsep.join(map(os.path.abspath, sys.path)))
        child = subprocess.Popen(
            command, stdout=subprocess.PIPE, cwd=empty, env=environment, text=True, bufsize=1
        )
        with child:
            seed, patience = seeds.start, _START_S
            while seed < seeds.stop:
                line = _line(child, patience)
                patience = PATIENCE_S
                if line == "ready\n":
                    continue
                if not line:
                    child.kill()
                    reason = "hangs" if child.wait() == -9 else f"ends with {child.returncode}"
                    yield Try(kind, seed, reason, "the process that loaded it")
                    return
                outcome, _, what = line.rstrip("\n").partition("\t")
                yield Try(kind, seed, outcome, what)
                seed += 1
            child.wait()
        if left := os.listdir(empty):
            yield Try(kind, seeds.stop - 1, "wrote files", f"{left}, in one of the last tries")


def _line(child: subprocess.Popen[str], patience: float) -> str:
    """The next line that the child prints; empty if it ends or says nothing for too long."""
    assert child.stdout is not None
    until, computed = time.monotonic() + max(_WAIT_S, patience), _seconds(child)
    while time.monotonic() < until and _seconds(child) - computed < patience:
        ready, _, _ = select.select([child.stdout], [], [], 1.0)
        if ready:
            return child.stdout.readline()
    return ""


def _seconds(child: subprocess.Popen[str]) -> float:
    """How long a child has computed."""
    try:
        fields = Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main() -> int:
    """Run the command."""
    from tests.robustness.artifact_bases import write_bases

    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kind", choices=KINDS, required=True)
    parser.add_argument("--tries", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0, help="of the first try")
    options = parser.parse_args()
    counts: Counter[str] = Counter()
    with tempfile.TemporaryDirectory(prefix="qpc-bases-") as folder:
        write_bases(options.kind, Path(folder))
        seeds = range(options.seed, options.seed + options.tries)
        for found in tries(options.kind, seeds, Path(folder)):
            counts["fault" if found.fault else found.outcome] += 1
            if found.fault or options.tries == 1:
                print(found, flush=True)  # noqa: T201
    print(f"{options.kind}: " + ", ".join(f"{n} {what}" for what, n in counts.items()))  # noqa: T201
    return 1 if counts["fault"] else 0


if __name__ == "__main__":
    sys.exit(main())
