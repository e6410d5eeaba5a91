"""Run a kernel in numpy, instruction by instruction, whatever CPU it is for.

TVM prints a function as Python. Here that text runs, with a `T` whose vectors are arrays and whose
LLVM intrinsics do what Intel's manual says. It is slow, and knows no more than kernels need.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from qpc.backends.tvm.kernels.kernel import Kernel

Array = npt.NDArray[Any]


def interpret(kernel: Kernel, *inputs: Array) -> Array:
    """What a kernel makes of input arrays. AssertionError for two threads that meet in memory."""
    tree = ast.fix_missing_locations(_Addresses().visit(ast.parse(str(kernel.func))))
    (function,) = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    function.decorator_list = []
    for argument in function.args.args:
        argument.annotation = None
    out = np.full(kernel.output.shape, 99, kernel.output.dtype)
    names: dict[str, Any] = {"T": _Script()}
    _Task.number, _Task.first = -1, 0  # whatever became of the kernel before
    exec(compile(tree, kernel.name, "exec"), names)
    with np.errstate(all="ignore"):
        arrays = [*inputs, *kernel.params, out]
        names[function.name](
            *(Buffer(np.ascontiguousarray(a).reshape(-1)) for a in arrays[:-1]),
            target := Buffer(out.reshape(-1)),
        )
    return target.array.reshape(out.shape)


class _Addresses(ast.NodeTransformer):
    """`T.address_of(buffer[i])` as a buffer and a number; conditions on vectors as calls."""

    def visit_Call(self, node: ast.Call) -> ast.AST:
        self.generic_visit(node)
        if isinstance(node.func, ast.Attribute) and node.func.attr == "address_of":
            (place,) = node.args
            assert isinstance(place, ast.Subscript)
            node.args = [place.value, place.slice]
        return node


class Buffer:
    """A row of elements; views share memory."""

    def __init__(self, array: Array, writers: Array | None = None) -> None:
        self.array = array
        self.writers = np.full(array.size, -1) if writers is None else writers

    @property
    def data(self) -> Buffer:
        return self

    def view(self, *_: object) -> Buffer:
        return self

    def __getitem__(self, at: Any) -> Any:
        if _Task.number >= 0:
            met = self.writers[at]
            assert np.all((met < _Task.first) | (met == _Task.number)), (
                "reads what another task wrote"
            )
        found = self.array[at]
        return found.copy() if isinstance(found, np.ndarray) else found

    def __setitem__(self, at: Any, value: Any) -> None:
        assert np.min(np.asarray(at if not isinstance(at, slice) else at.start)) >= 0
        if isinstance(at, slice):
            assert at.stop <= self.array.size
        self.writers[at] = _Task.number
        self.array[at] = np.asarray(value).astype(self.array.dtype)


class _Task:
    """The iteration of the parallel loop that runs now, counted through all loops; -1 outside.

    `first` is the number of the loop's first iteration: what came before it has ended.
    """

    number = -1
    first = 0


def _dtype(name: str) -> tuple[np.dtype[Any], int]:
    base, _, lanes = name.partition("x")
    return np.dtype(base), int(lanes or 1)


class _Script:
    """What TVM's scripts call."""

    bool = bool
    int8, int16, int32, int64 = np.int8, np.int16, np.int32, np.int64
    uint8, uint16, uint32, float32 = np.uint8, np.uint16, np.uint32, np.float32
    shift_right, shift_left = staticmethod(np.right_shift), staticmethod(np.left_shift)
    bitwise_and, bitwise_or = staticmethod(np.bitwise_and), staticmethod(np.bitwise_or)

    @staticmethod
    def max(a: Any, b: Any) -> Any:
        """As LLVM compares: of NaN and a number, the second."""
        return np.where(a > b, a, b)[()]

    @staticmethod
    def min(a: Any, b: Any) -> Any:
        return np.where(a < b, a, b)[()]

    @staticmethod
    def func_attr(_: object) -> None:
        pass

    evaluate = func_attr

    @staticmethod
    def grid(*extents: int) -> Iterator[tuple[int, ...]]:
        return np.ndindex(*extents)

    serial = staticmethod(range)

    @staticmethod
    def parallel(count: int) -> Iterator[int]:
        assert _Task.number == -1, "a parallel loop inside another"
        try:
            for i in range(count):
                _Task.number = _Task.first + i
                yield i
        finally:
            _Task.number = -1
            _Task.first += count

    @staticmethod
    def alloc_buffer(shape: tuple[int], dtype: str = "float32", **_: object) -> Buffer:
        array = np.full(shape[0], 77).astype(dtype)  # nobody may count on zeros
        return Buffer(array)

    alloc_local = alloc_buffer

    @staticmethod
    def decl_buffer(shape: tuple[int], dtype: str = "float32", *, data: Buffer) -> Buffer:
        return data

    @staticmethod
    def address_of(buffer: Buffer, at: int) -> tuple[Buffer, int]:
        return buffer, int(at)

    @staticmethod
    def Ramp(start: int, step: int, lanes: int) -> Array:  # noqa: N802
        return np.arange(lanes) * step + int(start)

    @staticmethod
    def Broadcast(value: Any, lanes: int) -> Array:  # noqa: N802
        dtype = np.int32 if isinstance(value, int) else None
        return np.full(lanes, value, dtype)

    @staticmethod
    def Cast(dtype: str, value: Any) -> Any:  # noqa: N802
        return np.asarray(value).astype(_dtype(dtype)[0])[()]

    @staticmethod
    def reinterpret(dtype: str, value: Any) -> Any:
        base, lanes = _dtype(dtype)
        given = np.int32(value) if isinstance(value, int) else value
        found = np.atleast_1d(given).view(base)
        assert found.size == lanes
        return found if lanes > 1 else found[0]

    @staticmethod
    def Shuffle(vectors: list[Array], lanes: list[int]) -> Array:  # noqa: N802
        found = np.concatenate([np.atleast_1d(v) for v in vectors])[list(map(int, lanes))]
        return found if len(lanes) > 1 else found[0]

    @staticmethod
    def Select(condition: Any, a: Any, b: Any) -> Any:  # noqa: N802
        return np.where(condition, a, b)

    if_then_else = Select

    @staticmethod
    def And(a: Any, b: Any) -> Any:  # noqa: N802
        return np.logical_and(a, b)

    @staticmethod
    def Or(a: Any, b: Any) -> Any:  # noqa: N802
        return np.logical_or(a, b)

    @staticmethod
    def Not(a: Any) -> Any:  # noqa: N802
        return np.logical_not(a)

    @staticmethod
    def call_llvm_pure_intrin(dtype: str, name: str, *args: Any) -> Array:
        key = next((key for key in INTRINSICS if key in name), None)
        assert key is not None, f"the interpreter does not know {name}"
        result = np.asarray(INTRINSICS[key](*args))
        base, lanes = _dtype(dtype)
        assert (result.dtype, result.size) == (base, lanes), name
        return result

    @staticmethod
    def call_llvm_intrin(dtype: str, name: str, *args: Any) -> None:
        assert name == "llvm.prefetch", name


