"""A CPU family as data, checked; those that are known by name; the best one for this machine."""

from __future__ import annotations

import platform
import re
from collections.abc import Mapping, Set
from dataclasses import dataclass

from qpc.errors import UnsupportedTargetError
from qpc.targets.aarch64 import AARCH64
from qpc.targets.armv7 import ARMV7
from qpc.targets.cortex_m import CORTEX_M
from qpc.targets.costs import Costs
from qpc.targets.data import C_SOURCE, LINUX, Architecture, Board, TargetData
from qpc.targets.names import refuse
from qpc.targets.riscv64 import RISCV64
from qpc.targets.x86_64 import X86_64

ARCHITECTURES: Mapping[str, Architecture] = {
    known.name: known for known in (CORTEX_M, ARMV7, AARCH64, RISCV64, X86_64)
}


@dataclass(frozen=True)
class Target(TargetData):
    """A CPU family: what LLVM may use, and what the integer kernels are built from.

    `features` are LLVM feature names that the CPU must have. `tuning` are LLVM attributes that
    change the code but need nothing of the CPU. `vector_lanes` is the number of int32 lanes of one
    vector register and `isa` names the micro-kernel that multiplies and sums. `activation` is the
    type of quantized activations, "uint8" or "int8", which differ by 128 and stand for the same
    reals: compilation rewrites graphs that are quantized to the other type.

    `cpu` is LLVM's name of a CPU, by default of the one that has nothing but what every CPU of the
    architecture has; `abi` LLVM's name of a calling convention, where there is a choice.
    `object_format` is what compiled code is linked as, or "c" for source in C, and `libraries` are
    those of the system that it may need. `counter` is the LLVM intrinsic that reads a counter of
    time, for profiles. `costs` are what instructions and memory cost, by which code is chosen;
    saved models do without them.

    `board` is the memory around the CPU, which an exported library must fit. `c_flags` are what GCC
    is told to make programs for it, and `emulated` is QEMU's name of a CPU that can run them,
    or of a board where there is no operating system.

    Raises UnsupportedTargetError for values that no target can have. Whether the micro-kernel can
    do with these features is checked by the compiler.
    """

    def __post_init__(self) -> None:
        _check_own_name(self.name)
        _check_strings("features", self.features, _FEATURE, 'names without a sign, such as "avx2"')
        _check_strings("libraries", self.libraries, _LIBRARY, 'file names, such as "libm.so.6"')
        if type(self.vector_lanes) is not int or self.vector_lanes not in _LANES:
            raise UnsupportedTargetError(
                f"vector_lanes of a target must be one of {', '.join(map(str, _LANES))}, "
                f"got {self.vector_lanes!r}"
            )
        _check_strings("c_flags", self.c_flags, _FLAG, 'options, such as "-mcpu=cortex-m4"')
        _check_name("isa", self.isa, "a name")
        _check_choice("activation", self.activation, _ACTIVATIONS)
        _check_choice("object_format", self.object_format, _FORMATS)
        for field in ("cpu", "abi", "counter", "emulated"):
            if (value := getattr(self, field)) is not None:
                _check_name(field, value, "a name or None")
        if not isinstance(self.costs, Costs):
            raise UnsupportedTargetError(
                f"costs of a target must be Costs, got {self.costs!r}",
                fix="costs=qpc.targets.costs.Costs(...)",
            )
        if not isinstance(self.board, Board):
            raise UnsupportedTargetError(
                f"board of a target must be a Board, got {self.board!r}",
                fix="board=qpc.targets.data.Board(flash=..., ram=...)",
            )
        _check_triple(self.triple)
        change = self.architecture.instructions
        attribute = re.compile(rf"[+-](?!{change.pattern})[a-z0-9][a-z0-9_.-]*")
        tuning = 'names with + or - that need nothing of the CPU, such as "-prefer-256-bit"'
        _check_strings("tuning", self.tuning, attribute, tuning)

    @classmethod
    def native(cls) -> Target:
        """The best target for this machine, from the feature flags the operating system reports.

        A CPU's name says little: a virtual machine may hide features that the model has.
        """
        here = _architecture_here()
        if here and platform.system() == LINUX and here.host.available(set()) is None:
            raise UnsupportedTargetError(
                f"cannot see what this CPU can do: {here.host.source} cannot be read",
                fix=f"mount /proc, or choose a target: {here.targets[0].name!r} runs on every one",
            )
        runnable = [target for target in TARGETS if target.runs_here() is None]
        if not runnable:
            raise UnsupportedTargetError(
                f"no target for this machine, a {platform.machine()!r} with {platform.system()}",
                fix="compile for another machine with target=..., or run the graph in PyTorch "
                "with target='reference'",
            )
        return runnable[-1]

    @classmethod
    def parse(cls, name: str) -> Target:
        """The target called `name`, or the one for this machine if `name` is "native".

        A name that ends in ".yaml" or ".yml" is the path of a file that describes a target; see
        `qpc.targets.own.read_target`. Installed packages may bring targets, too; see
        `qpc.targets.installed`.

        Raises UnsupportedTargetError for an unknown name, with the nearest one.
        """
        if name == "native":
            return cls.native()
        if not isinstance(name, str):
            raise UnsupportedTargetError(
                f"a target is a name or a qpc.Target, got {type(name).__name__}"
            )
        if name.endswith((".yaml", ".yml")):
            from qpc.targets.own import read_target

            return read_target(name)
        by_name = {target.name: target for target in (*TARGETS, *PRESETS)}
        if name in by_name:
            return by_name[name]
        from qpc.targets.installed import PLUGINS, find_installed

        return find_installed(name) or refuse(name, [*by_name, *PLUGINS.names()])

    @property
    def architecture(self) -> Architecture:
        """What it has in common with others."""
        return next(known for known in ARCHITECTURES.values() if known.knows(self.triple))

    @property
    def gains_by_safe_pairs(self) -> bool:
        """Whether layers are faster whose pairs of weights fit 16 bits, see `qpc.quant.pairs`."""
        return self.isa in self.architecture.saturating

    @property
    def llvm_cpu(self) -> str:
        """LLVM's name of the CPU."""
        return self.cpu or self.architecture.cpu

    @property
    def mattr(self) -> tuple[str, ...]:
        """Features and tuning in LLVM's notation, `+name` or `-name`."""
        return (*(f"+{feature}" for feature in self.features), *self.tuning)

    def runs_here(self) -> str | None:
        """None if this machine can run code for the target, else the reason why not."""
        needed = self.architecture
        if platform.system() != needed.system:
            return f"code is for {needed.system}, this machine runs {platform.system()}"
        if platform.machine() not in (needed.name, *needed.machines):
            return f"code is for {needed.name}, this machine is {platform.machine()}"
        features = set(self.features)
        available = needed.host.available(features)
        if features and available is None:
            return f"{needed.host.source}, which says what the CPU can do, cannot be read"
        if missing := sorted(features - (available or set())):
            return f"this CPU lacks {', '.join(missing)}"
        refusals = (p.refusal() for p in needed.permissions if p.feature in features)
        return next(filter(None, refusals), None)


