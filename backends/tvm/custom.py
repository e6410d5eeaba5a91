"""Machine code for operators of other packages: what they register, and what is asked of them.

Nothing here imports TVM, so that a package can register its operators wherever it defines them. The
names are public as `qpc.backends.tvm.register_kernel` and so on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from qpc.backends.common.families import require_foreign
from qpc.backends.common.traits import MemoryOrder
from qpc.errors import BackendError

if TYPE_CHECKING:  # the package is imported to say what is wrong, before torch is
    import numpy as np
    import numpy.typing as npt
    from torch import Tensor
    from torch._ops import OpOverload
    from tvm.tirx import PrimFunc

    from qpc.types import TensorType


@dataclass(frozen=True)
class KernelRequest:
    """What a kernel is to be built for: one call of its operator, at one batch size.

    inputs: the tensors that the kernel reads, by the names of the operator's arguments and in their
    order, with the shapes that they have in memory. output: the tensor that it writes, likewise.
    arguments: the operator's other arguments by name: numbers, lists, and None for tensors that the
    call does without. constants: the parameters and buffers that were to be constants, as they are.
    threads: how many threads run a call of the model; a parallel loop of the kernel is shared among
    them. vector_bytes: how wide the vectors of the target CPU are.
    """

    inputs: Mapping[str, TensorType]
    output: TensorType
    arguments: Mapping[str, object]
    constants: Mapping[str, Tensor]
    threads: int
    vector_bytes: int


@dataclass(frozen=True, eq=False)
class CustomKernel:
    """A function in TVM's TIR, and the constant arrays that it reads.

    The buffers that `function` takes are the inputs of the request, then `params`, then the output.
    Layers whose functions are equal share machine code; only their `params` differ.
    """

    function: PrimFunc
    params: tuple[npt.NDArray[np.generic], ...] = ()


KernelBuilder: TypeAlias = "Callable[[KernelRequest], CustomKernel | PrimFunc]"
"""Makes the kernel for a request; called once for every call of the operator and batch size."""


@dataclass(frozen=True)
class RegisteredKernel:
    """What was registered for an operator."""

    operator: OpOverload
    build: KernelBuilder
    order: MemoryOrder
    constants: tuple[str, ...]


_kernels: dict[OpOverload, RegisteredKernel] = {}
_decompositions: dict[OpOverload, Callable[..., Any]] = {}


def register_kernel(
    operator: OpOverload,
    build: KernelBuilder,
    *,
    order: MemoryOrder = MemoryOrder.LOGICAL,
    constants: Sequence[str] = (),
) -> None:
    """Say how the TVM backend computes an operator: by the kernels that `build` makes.

    They run like QPC's own: on tensors in the model's arena, at every batch size that it is
    compiled for, in its threads, kept in the cache, listed by `report` and measured by `profile`.
    Their results must be the bits of the operator's PyTorch implementation.

    operator: an overload, such as `torch.ops.mylib.square.default`, that returns one tensor.
    build: makes a kernel for a request; see `KernelRequest` and `CustomKernel`.
    order: in which order the axes of tensors lie in memory. LOGICAL: as in PyTorch. IMAGES: NHWC
    for tensors of four axes. KEPT: any, the same for all tensors; for operators that compute value
    by value.
    constants: arguments that must be parameters or buffers, and are given to `build` with their
    values in place of being read by the kernel.

    Raises BackendError for what is no operator of another package, is registered already, or has no
    such arguments.
    """
    _require_new(operator)
    names = [argument.name for argument in operator._schema.arguments]
    for name in constants:
        if name not in names:
            raise BackendError(
                f"operator {operator} has no argument {name!r}",
                fix=f"name constants among {', '.join(names)}",
            )
    if order is MemoryOrder.ANY:
        raise BackendError(
            f"the kernels of {operator} must know the order of axes in memory",
            fix="order=MemoryOrder.LOGICAL, IMAGES or KEPT",
        )
    _kernels[operator] = RegisteredKernel(operator, build, order, tuple(constants))


def register_decomposition(operator: OpOverload, function: Callable[..., Any]) -> None:
    """Say how the TVM backend computes an operator: by other operators that it knows.

    function: takes the operator's arguments and returns its result, written with PyTorch's
    operators, and QPC's integer operators, as an ordinary function. It is traced once for every
    call of the operator and batch size.

    Raises BackendError for what is no operator of another package, or is registered already.
    """
    _require_new(operator)
    _decompositions[operator] = function


def registered_kernels() -> Mapping[OpOverload, RegisteredKernel]:
    """The operators that have kernels of other packages."""
    return _kernels


def registered_decompositions() -> Mapping[OpOverload, Callable[..., Any]]:
    """The operators that other packages have decomposed."""
    return _decompositions


def _require_new(operator: OpOverload) -> None:
    require_foreign(operator, "machine code")
    if operator in _kernels or operator in _decompositions:
        raise BackendError(
            f"machine code for operator {operator} is registered already",
            fix="register each operator once, by a kernel or by a decomposition",
        )
