"""Which instructions to use for a target."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from qpc.backends.tvm.kernels.amx import Amx
from qpc.backends.tvm.kernels.instructions import Isa, intrinsic
from qpc.backends.tvm.kernels.matrix_tiles import MatrixTiles, TileShape
from qpc.backends.tvm.kernels.x86 import DotProducts, MultiplyAdd
from qpc.target import Target

__all__ = ["Isa", "intrinsic", "isa_for"]

_VECTORS_PER_STORE = 4  # their bytes fill one vector


def isa_for(target: Target) -> Isa:
    """The instructions to use for a target."""
    return _ISAS[target.isa](target)


def _generic(target: Target) -> Isa:
    return Isa(target.isa, target.vector_lanes, registers=12)


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


def _matrices(target: Target) -> Isa:
    return replace(_dot_products(target), tiles=Amx())


def _plain_matrices(target: Target) -> Isa:
    """What shows on any machine that the kernels with registers of matrices are right."""
    return Isa(target.isa, TileShape.LANES, registers=12, tiles=MatrixTiles())


def _registers(target: Target) -> int:
    return 32 if "avx512vl" in target.features else 16


_ISAS: dict[str, Callable[[Target], Isa]] = {
    "generic": _generic,
    "sse4.1": _multiply_add,
    "avx2": _multiply_add,
    "avx512": _multiply_add,
    "avx-vnni": _dot_products,
    "avx512-vnni": _dot_products,
    "amx": _matrices,
    "plain-matrices": _plain_matrices,
}