def cpu_features(candidates: tuple[str, ...]) -> Set[str]:
    """Those of the LLVM features `candidates` that every core of this machine has."""
    here = _architecture_here()
    return (here.host.available(set(candidates)) if here else None) or set()


def _architecture_here() -> Architecture | None:
    machine = platform.machine()
    known = ARCHITECTURES.values()
    return next((each for each in known if machine in (each.name, *each.machines)), None)


# --- mistakes -------------------------------------------------------------------------------------

_LANES = (1, 2, 4, 8, 16)
_ACTIVATIONS = ("uint8", "int8")
_FORMATS = ("elf", C_SOURCE)
_FEATURE = re.compile(r"[a-z0-9][a-z0-9_.-]*")
_LIBRARY = re.compile(r"[A-Za-z0-9_+.-]+")
_FLAG = re.compile(r"-[A-Za-z0-9_+.,=-]+")


def _check_own_name(name: object) -> None:
    if not isinstance(name, str) or not name:
        raise UnsupportedTargetError(f"a target needs a name, got {name!r}")


def _check_name(field: str, value: object, kind: str) -> None:
    if not isinstance(value, str):
        raise UnsupportedTargetError(f"{field} of a target must be {kind}, got {value!r}")


def _check_choice(field: str, value: object, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise UnsupportedTargetError(
            f"{field} of a target must be one of {', '.join(choices)}, got {value!r}"
        )


def _check_strings(field: str, values: object, allowed: re.Pattern[str], are: str) -> None:
    """Raise unless `values` is a tuple of strings of that form."""
    right = isinstance(values, tuple) and all(
        isinstance(value, str) and allowed.fullmatch(value) for value in values
    )
    if not right:
        raise UnsupportedTargetError(
            f"{field} of a target must be a tuple of {are}, got {values!r}"
        )


def _check_triple(triple: object) -> None:
    known = ARCHITECTURES.values()
    if not isinstance(triple, str) or not any(each.knows(triple) for each in known):
        kinds = ", ".join(f"{each.triple.split('-', 1)[0]} with {each.system}" for each in known)
        raise UnsupportedTargetError(
            f"no code for {triple!r}: a target is one of {kinds}",
            fix=f'triple="{X86_64.triple}"',
        )


TARGETS: tuple[Target, ...] = tuple(
    Target(**vars(data)) for known in ARCHITECTURES.values() for data in known.targets
)
"""Within one architecture, a later target needs more of the CPU and is faster."""

PRESETS: tuple[Target, ...] = tuple(
    Target(**vars(data)) for known in ARCHITECTURES.values() for data in known.presets
)
"""CPUs and boards by their own names: one of the families, and what is known about the rest."""
