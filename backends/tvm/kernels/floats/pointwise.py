"""Functions of one float32, over whole tensors."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from tvm.tirx import Expr, PrimFunc

from qpc.backends.tvm.kernels.emit import Flat, Index, bind, prim_func, tasks
from qpc.backends.tvm.kernels.floats.functions import Functions
from qpc.backends.tvm.kernels.floats.product import worthwhile
from qpc.backends.tvm.kernels.isa.base import Isa
from qpc.backends.tvm.kernels.kernel import Kernel, TensorType, kernel_name

_WORK = 24  # instructions for a vector
_CHUNK = 16  # vectors of a task


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
    def body(x: Flat, out: Flat) -> None:
        def write(at: Index, lanes: int) -> None:
            function = getattr(Functions(lanes), desc.function)
            value: Expr = function(bind(x.load(at, lanes)), *desc.numbers)
            out.store(at, value, lanes)

        whole, rest = divmod(desc.size, isa.lanes)
        if whole:
            with tasks(whole, min(threads, whole // _CHUNK or 1)) as (_, vector):
                write(bind(vector * isa.lanes), isa.lanes)
        for at in range(desc.size - rest, desc.size):
            write(at, 1)

    kind = TensorType((desc.size,), "float32")
    name = kernel_name(f"float_{desc.function}", isa, desc, threads)
    return name, prim_func(name, (kind, kind), body)
