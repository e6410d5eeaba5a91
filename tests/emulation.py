"""Exported libraries are built by cross compilers and run in QEMU: every byte is compared.

Tests that use it are skipped, with the reason, where the tools are missing; `.ci/run` installs
them. For another form of a library, give `assert_exact` what exports it.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from torch.fx import GraphModule

from qpc.backends.deploy.toolchain import compiler_for, emulator_for, is_native
from qpc.backends.deploy.verify import Verified, Where, verify
from qpc.deployment import export_library
from qpc.errors import BackendError
from qpc.targets import Target

ARCHITECTURES = ("aarch64", "armv7-a", "riscv64", "x86-64")
"""A target of each architecture whose programs can be run here."""

Export = Callable[[GraphModule, Target, Path], object]


def require_tools(target: Target | str, *, build_only: bool = False) -> None:
    """Skip the test unless programs for the target can be built and run here."""
    chosen = target if isinstance(target, Target) else Target.parse(target)
    try:
        compiler_for(chosen)
        if not build_only and (not is_native(chosen) or chosen.runs_here() is not None):
            emulator_for(chosen)
    except BackendError as e:
        pytest.skip(f"{e.what}: {e.fix}")


def require(*commands: str) -> None:
    """Skip the test unless these commands are there."""
    for command in commands:
        if shutil.which(command) is None:
            pytest.skip(f"{command} is not installed")


def assert_exact(
    gm: GraphModule,
    target: Target | str,
    folder: Path,
    *,
    cpus: Sequence[str] = (),
    export: Export | None = None,
    **options: Any,
) -> Path:
    """Export a graph and run it: on this machine if it is native, and on all emulated CPUs.

    All outputs must be exact ones. options: for `qpc.export_library`. Returns the folder.
    """
    chosen = target if isinstance(target, Target) else Target.parse(target)
    require_tools(chosen)
    out = folder / f"library-{chosen.name}"
    if export is None:
        export_library(gm, chosen, out, **{"name": "net", **options})
    else:
        export(gm, chosen, out)
    results = [run(out, cpu=cpu) for cpu in (None, *cpus)]
    for result in results:
        assert result.tolerances == (None,) * len(result.tolerances)
    return out


def run(folder: Path, *, cpu: str | None = None) -> Verified:
    """Replay the test vectors of a library; the error says what differs."""
    return verify(folder, Where(cpu=cpu, seconds=600))
