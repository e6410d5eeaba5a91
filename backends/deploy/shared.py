"""Shared libraries for Linux, made by QPC's own linker, or else by the system's."""

from __future__ import annotations

import tempfile
from pathlib import Path

from qpc.backends.deploy.deployable import Deployable
from qpc.backends.deploy.elf import Object, write
from qpc.backends.deploy.toolchain import build, compiler_for
from qpc.backends.tvm.codegen.elf import link_shared
from qpc.backends.tvm.codegen.machines import MACHINES
from qpc.errors import BackendError
from qpc.targets.data import LINUX


def shared_library(model: Deployable, made: Object, static: bytes) -> bytes | str:
    """The shared library of a merged object, or the reason why there is none.

    static: the static library with the same object.
    """
    target = model.target
    if target.architecture.system != LINUX:
        return f"{target.name} has no loader for one"
    if model.threads > 1:
        return f"{model.name}_parallel is in the program"
    name = f"lib{model.name}.so"
    machine = MACHINES.get(target.architecture.name)
    if machine is not None:
        return link_shared([write(made)], name, machine, target.libraries)
    try:
        compiler = compiler_for(target)
        with tempfile.TemporaryDirectory(prefix="qpc-link-") as folder:
            archive, goal = Path(folder, "all.a"), Path(folder, name)
            archive.write_bytes(static)
            whole = [f"-Wl,-soname,{name}", "-Wl,--whole-archive", str(archive)]
            build([], goal, [*compiler, "-shared"], [*whole, "-Wl,--no-whole-archive", "-lm"])
            return goal.read_bytes()
    except BackendError as e:
        return e.what
