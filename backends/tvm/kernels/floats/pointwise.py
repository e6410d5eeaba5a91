"""Functions of one float32, over whole tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache

from tvm.tirx import Expr, PrimFunc
from tvm.tirx.script import builder as T

from qpc.backends.tvm.kernels.emit import Flat, Index, bind, loop, prim_func, tasks
from qpc.backends.tvm.kernels.floats.functions import MOST_ANGLE, Functions
from qpc.backends.tvm.kernels.floats.product import worthwhile
from qpc.backends.tvm.kernels.isa.base import Isa, intrinsic
from qpc.backends.tvm.kernels.kernel import Kernel, TensorType, kernel_name

_WORK = 24  # instructions for a vector
_CHUNK = 16  # vectors of a task
_OF_ANGLES: Mapping[str, Callable[[Expr], Expr]] = {"sin": T.sin, "cos": T.cos}
"""Functions of angles up to `MOST_ANGLE`, and those of the library of C for all others."""


@dataclass(frozen=True)
class PointwiseDesc:
    """A method of `Functions` by its name, for every element; numbers: its other arguments."""

    function: str
    size: int
    numbers: tuple[float, ...] = ()


def pointwise(isa: Isa, desc: PointwiseDesc, threads: int = 1) -> Kernel:
    """The kernel of a function of one float."""
    name, func = _function(isa, desc, worthwhile(isa, threads, desc.size * _WORK))
    kind = TensorType((desc.size,), "float32")
    return Kernel(name, func, (kind,), (), kind)


@cache
def _function(isa: Isa, desc: PointwiseDesc, threads: int) -> tuple[str, PrimFunc]:
    def computed(value: Expr, lanes: int) -> Expr:
        made: Expr = getattr(Functions(lanes), desc.function)(value, *desc.numbers)
        return made

    def body(x: Flat, out: Flat) -> None:
        def write(at: Index, lanes: int) -> None:
            value = bind(x.load(at, lanes))
            if desc.function not in _OF_ANGLES:
                out.store(at, computed(value, lanes), lanes)
                return
            beyond = Functions(lanes).is_beyond(value, MOST_ANGLE)
            if lanes > 1:
                beyond = intrinsic("llvm.vector.reduce.or", "bool", beyond)
            with T.If(beyond):
                with T.Then(), loop(lanes) as lane:
                    one = bind(x.load(at + lane))
                    with T.If(Functions(1).is_beyond(one, MOST_ANGLE)):
                        with T.Then():
                            out.store(at + lane, _OF_ANGLES[desc.function](one))
                        with T.Else():
                            out.store(at + lane, computed(one, 1))
                with T.Else():
                    out.store(at, computed(value, lanes), lanes)

        whole, rest = divmod(desc.size, isa.lanes)
        if whole:
            with tasks(whole, min(threads, whole // _CHUNK or 1)) as (_, vector):
                write(bind(vector * isa.lanes), isa.lanes)
        for at in range(desc.size - rest, desc.size):
            write(at, 1)

    kind = TensorType((desc.size,), "float32")
    name = kernel_name(f"float_{desc.function}", isa, desc, threads)
    return name, prim_func(name, (kind, kind), body)
