"""Random integer graphs as programs for other machines, run in QEMU: every byte is compared.

    python -m tests.robustness.foreign_graphs --form sdot m4 --count 300 --seed 0

Several graphs share a program. If that goes wrong, each of them gets one of its own, so that a
fault has a seed: it is printed with the command that repeats it. Exits with 1 if there was one.
"""

from __future__ import annotations

import argparse
import contextlib
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from tests.emulation_batch import Form, assert_all_exact
from tests.generators import random_graph

_STRICT = "-O2 -Wconversion -Werror"
_SMALL = (f"arm-none-eabi-gcc {_STRICT}",)

FORMS: Mapping[str, Form] = {
    "plain": Form("cortex-a53"),
    "sdot": Form("cortex-a76"),
    "i8mm": Form("aarch64-i8mm"),
    "armv7": Form("armv7-a"),
    "riscv64": Form("riscv64"),
    "x86-64": Form("x86-64"),
    "c": Form("x86-64", "c", compilers=tuple(f"{n} {_STRICT} -pedantic" for n in ("gcc", "clang"))),
    "m0plus": Form("cortex-m0plus", "c", compilers=_SMALL),
    "m3": Form("cortex-m3", "c", compilers=_SMALL),
    "m4": Form("cortex-m4", "c", compilers=_SMALL),
    "m55": Form("cortex-m55", "c", compilers=_SMALL),
}
"""Every set of instructions that there is code for, and every way to it."""

_NO_ROOM = "will not fit in region"
"""What the linker says of a program that is too large for the emulated board: no fault."""
_TOGETHER = 10  # graphs in a program: more have no room in the memory of the smallest board


def check(form: Form, seeds: Sequence[int]) -> Iterator[tuple[int, str | None]]:
    """Seeds in order, each with all that there is to say of a fault, or None if all is equal."""
    for first in range(0, len(seeds), _TOGETHER):
        some = seeds[first : first + _TOGETHER]
        alone = _fault(form, some) is not None
        for seed in some:
            yield seed, _fault(form, [seed]) if alone else None


def _fault(form: Form, seeds: Sequence[int]) -> str | None:
    with tempfile.TemporaryDirectory(prefix="qpc-foreign-") as folder:
        try:
            graphs = {seed: random_graph(seed) for seed in seeds}
            assert_all_exact(graphs, form, Path(folder))
        except Exception:
            return traceback.format_exc()
    return None


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.robustness.foreign_graphs")
    parser.add_argument("--form", nargs="+", default=[*FORMS], choices=FORMS)
    parser.add_argument("--count", type=int, default=100, help="how many graphs")
    parser.add_argument("--seed", type=int, default=0, help="that of the first one")
    given = parser.parse_args()
    seeds = range(given.seed, given.seed + given.count)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # what was found is said in any case
    faults = 0
    for name in given.form:
        start, wrong, large, tried = time.monotonic(), [], [], 0
        with contextlib.suppress(KeyboardInterrupt):
            for seed, fault in check(FORMS[name], seeds):
                tried += 1
                if fault is not None and _NO_ROOM in fault:
                    large.append(seed)
                elif fault is not None:
                    wrong.append(seed)
                    command = f"{parser.prog} --form {name} --count 1 --seed {seed}"
                    print(f"{name}: {fault}\nrepeat with: {command}\n{'=' * 80}", flush=True)
        spent = time.monotonic() - start
        equal = tried - len(wrong) - len(large)
        print(f"{name}: {equal} of {tried} graphs equal in {spent:.0f} s {wrong}", flush=True)
        if large:
            print(f"{name}: {len(large)} have no room on the board {large}", flush=True)
        faults += len(wrong)
        if tried < len(seeds):
            break
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
