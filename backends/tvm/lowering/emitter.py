"""Building blocks of the compiled program: kernel calls, layout changes, constants."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.fx import Node
from tvm import relax
from tvm.ir import GlobalVar

from qpc.backends.common.graph_plan import GraphPlan
from qpc.backends.common.orders import NHWC, Order, identity, permuted
from qpc.backends.common.plan import KernelUse
from qpc.backends.common.work import multiply_accumulates
from qpc.backends.tvm.kernels.conv.tiling import Tuner
from qpc.backends.tvm.kernels.isa.choose import Isa
from qpc.backends.tvm.kernels.kernel import Array, Kernel
from qpc.backends.tvm.kernels.kernel import TensorType as KernelType
from qpc.backends.tvm.lowering import copies
from qpc.backends.tvm.lowering.layout import Slice, Value
from qpc.backends.tvm.report import OtherUse
from qpc.meta import label
from qpc.types import dtype_name, dtype_of

_OPAQUE = 8  # operator fusion must leave the kernels alone


class Weights:
    """All constant tensors of a model, each stored once, by a name made from its content."""

    def __init__(self) -> None:
        self.tensors: dict[str, Tensor] = {}

    def add(self, tensor: Tensor) -> str:
        """The name of a tensor with these values."""
        kept = tensor.detach().cpu().contiguous()
        data = kept.flatten().view(torch.uint8).numpy() if kept.numel() else np.empty(0)
        about = f"{kept.dtype} {tuple(kept.shape)} ".encode()
        digest = hashlib.sha256(about + data.tobytes()).hexdigest()
        name = f"w_{digest[:16]}"
        self.tensors.setdefault(name, kept)
        return name


class Emitter:
    """Writes one function of the program through a BlockBuilder, and remembers what it did."""

    def __init__(
        self,
        builder: relax.BlockBuilder,
        isa: Isa,
        threads: int,
        weights: Weights,
        tuner: Tuner | None = None,
    ) -> None:
        self.builder, self.isa, self.threads, self.tuner = builder, isa, threads, tuner
        self._weights = weights
        self._functions: dict[str, GlobalVar] = {}
        self.start_function(None)

    @property
    def activation(self) -> torch.dtype:
        """The type of quantized values."""
        found = dtype_of(self.isa.activation)
        assert found is not None
        return found

    def start_function(self, plan: GraphPlan | None) -> None:
        """Forget what belongs to the function before."""
        self._plan = plan
        self.parameters: dict[str, relax.Var] = {}
        self.kernel_uses: list[KernelUse] = []
        self.other_uses: list[OtherUse] = []

    def weight(self, tensor: Tensor) -> relax.Var:
        """The parameter of the function that holds a constant tensor."""
        name = self._weights.add(tensor)
        if name not in self.parameters:
            dtype = dtype_name(tensor.dtype)
            self.parameters[name] = relax.Var(name, relax.TensorType(tuple(tensor.shape), dtype))
        return self.parameters[name]

    def kernel(
        self,
        kernel: Kernel,
        inputs: Sequence[relax.Expr],
        *,
        nodes: Sequence[Node] = (),
        into: relax.Expr | None = None,
        others: int = 0,
    ) -> relax.Var:
        """Call a kernel; `nodes` are the graph nodes it computes, for the report.

        into: a tensor in which the kernel writes its part; the result is that tensor with it.
        others: bytes of inputs and of the result that it leaves alone.
        The result is a tuple if the kernel has several.
        """
        if kernel.name not in self._functions:
            func = kernel.func.with_attr("op_pattern", _OPAQUE)
            self._functions[kernel.name] = self.builder.add_func(func, kernel.name)
        weights = [self.weight(_writable(array)) for array in kernel.params]
        outputs = [relax.TensorType(o.shape, o.dtype) for o in (kernel.output, *kernel.more)]
        output = outputs if kernel.more else outputs[0]
        called = self._functions[kernel.name]
        use = KernelUse(
            kernel.name,
            tuple(label(n) for n in nodes),
            kernel.macs or sum(self._macs(n) for n in nodes),
            bytes=-others,
            skipped=kernel.skipped,
            saved=kernel.saved,
            method=kernel.method,
            time=kernel.time,
            notes=self._plan.notes(nodes) if self._plan else (),
        )
        self.kernel_uses.append(use)
        arguments = [*inputs, *weights]
        if into is None:
            return self.builder.emit(relax.call_tir(called, arguments, output))
        in_place = [len(arguments)]
        call = relax.op.call_tir_inplace(called, [*arguments, into], in_place, output)
        return self.builder.emit(call)

    def _macs(self, node: Node) -> int:
        plan = self._plan
        return multiply_accumulates(plan.gm, node, plan.batch) if plan else 0

    def note_other(self, node: Node, reason: str) -> None:
        """Record that no integer kernel computes `node`."""
        self.other_uses.append(OtherUse(label(node), str(node.target), reason))

    def move(
        self,
        movement: copies.Movement,
        inputs: Sequence[Value | Slice],
        into: relax.Expr | None = None,
    ) -> relax.Var:
        """Call the kernel of a data movement; see `kernel` for `into`."""
        kernel, exprs = movement.kernel(self.threads), [v.expr for v in inputs]
        others = sum(v.view.others for v in inputs) + movement.others
        return self.kernel(kernel, exprs, into=into, others=others)

    def images(self, value: Value | Slice) -> Value | Slice:
        """Images stored as NHWC, alone or as channels of others."""
        return value if isinstance(value, Slice) else self.stored_as(value, NHWC)

    def alone(self, value: Value | Slice) -> Value:
        """The value as a tensor of its own."""
        if isinstance(value, Value):
            return value
        shape = permuted(value.shape, NHWC)
        start = (0, 0, 0, value.first)
        movement = copies.strided_slice(kernel_type(value.whole), start, (1, 1, 1, 1), shape)
        return Value(self.move(movement, [value]), value.shape, value.dtype, NHWC)

    def stored_as(self, value: Value, order: Order) -> Value:
        """The same value in memory order `order`; moves data only if it must."""
        if value.order == order:
            return value
        shape = permuted(value.shape, order)
        if value.stored_as(order):
            return Value(self.view(value.expr, shape), value.shape, value.dtype, order)
        axes = [value.order.index(axis) for axis in order]
        moved = self.move(copies.transpose(kernel_type(value), axes), [value])
        return Value(moved, value.shape, value.dtype, order)

    def logical(self, value: Value) -> relax.Expr:
        """The value in logical order."""
        return self.stored_as(value, identity(len(value.shape))).expr

    def view(self, expr: relax.Expr, shape: Sequence[int]) -> relax.Expr:
        """The same bytes under another shape."""
        if tuple(int(d) for d in expr.ty.shape) == tuple(shape):
            return expr
        return self.builder.emit(relax.op.reshape(expr, tuple(shape)))


def kernel_type(value: Value) -> KernelType:
    """The type of a value as kernels see it."""
    return KernelType(value.physical_shape, dtype_name(value.dtype))


def _writable(array: Array) -> Tensor:
    return torch.from_numpy(array if array.flags.writeable else array.copy())
