"""Damage to files in a folder: what disks, transfers, editors and careless people do."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Sequence
from pathlib import Path

_LARGE = 2**24  # bytes; what was made so large already is left alone

Damage = Callable[[random.Random, Path, Path], None]
"""Damages a file, given another file of the same name in another version."""


def damage(rng: random.Random, folder: Path, others: Sequence[Path]) -> str:
    """Damage one file of a folder, sometimes two; returns what was done."""
    done = []
    for _ in range(rng.choice((1, 1, 1, 2))):
        file = folder / rng.choice(sorted(os.listdir(folder)))
        other = rng.choice(others) / file.name
        kind = rng.choice(_MANY if rng.random() < 0.8 else _SPECIAL)
        if file.is_file() and not file.is_symlink() and file.stat().st_size < _LARGE:
            kind(rng, file, other)
            done.append(f"{kind.__name__.strip('_')} {file.name}")
    return ", ".join(done)


def _flip_a_bit(rng: random.Random, file: Path, other: Path) -> None:
    data = bytearray(file.read_bytes())
    if data:
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    file.write_bytes(data)


def _change_bytes(rng: random.Random, file: Path, other: Path) -> None:
    data = bytearray(file.read_bytes())
    at, count = rng.randrange(len(data) + 1), rng.randrange(1, 40)
    data[at : at + count] = rng.randbytes(rng.choice((0, count, 2 * count)))
    file.write_bytes(data)


def _truncate(rng: random.Random, file: Path, other: Path) -> None:
    os.truncate(file, rng.randrange(file.stat().st_size + 1))


def _extend(rng: random.Random, file: Path, other: Path) -> None:
    with file.open("ab") as open_file:
        open_file.write(rng.choice((b"\n", b"\0" * 4096, rng.randbytes(rng.randrange(1, 99)))))


def _splice(rng: random.Random, file: Path, other: Path) -> None:
    mine, theirs = file.read_bytes(), other.read_bytes()
    at = rng.randrange(min(len(mine), len(theirs)) + 1)
    file.write_bytes(mine[:at] + theirs[at:])


def _swap(rng: random.Random, file: Path, other: Path) -> None:
    file.write_bytes(other.read_bytes())


def _edit_text(rng: random.Random, file: Path, other: Path) -> None:
    data = file.read_bytes()
    old, new = rng.choice(
        ((b" ", b""), (b"1", b"2"), (b"\n", b"\r\n"), (b"true", b"false"), (b"0", b"00"))
    )
    parts = data.split(old)
    if len(parts) > 1:
        at = rng.randrange(1, len(parts))
        data = old.join(parts[:at]) + new + old.join(parts[at:])
    file.write_bytes(data)


def _remove(rng: random.Random, file: Path, other: Path) -> None:
    file.unlink()


def _empty(rng: random.Random, file: Path, other: Path) -> None:
    file.write_bytes(b"")


def _pipe(rng: random.Random, file: Path, other: Path) -> None:
    file.unlink()
    os.mkfifo(file)


def _device(rng: random.Random, file: Path, other: Path) -> None:
    file.unlink()
    file.symlink_to(rng.choice(("/dev/zero", "/dev/urandom", "/dev/null", "/dev/stdin")))


def _folder(rng: random.Random, file: Path, other: Path) -> None:
    file.unlink()
    file.mkdir()


def _link(rng: random.Random, file: Path, other: Path) -> None:
    file.unlink()
    file.symlink_to(rng.choice((file.name, "none", "/proc/self/mem", "/proc/kmsg", ".")))


def _sparse(rng: random.Random, file: Path, other: Path) -> None:
    os.truncate(file, rng.choice((2**31, 2**33, 2**40)))


_MANY: tuple[Damage, ...] = (
    _flip_a_bit,
    _flip_a_bit,
    _flip_a_bit,
    _change_bytes,
    _truncate,
    _extend,
    _splice,
    _swap,
    _edit_text,
)
_SPECIAL: tuple[Damage, ...] = (_remove, _empty, _pipe, _device, _folder, _link, _sparse)
