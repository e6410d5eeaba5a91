"""Typed views of operator calls: `Conv2d(node).stride` instead of argument positions.

A view wraps a node whose target is one of the view's operators. Its attributes are named after the
operator's schema; reading one returns the argument or the schema's default, writing one edits the
node.
"""

from __future__ import annotations

from typing import Any, ClassVar, Generic, Self, TypeVar, cast, overload

import torch
from torch._ops import OpOverload
from torch.fx import Node

from qpc.ops import integer  # registers the qpc:: operators that views refer to

aten = torch.ops.aten
qpc_ops = torch.ops.qpc
_T = TypeVar("_T")

_ = integer.LIBRARY


def arguments(node: Node) -> dict[str, Any]:
    """Every argument of an operator call by its schema name, defaults filled in."""
    if not isinstance(node.target, OpOverload):
        raise TypeError(f"node {node.name!r} does not call an operator overload")
    found: dict[str, Any] = {}
    for position, parameter in enumerate(node.target._schema.arguments):
        if position < len(node.args) and not parameter.kwarg_only:
            found[parameter.name] = node.args[position]
        elif parameter.name in node.kwargs:
            found[parameter.name] = node.kwargs[parameter.name]
        else:
            found[parameter.name] = parameter.default_value
    return found


def set_arguments(node: Node, **changes: object) -> None:
    """Replace arguments of an operator call by schema name."""
    values = arguments(node)
    if unknown := changes.keys() - values.keys():
        raise TypeError(f"{node.target} has no argument {sorted(unknown)}")
    assert isinstance(node.target, OpOverload)
    values.update(changes)
    keyword_only = {a.name for a in node.target._schema.arguments if a.kwarg_only}
    node.args = tuple(v for name, v in values.items() if name not in keyword_only)
    node.kwargs = {
        name: values[name]
        for name in values
        if name in keyword_only and (name in node.kwargs or name in changes)
    }


class Arg(Generic[_T]):
    """One argument of an operator, under its schema name unless `name` says otherwise."""

    def __init__(self, name: str | None = None) -> None:
        self._name = name or ""

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = self._name or name

    @overload
    def __get__(self, view: None, owner: type) -> Self: ...
    @overload
    def __get__(self, view: OpView, owner: type) -> _T: ...
    def __get__(self, view: OpView | None, owner: type) -> Self | _T:
        if view is None:
            return self
        return cast(_T, self.decode(arguments(view.node)[self._name]))

    def __set__(self, view: OpView, value: _T) -> None:
        set_arguments(view.node, **{self._name: self.encode(value)})

    def encode(self, value: Any) -> Any:
        """The argument as the graph holds it: sequences are lists."""
        return list(value) if isinstance(value, tuple) else value

    def decode(self, value: Any) -> Any:
        """The argument as the view presents it."""
        return value


class Pair(Arg[tuple[int, int]]):
    """A height and width pair; operators also accept one number for both."""

    def decode(self, value: Any) -> tuple[int, int]:
        """Always two numbers."""
        if isinstance(value, int):
            return (value, value)
        numbers = tuple(int(v) for v in value)
        return (numbers[0], numbers[-1])


class One(Arg[int]):
    """A number for one axis; operators also accept a list of one."""

    def decode(self, value: Any) -> int:
        """Always a number."""
        return int(value if isinstance(value, int) else value[0])


class Ints(Arg[tuple[int, ...]]):
    """A list of ints."""

    def decode(self, value: Any) -> tuple[int, ...]:
        """Always a tuple; None (all dimensions, in reductions) is empty."""
        return () if value is None else tuple(value)


class OpView:
    """Base of all views; subclasses name their operators and declare their arguments."""

    targets: ClassVar[frozenset[OpOverload]] = frozenset()

    def __init_subclass__(cls, *, of: OpOverload | tuple[OpOverload, ...] | None = None) -> None:
        super().__init_subclass__()
        if of is not None:
            cls.targets = frozenset(of if isinstance(of, tuple) else (of,))

    def __init__(self, node: Node) -> None:
        if not self.matches(node):
            raise TypeError(f"node {node.name!r} calls {node.target}, not {type(self).__name__}")
        self.node = node

    @classmethod
    def matches(cls, node: object) -> bool:
        """Whether `node` is a call of one of this view's operators."""
        return isinstance(node, Node) and node.op == "call_function" and node.target in cls.targets

    @classmethod
    def of(cls, node: object) -> Self | None:
        """The view of `node`, or None if it calls something else."""
        return cls(node) if isinstance(node, Node) and cls.matches(node) else None


