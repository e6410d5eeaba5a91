"""Damaged and exchanged entries of the cache: `python -m tests.robustness.cache_entries`.

Whatever becomes of the files, the cache gives what was put in or nothing, and a compilation gives
the library that it gives without a cache.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import os
import random
import signal
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from qpc.backends.options import Cache
from qpc.backends.tvm.codegen import cache as module
from qpc.backends.tvm.codegen.cache import KernelCache

if TYPE_CHECKING:
    from torch.fx import GraphModule

_SECONDS = 10  # after which something hangs
_NOBODY = 65534

Damage = Callable[[random.Random, Path, list[Path]], None]


# --- what may happen to an entry ------------------------------------------------------------------


def _flip(rng: random.Random, entry: Path, others: list[Path]) -> None:
    data = bytearray(entry.read_bytes())
    for _ in range(rng.choice([1, 1, 2, 100])):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    entry.write_bytes(data)


def _cut(rng: random.Random, entry: Path, others: list[Path]) -> None:
    os.truncate(entry, rng.choice([0, 1, 31, 32, 33, rng.randrange(entry.stat().st_size)]))


def _grow(rng: random.Random, entry: Path, others: list[Path]) -> None:
    with entry.open("ab") as file:
        file.write(rng.randbytes(rng.choice([1, 32, 5000])))


def _zeros(rng: random.Random, entry: Path, others: list[Path]) -> None:
    data = bytearray(entry.read_bytes())
    start = rng.randrange(len(data))
    size = len(data[start : start + 4096])
    data[start : start + size] = bytes(size)
    entry.write_bytes(data)


def _noise(rng: random.Random, entry: Path, others: list[Path]) -> None:
    entry.write_bytes(rng.randbytes(rng.choice([1, 40, 10_000])))


def _other(rng: random.Random, entry: Path, others: list[Path]) -> None:
    entry.write_bytes(rng.choice(others).read_bytes())


def _exchange(rng: random.Random, entry: Path, others: list[Path]) -> None:
    other = rng.choice(others)
    a, b = entry.read_bytes(), other.read_bytes()
    entry.write_bytes(b)
    other.write_bytes(a)


def _old_seal(rng: random.Random, entry: Path, others: list[Path]) -> None:
    """An entry that is sealed without its key, as an earlier version did."""
    data = rng.choice(others).read_bytes()[32:]
    entry.write_bytes(hashlib.sha256(data).digest() + data)


def _gone(rng: random.Random, entry: Path, others: list[Path]) -> None:
    entry.unlink()


def _huge(rng: random.Random, entry: Path, others: list[Path]) -> None:
    os.truncate(entry, 2**33)  # with a hole


def _instead(make: Callable[[Path], None]) -> Damage:
    def damage(rng: random.Random, entry: Path, others: list[Path]) -> None:
        entry.unlink()
        make(entry)

    return damage


def _everyone(rng: random.Random, entry: Path, others: list[Path]) -> None:
    entry.chmod(rng.choice([0o620, 0o602, 0o666, 0o777]))


def _foreign(rng: random.Random, entry: Path, others: list[Path]) -> None:
    with contextlib.suppress(PermissionError):  # only root can
        os.chown(entry, _NOBODY, -1)


DAMAGES: dict[str, Damage] = {
    "flip": _flip,
    "cut": _cut,
    "grow": _grow,
    "zeros": _zeros,
    "noise": _noise,
    "other": _other,
    "exchange": _exchange,
    "old seal": _old_seal,
    "gone": _gone,
    "huge": _huge,
    "folder": _instead(lambda entry: entry.mkdir()),
    "pipe": _instead(lambda entry: os.mkfifo(entry)),
    "endless": _instead(lambda entry: entry.symlink_to("/dev/zero")),
    "circle": _instead(lambda entry: entry.symlink_to(entry.name)),
    "dangling": _instead(lambda entry: entry.symlink_to("nowhere")),
    "everyone": _everyone,
    "foreign": _foreign,
}


def damage(rng: random.Random, folder: Path) -> str:
    """Damage an entry or several, and say how."""
    entries = sorted(folder.glob("*.o"))
    done = []
    for entry in rng.sample(entries, rng.choice([1, 1, 1, 2, len(entries)])):
        if entry.is_symlink() or not entry.is_file():
            continue
        others = [e for e in entries if e != entry and e.is_file() and not e.is_symlink()]
        name = rng.choice(list(DAMAGES))
        if others and entry.stat().st_size and all(e.stat().st_size < 2**24 for e in others):
            DAMAGES[name](rng, entry, others)
            done.append(name)
    return ", ".join(done)


# --- what must hold -------------------------------------------------------------------------------


@contextlib.contextmanager
def _try(what: str) -> Iterator[None]:
    """Warnings that the cache may give are none; what hangs is ended."""

    def hangs(*_: object) -> None:
        raise TimeoutError(f"hangs: {what}")

    before = signal.signal(signal.SIGALRM, hangs)
    signal.alarm(_SECONDS)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            for allowed in ("what is kept in", "kernels are not kept"):
                warnings.filterwarnings("ignore", message=allowed)
            module._told.clear()
            yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def check_entries(seed: int) -> None:
    """A cache gives what was put in, or nothing, and keeps working."""
    rng = random.Random(seed)
    wanted = {
        rng.randbytes(32).hex(): rng.randbytes(rng.choice([0, 8, 3000, 20_000])) for _ in range(6)
    }
    with tempfile.TemporaryDirectory(prefix="qpc-fuzz-") as name:
        cache = KernelCache(Path(name))
        for key, data in wanted.items():
            cache.put(key, data)
        done = damage(rng, Path(name))
        with _try(f"seed {seed}: {done}"):
            again = KernelCache(Path(name), limit_bytes=rng.choice([0, 20_000, 2**28]))
            for key, data in wanted.items():
                assert again.get(key) in (data, None), f"seed {seed}: {done}: {key} is another"
                again.put(key, data)
                assert again.get(key) in (data, None), f"seed {seed}: {done}: {key} is another"
            again.trim()
            for key, data in wanted.items():
                assert again.get(key) in (data, None), f"seed {seed}: {done}: {key} is another"


class Compilations:
    """Compilations of one model, each with a damaged cache."""

    def __init__(self, gm: GraphModule) -> None:
        from qpc.backends.tvm import compile_graph

        def library(cache: Cache) -> bytes:
            return compile_graph(gm, cache=cache)._parts.code.library

        self._library = library
        self._expected = library(False)

    def check(self, seed: int) -> None:
        """The library is what it is without a cache."""
        rng = random.Random(seed)
        with tempfile.TemporaryDirectory(prefix="qpc-fuzz-") as name:
            self._library(name)
            done = damage(rng, Path(name, "kernels"))
            for time_of in ("first", "second"):
                with _try(f"seed {seed}: {done}"):
                    found = self._library(name)
                assert found == self._expected, f"seed {seed}: {done}: the {time_of} time"


def small_model() -> GraphModule:
    """A model of a few kernels."""
    import torch
    from torch import nn

    from tests.quantizing import Parts, fake_quantized, integer

    torch.manual_seed(0)
    model = Parts(lambda m, x: m.b(m.a(x).relu()), a=nn.Linear(8, 16), b=nn.Linear(16, 4))
    return integer(fake_quantized(model, torch.randn(4, 8)))


def main() -> int:
    """Run a campaign; a failure prints the command that repeats it."""
    parser = argparse.ArgumentParser(prog="python -m tests.robustness.cache_entries")
    parser.add_argument("--tries", type=int, default=1000, help="of the cache alone")
    parser.add_argument("--compilations", type=int, default=0, help="of a small model")
    parser.add_argument("--seed", type=int, default=0, help="that of the first one")
    given = parser.parse_args()
    start, failed = time.monotonic(), 0
    checks = [(check_entries, given.tries, "--tries 1")]
    if given.compilations:
        checks.append((Compilations(small_model()).check, given.compilations, "--compilations 1"))
    for check, count, option in checks:
        for seed in range(given.seed, given.seed + count):
            try:
                check(seed)
            except Exception as error:
                failed += 1
                rest = "" if check is check_entries else " --tries 0"
                print(f"{type(error).__name__}: {error}")
                print(f"again: {parser.prog} --seed {seed} {option}{rest}", flush=True)
    seconds = time.monotonic() - start
    print(
        f"{given.tries} caches, {given.compilations} compilations: {failed} faults, {seconds:.0f} s"
    )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