# --- instructions ---------------------------------------------------------------------------------


def _wrapped(sums: Array) -> Array:
    return sums.astype(np.int64).astype(np.uint32).view(np.int32)


def _pmaddwd(a: Array, b: Array) -> Array:
    return _wrapped((a.astype(np.int64) * b.astype(np.int64)).reshape(-1, 2).sum(1))


def _pmaddubsw(a: Array, b: Array) -> Array:
    sums = (a.view(np.uint8).astype(np.int32) * b.astype(np.int32)).reshape(-1, 2).sum(1)
    found: Array = sums.clip(-(2**15), 2**15 - 1).astype(np.int16)
    return found


def _vpdpbusd(acc: Array, x: Array, w: Array) -> Array:
    sums = (x.view(np.uint8).astype(np.int64) * w.astype(np.int64)).reshape(-1, 4).sum(1)
    return _wrapped(acc + sums)


def _vpdpwssd(acc: Array, x: Array, w: Array) -> Array:
    return _wrapped(acc.astype(np.int64) + _pmaddwd(x, w))


def _packed(dtype: type[np.generic]) -> Callable[[Array, Array], Array]:
    """Both operands narrowed with saturation, block by block of 16 bytes."""
    limits = np.iinfo(dtype)  # type: ignore[type-var]  # the name of an integer type

    def pack(a: Array, b: Array) -> Array:
        block = 16 // a.itemsize
        both = np.stack([a.reshape(-1, block), b.reshape(-1, block)], 1).reshape(-1)
        return both.clip(limits.min, limits.max).astype(dtype)

    return pack


def _pshufb(table: Array, index: Array) -> Array:
    blocks, at = table.reshape(-1, 16), index.reshape(-1, 16)
    found = np.take_along_axis(blocks, (at & 15).astype(int), 1)
    return np.where(at < 0, 0, found).reshape(-1).astype(np.int8)


def _vpermi2b(first: Array, index: Array, second: Array) -> Array:
    both: Array = np.concatenate([first, second])
    found: Array = both[index.view(np.uint8) & (2 * first.size - 1)]
    return found


def _cvtps2dq(value: Array, *_: object) -> Array:
    inside = (value >= -(2.0**31)) & (value < 2.0**31)
    return np.where(inside, np.rint(np.where(inside, value, 0)), -(2.0**31)).astype(np.int32)


def _sadd_sat(a: Array, b: Array) -> Array:
    limits = np.iinfo(a.dtype)
    return (a.astype(np.int64) + b).clip(limits.min, limits.max).astype(a.dtype)


INTRINSICS: dict[str, Callable[..., Array]] = {
    "vpdpbusd": _vpdpbusd,
    "vpdpwssd": _vpdpwssd,
    "pmadd.ub.sw": _pmaddubsw,
    "pmaddubs.w": _pmaddubsw,
    "pmadd.wd": _pmaddwd,
    "pmaddw.d": _pmaddwd,
    "packssdw": _packed(np.int16),
    "packuswb": lambda a, b: _packed(np.uint8)(a, b).view(np.int8),
    "pshuf.b": _pshufb,
    "vpermi2var.qi": _vpermi2b,
    "cvtps2dq": _cvtps2dq,
    "cvt.ps2dq": _cvtps2dq,
    "sadd.sat": _sadd_sat,
}
"""By a part of LLVM's name that says what is meant; the rest is the width."""