class Weighted(OpView):
    """What convolutions and linear layers have in common."""

    input = Arg[Node]()
    weight = Arg[Node]()
    bias = Arg[Node | None]()
    output_axis: ClassVar[int] = 0
    """Axis of `weight` that runs over output channels."""


class Conv1d(Weighted, of=aten.conv1d.default):
    """weight[out, in/groups, k]."""

    stride = One()
    padding = One()
    dilation = One()
    groups = Arg[int]()


class Conv2d(Weighted, of=aten.conv2d.default):
    """weight[out, in/groups, kh, kw]."""

    stride = Pair()
    padding = Pair()
    dilation = Pair()
    groups = Arg[int]()


class Conv3d(Weighted, of=aten.conv3d.default):
    """weight[out, in/groups, kd, kh, kw]."""

    groups = Arg[int]()


class ConvTranspose2d(Weighted, of=aten.conv_transpose2d.input):
    """weight[in, out/groups, kh, kw]."""

    stride = Pair()
    padding = Pair()
    output_padding = Pair()
    groups = Arg[int]()
    dilation = Pair()
    output_axis = 1


class ConvTranspose1d(Weighted, of=aten.conv_transpose1d.default):
    """weight[in, out/groups, k]."""

    groups = Arg[int]()
    output_axis = 1


class ConvTranspose3d(Weighted, of=aten.conv_transpose3d.input):
    """weight[in, out/groups, kd, kh, kw]."""

    groups = Arg[int]()
    output_axis = 1


class Linear(Weighted, of=aten.linear.default):
    """weight[out, in]; the input's last axis is `in`."""


class BatchNorm(OpView, of=aten.batch_norm.default):
    """Normalises over every axis but 1 with running statistics."""

    input = Arg[Node]()
    weight = Arg[Node | None]()
    bias = Arg[Node | None]()
    running_mean = Arg[Node | None]()
    running_var = Arg[Node | None]()
    training = Arg[bool]()
    momentum = Arg[float]()
    eps = Arg[float]()


class Add(OpView, of=aten.add.Tensor):
    """`a + b`; core form has no alpha."""

    a = Arg[Node]("self")
    b = Arg[Node | float]("other")


class Sub(OpView, of=aten.sub.Tensor):
    """`a - b`; core form has no alpha."""

    a = Arg[Node]("self")
    b = Arg[Node | float]("other")


class Mul(OpView, of=aten.mul.Tensor):
    """`a * b`."""

    a = Arg[Node]("self")
    b = Arg[Node | float]("other")


class Relu(OpView, of=aten.relu.default):
    """`max(x, 0)`."""

    input = Arg[Node]("self")


class Clamp(OpView, of=aten.clamp.default):
    """ReLU6 and hardtanh are clamps in core form."""

    input = Arg[Node]("self")
    min = Arg[float | None]()
    max = Arg[float | None]()


class MaxPool2d(OpView, of=aten.max_pool2d.default):
    """Padding never wins."""

    input = Arg[Node]("self")
    kernel_size = Pair()
    padding = Pair()
    dilation = Pair()
    ceil_mode = Arg[bool]()

    @property
    def stride(self) -> tuple[int, int]:
        """The stride; an empty argument means the kernel size."""
        given = arguments(self.node)["stride"]
        return Pair().decode(given) if given else self.kernel_size


class MaxPool1d(OpView, of=aten.max_pool1d.default):
    """Padding never wins."""

    input = Arg[Node]("self")
    kernel_size = One()
    padding = One()
    dilation = One()
    ceil_mode = Arg[bool]()

    @property
    def stride(self) -> int:
        """The stride; an empty argument means the kernel size."""
        given = arguments(self.node)["stride"]
        return One().decode(given) if given else self.kernel_size


class AvgPool1d(OpView, of=aten.avg_pool1d.default):
    """Average over windows of one axis."""

    input = Arg[Node]("self")
    kernel_size = One()
    padding = One()
    ceil_mode = Arg[bool]()
    count_include_pad = Arg[bool]()

    @property
    def stride(self) -> int:
        """The stride; an empty argument means the kernel size."""
        given = arguments(self.node)["stride"]
        return One().decode(given) if given else self.kernel_size


class AvgPool2d(OpView, of=aten.avg_pool2d.default):
    """Average over windows."""

    input = Arg[Node]("self")
    kernel_size = Pair()
    padding = Pair()
    ceil_mode = Arg[bool]()
    count_include_pad = Arg[bool]()
    divisor_override = Arg[int | None]()

    @property
    def stride(self) -> tuple[int, int]:
        """The stride; an empty argument means the kernel size."""
        given = arguments(self.node)["stride"]
        return Pair().decode(given) if given else self.kernel_size


