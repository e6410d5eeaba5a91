"""One call of a float operator that a kernel of our own computes, and how kernels see tensors.

Kernels read tensors where they lie: `Strided` looks through permutations of axes, of which TVM then
makes no copy, as nobody else reads them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod

from torch import Tensor
from torch.fx import Node
from tvm import relax

from qpc.backends.tvm.kernels.isa.base import Isa
from qpc.backends.tvm.kernels.kernel import Kernel
from qpc.backends.tvm.kernels.loops import broadcast_strides, contiguous_strides
from qpc.backends.tvm.lowering.emitter import Emitter
from qpc.backends.tvm.lowering.floats.rule import Arguments, dtype_of, shape_of

_FLOAT = "float32"


@dataclass(frozen=True)
class Strided:
    """A tensor in memory, of which a value is a permutation.

    expr: what lies in memory, in row-major order. shape, strides: of the value's axes.
    """

    expr: relax.Expr
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @property
    def size(self) -> int:
        """Elements of the tensor."""
        return prod(shape_of(self.expr))

    @property
    def is_contiguous(self) -> bool:
        """Whether the value lies in row-major order."""
        wanted = contiguous_strides(self.shape)
        steps = zip(self.shape, self.strides, wanted, strict=True)
        return all(size == 1 or stride == right for size, stride, right in steps)


@dataclass(frozen=True)
class FloatCall:
    """A call of a float operator.

    args: its arguments by schema name, with Relax tensors in place of tensors. tensors, lists:
    those of them that are known when the model is compiled, or whose members are. nodes: of the
    user's graph that it computes.
    """

    emit: Emitter
    args: Arguments
    tensors: Mapping[str, Tensor]
    lists: Mapping[str, tuple[Tensor, ...]]
    nodes: tuple[Node, ...]

    @property
    def isa(self) -> Isa:
        """The instructions of the target."""
        return self.emit.isa

    @property
    def threads(self) -> int:
        """How many there are."""
        return self.emit.threads

    def are_floats(self, *names: str) -> bool:
        """Whether these arguments, where they are given, are float32 and have elements."""
        given = [x for name in names if (x := self.args[name]) is not None]
        return all(dtype_of(x) == _FLOAT and prod(shape_of(x)) for x in given)

    def strided(self, x: relax.Expr) -> Strided:
        """A value as a permutation of what lies in memory."""
        axes = tuple(range(len(shape_of(x))))
        while (found := self._permuted(x)) is not None:
            x, order = found
            axes = tuple(order[axis] for axis in axes)
        shape = shape_of(x)
        strides = contiguous_strides(shape)
        return Strided(x, tuple(shape[a] for a in axes), tuple(strides[a] for a in axes))

    def _permuted(self, x: relax.Expr) -> tuple[relax.Expr, list[int]] | None:
        """What a permutation permutes, and the order of its axes."""
        if not isinstance(x, relax.Var):
            return None
        bound = self.emit.builder.lookup_binding(x)
        if not isinstance(bound, relax.Call):
            return None
        name = getattr(bound.op, "name", "")
        if name == "relax.permute_dims":
            rank = len(shape_of(x))
            given = bound.attrs.axes
            axes = reversed(range(rank)) if given is None else (int(a) % rank for a in given)
            return bound.args[0], list(axes)
        return None

    def contiguous(self, x: relax.Expr) -> Strided:
        """A value as it lies in memory, where nothing is looked through."""
        shape = tuple(shape_of(x))
        return Strided(x, shape, contiguous_strides(shape))

    def copied(self, x: Strided) -> Strided:
        """The same value in row-major order."""
        by_stride = sorted(range(len(x.shape)), key=lambda axis: (-x.strides[axis], x.shape[axis]))
        order = [by_stride.index(axis) for axis in range(len(x.shape))]
        stored = self.emit.view(x.expr, [x.shape[axis] for axis in by_stride])
        made = self.emit.builder.emit(relax.op.permute_dims(stored, order))
        return Strided(made, x.shape, contiguous_strides(x.shape))

    def kernel(
        self, kernel: Kernel, inputs: Sequence[relax.Expr], shape: Sequence[int]
    ) -> relax.Expr:
        """Call a kernel, whose inputs and result have the same bytes under other shapes."""
        (made,) = self.results(kernel, inputs)
        return self.emit.view(made, shape)

    def results(self, kernel: Kernel, inputs: Sequence[relax.Expr]) -> list[relax.Expr]:
        """Call a kernel that may have several results, which keep their shapes."""
        views = [
            self.emit.view(x, wanted.shape) for x, wanted in zip(inputs, kernel.inputs, strict=True)
        ]
        made = self.emit.kernel(kernel, views, nodes=self.nodes)
        if not kernel.more:
            return [made]
        emit = self.emit.builder.emit
        return [emit(relax.TupleGetItem(made, i)) for i in range(1 + len(kernel.more))]


def batch_strides(x: Strided, batch: Sequence[int]) -> tuple[int, ...]:
    """The strides of the matrices of a tensor along the axes of a batch; 0 where it has one."""
    sizes, strides = x.shape[:-2], x.strides[:-2]
    return broadcast_strides(sizes, strides, batch)


def broadcast_batch(*shapes: Sequence[int]) -> tuple[int, ...]:
    """The common shape of batches, by numpy's rules."""
    rank = max(map(len, shapes))
    padded = [(1,) * (rank - len(shape)) + tuple(shape) for shape in shapes]
    return tuple(max(sizes) if 0 not in sizes else 0 for sizes in zip(*padded, strict=True))
