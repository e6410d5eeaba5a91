"""Which instructions to use for a target."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from qpc.backends.tvm.kernels.isa.amx import Amx
from qpc.backends.tvm.kernels.isa.armv7 import ByteProducts32
from qpc.backends.tvm.kernels.isa.base import Isa, intrinsic
from qpc.backends.tvm.kernels.isa.dsp import Dsp
from qpc.backends.tvm.kernels.isa.matrices import WIDE, MatrixTiles
from qpc.backends.tvm.kernels.isa.mve import Mve
from qpc.backends.tvm.kernels.isa.neon import ByteProducts, Neon, SignedDots, SignedMatrices
from qpc.backends.tvm.kernels.isa.soft import SoftFloat
from qpc.backends.tvm.kernels.isa.x86 import DotProducts, MultiplyAdd
from qpc.errors import UnsupportedTargetError
from qpc.targets import Target

__all__ = ["Isa", "intrinsic", "isa_for"]

_VECTORS_PER_STORE = 4  # their bytes fill one vector


def isa_for(target: Target) -> Isa:
    """The instructions to use for a target.

    Raises UnsupportedTargetError if there are none of that name, or the target's vectors or
    features do not fit them: LLVM would end the process.
    """
    kind = _ISAS.get(target.isa)
    if kind is None:
        raise UnsupportedTargetError(
            f"unknown isa {target.isa!r} of target {target.name!r}",
            fix=f"use one of: {', '.join(_ISAS)}",
        )
    if kind.lanes and target.vector_lanes != kind.lanes:
        raise UnsupportedTargetError(
            f"isa {target.isa!r} works on vectors of {kind.lanes} lanes, target {target.name!r} "
            f"has vector_lanes={target.vector_lanes}",
        )
    if kind.architecture not in (None, target.architecture.name):
        raise UnsupportedTargetError(
            f"isa {target.isa!r} is for {kind.architecture}, target {target.name!r} is for "
            f"{target.architecture.name}",
            fix="isa='generic', which is for all of them",
        )
    if kind.needs and not any(set(target.features) >= choice for choice in kind.needs):
        choices = " or ".join(", ".join(sorted(choice)) for choice in kind.needs)
        raise UnsupportedTargetError(
            f"isa {target.isa!r} needs the features {choices}, which target {target.name!r} lacks"
        )
    if target.activation not in kind.activations:
        raise UnsupportedTargetError(
            f"isa {target.isa!r} multiplies {' or '.join(kind.activations)} by int8, target "
            f"{target.name!r} has activation={target.activation!r}",
            fix=f"activation={kind.activations[0]!r}, or isa='generic', which takes both",
        )
    return replace(kind.make(target), costs=target.costs)


@dataclass(frozen=True)
class _Kind:
    """How to make an `Isa`, and what a target must have for it.

    lanes: of its vectors; None if all do. needs: sets of features, one of which it must have.
    activations: the types of activations that it multiplies. architecture: that whose intrinsics
    it is made of, if its features are not those of that one alone.
    """

    make: Callable[[Target], Isa]
    lanes: int | None = None
    needs: tuple[frozenset[str], ...] = ()
    activations: tuple[str, ...] = ("uint8",)
    architecture: str | None = None


def _generic(target: Target) -> Isa:
    return Isa(target.isa, target.vector_lanes, registers=12, activation=target.activation)


def _soft_float(target: Target) -> Isa:
    return SoftFloat(target.isa, target.vector_lanes, registers=12, activation=target.activation)


def _dsp(target: Target) -> Isa:
    # Of 13 registers that can be used, addresses take some.
    return Dsp(target.isa, target.vector_lanes, registers=10, activation=target.activation)


def _mve(target: Target) -> Isa:
    return Mve(target.isa, target.vector_lanes, registers=8, activation=target.activation)


def _multiply_add(target: Target) -> Isa:
    # One register holds a product before it is added.
    return MultiplyAdd(
        target.isa,
        target.vector_lanes,
        registers=_registers(target) - 1,
        # SSE broadcasts by a shuffle after the load, which takes turns with the products.
        broadcast_cost=1 if "avx2" in target.features else 1.5,
        vectors_per_store=_VECTORS_PER_STORE,
    )


def _dot_products(target: Target) -> Isa:
    has_permute = "avx512vbmi" in target.features and target.vector_lanes == 16
    return DotProducts(
        target.isa,
        target.vector_lanes,
        registers=_registers(target) - 1,
        vectors_per_store=_VECTORS_PER_STORE,
        permute_bytes="llvm.x86.avx512.vpermi2var.qi.512" if has_permute else None,
    )


def _neon_kind(
    kind: Callable[..., Neon], *features: str, registers: int = 32, architecture: str = "aarch64"
) -> _Kind:
    def make(target: Target) -> Isa:
        return kind(
            target.isa,
            target.vector_lanes,
            registers=registers,
            vectors_per_store=_VECTORS_PER_STORE,
            activation="int8",
        )

    return _Kind(make, 4, (frozenset({"neon", *features}),), ("int8",), architecture)


def _matrices(target: Target) -> Isa:
    return replace(_dot_products(target), tiles=Amx())


def _plain_matrices(target: Target) -> Isa:
    """What shows on any machine that the kernels with registers of matrices are right."""
    return Isa(
        target.isa,
        WIDE.lanes,
        registers=12,
        activation=target.activation,
        tiles=MatrixTiles(),
    )


def _registers(target: Target) -> int:
    return 32 if "avx512vl" in target.features else 16


_WIDE = frozenset({"avx512bw", "avx512vl"})
_WIDE_DOTS = _WIDE | {"avx512vnni"}
_BOTH = ("uint8", "int8")
_ISAS: dict[str, _Kind] = {
    "generic": _Kind(_generic, activations=_BOTH),
    "soft-float": _Kind(_soft_float, 1, activations=_BOTH),
    "dsp": _Kind(_dsp, 1, (frozenset({"dsp"}),), _BOTH),
    "mve": _Kind(_mve, 1, (frozenset({"mve.fp"}),), ("int8",)),
    "sse4.1": _Kind(_multiply_add, 4, (frozenset({"sse4.1"}),)),
    "avx2": _Kind(_multiply_add, 8, (frozenset({"avx2"}),)),
    "avx512": _Kind(_multiply_add, 16, (_WIDE,)),
    "avx-vnni": _Kind(_dot_products, 8, (frozenset({"avxvnni"}), _WIDE_DOTS)),
    "avx512-vnni": _Kind(_dot_products, 16, (_WIDE_DOTS,)),
    "amx": _Kind(_matrices, 16, (_WIDE_DOTS | {"amx-tile", "amx-int8"},)),
    "neon": _neon_kind(ByteProducts),
    "neon-dot": _neon_kind(SignedDots, "dotprod"),
    "neon-i8mm": _neon_kind(SignedMatrices, "dotprod", "i8mm"),
    "neon32": _neon_kind(ByteProducts32, registers=16, architecture="armv7l"),
    "plain-matrices": _Kind(_plain_matrices, WIDE.lanes, activations=_BOTH),
}