class Mean(OpView, of=aten.mean.dim):
    """Mean over `dims`, all dimensions if empty."""

    input = Arg[Node]("self")
    dims = Ints("dim")
    keepdim = Arg[bool]()
    dtype = Arg[torch.dtype | None]()


class Sum(OpView, of=aten.sum.dim_IntList):
    """Sum over `dims`, all dimensions if empty."""

    input = Arg[Node]("self")
    dims = Ints("dim")
    keepdim = Arg[bool]()
    dtype = Arg[torch.dtype | None]()


class Cat(OpView, of=aten.cat.default):
    """Concatenation along `dim`."""

    tensors = Arg[list[Node]]()
    dim = Arg[int]()


class Reshape(OpView, of=aten.reshape.default):
    """View, flatten, squeeze and unsqueeze are reshapes in core form."""

    input = Arg[Node]("self")
    shape = Arg[list[int | Node]]()


class Pad(OpView, of=aten.constant_pad_nd.default):
    """Padding with one value; `pad` counts from the last axis: (left, right, top, bottom, ...)."""

    input = Arg[Node]("self")
    pad = Ints()
    value = Arg[float]()


class PadByValues(OpView, of=aten.pad.default):
    """Padding with values of the input: by reflection, by repetition of the border, or around."""

    input = Arg[Node]("self")
    pad = Ints()
    mode = Arg[str]()


class UpsampleNearest2d(
    OpView, of=(aten.upsample_nearest2d.default, aten._upsample_nearest_exact2d.default)
):
    """Every output is the input next to it, of the two kinds that torch has."""

    input = Arg[Node]("self")
    output_size = Pair()
    scales_h = Arg[float | None]()
    scales_w = Arg[float | None]()


class UpsampleBilinear2d(OpView, of=aten.upsample_bilinear2d.default):
    """Linear interpolation over rows and columns."""

    input = Arg[Node]("self")
    output_size = Pair()
    align_corners = Arg[bool]()
    scales_h = Arg[float | None]()
    scales_w = Arg[float | None]()


class Dropout(OpView, of=aten.dropout.default):
    """Dropout; the identity unless `train`."""

    input = Arg[Node]()
    p = Arg[float]()
    train = Arg[bool]()


class IntConv2d(OpView, of=qpc_ops.conv2d.default):
    """Integer convolution."""

    input = Arg[Node]("q")
    weight = Arg[Node]()
    bias = Arg[Node]()
    multiplier = Arg[Node]()
    stride = Pair()
    padding = Pair()
    dilation = Pair()
    groups = Arg[int]()
    input_zero_point = Arg[int]()
    output_zero_point = Arg[int]()
    lo = Arg[int]()
    hi = Arg[int]()
    output_axis: ClassVar[int] = 0


class IntConvTranspose2d(OpView, of=qpc_ops.conv_transpose2d.default):
    """Integer transposed convolution; weight[in, out/groups, kh, kw]."""

    input = Arg[Node]("q")
    weight = Arg[Node]()
    bias = Arg[Node]()
    multiplier = Arg[Node]()
    stride = Pair()
    padding = Pair()
    output_padding = Pair()
    groups = Arg[int]()
    dilation = Pair()
    input_zero_point = Arg[int]()
    output_zero_point = Arg[int]()
    lo = Arg[int]()
    hi = Arg[int]()
    output_axis: ClassVar[int] = 1


class IntLinear(OpView, of=qpc_ops.linear.default):
    """Integer linear layer."""

    input = Arg[Node]("q")
    weight = Arg[Node]()
    bias = Arg[Node]()
    multiplier = Arg[Node]()
    input_zero_point = Arg[int]()
    output_zero_point = Arg[int]()
    lo = Arg[int]()
    hi = Arg[int]()
    output_axis: ClassVar[int] = 0


class IntClamp(OpView, of=qpc_ops.clamp.default):
    """Integer clamp."""

    input = Arg[Node]("q")
    lo = Arg[int]()
    hi = Arg[int]()


class Clamping(
    OpView,
    of=(
        qpc_ops.conv2d.default,
        qpc_ops.conv_transpose2d.default,
        qpc_ops.linear.default,
        qpc_ops.add.default,
        qpc_ops.mul.default,
        qpc_ops.sum.default,
        qpc_ops.mean.default,
        qpc_ops.avg_pool2d.default,
        qpc_ops.quantize.default,
        qpc_ops.clamp.default,
    ),
):
    """Any integer operator that ends with a clamp to `lo`, `hi`."""

    lo = Arg[int]()
    hi = Arg[int]()
