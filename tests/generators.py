"""Integer graphs for tests: a builder to write small ones by hand, and a generator of random ones.

Constants come from a seeded generator, so equal calls give equal graphs. Values are spread over
their grids by construction: a network whose activations are all 0 or 255 would hide errors.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from math import prod, sqrt
from typing import Any

import torch
from torch import Tensor
from torch.fx import Graph, GraphModule, Node
from torch.fx.node import map_arg

from qpc.calls import aten, qpc_ops
from qpc.layers import own_layout
from qpc.meta import update_info
from qpc.ops.resize import POSITIONS
from qpc.shapes import concrete_shapes
from qpc.types import BatchDim, Dim, TensorType

Pair = tuple[int, int]
_LAYERS = tuple(getattr(qpc_ops, name).default for name in ("conv2d", "conv_transpose2d", "linear"))
_LARGEST = 20  # images with more rows or columns are not enlarged


class IntegerGraph:
    """Builds a core-form graph node by node; every method returns the new node."""

    def __init__(self, seed: int = 0) -> None:
        self.graph, self.root = Graph(), torch.nn.Module()
        self.random = torch.Generator().manual_seed(seed)
        self.choose, self.apart = random.Random(seed), random.Random(seed + 1)
        self._inputs = 0
        self._samples: dict[Node, Any] = {}  # a value without data for each node, at batch size 1

    def module(self, *outputs: Node) -> GraphModule:
        """The finished graph; one output is returned as it is, several as a tuple."""
        self.graph.output(outputs[0] if len(outputs) == 1 else outputs)
        return GraphModule(self.root, self.graph)

    def shape(self, node: Node) -> tuple[int, ...]:
        """The shape of a node's value at batch size 1."""
        return tuple(self._samples[node].shape)

    def call(self, target: Any, *args: Any, **kwargs: Any) -> Node:
        """A call of any operator."""
        node = self.graph.call_function(target, args, kwargs)
        known = self._samples.__getitem__
        self._samples[node] = target(*map_arg(args, known), **map_arg(kwargs, known))
        return node

    # --- leaves -----------------------------------------------------------------------------------

    def input(self, *sizes: int, dtype: torch.dtype = torch.float32) -> Node:
        """A model input of shape `(N, *sizes)`."""
        shape: tuple[Dim, ...] = (BatchDim(), *sizes)
        self._inputs += 1
        node = self.graph.placeholder("x" if self._inputs == 1 else f"x{self._inputs}")
        update_info(node, shape=shape, dtype=dtype)
        self._samples[node] = torch.empty(1, *sizes, dtype=dtype, device="meta")
        return node

    def constant(self, tensor: Tensor) -> Node:
        """A buffer of the module."""
        name = f"constant{len(self.root._buffers)}"
        self.root.register_buffer(name, tensor)
        node = self.graph.get_attr(name)
        self._samples[node] = tensor.to("meta")
        return node

    def image(self, *sizes: int) -> Node:
        """An input of integers."""
        return self.input(*sizes, dtype=torch.uint8)

    # --- qpc operators ----------------------------------------------------------------------------

    def quantize(self, x: Node, scale: float = 0.02, zero_point: int = 120) -> Node:
        return self.call(qpc_ops.quantize.default, x, scale, zero_point, 0, 255, torch.uint8)

    def dequantize(self, q: Node, scale: float = 0.02, zero_point: int = 120) -> Node:
        return self.call(qpc_ops.dequantize.default, q, scale, zero_point)

    def conv2d(
        self,
        q: Node,
        channels: int,
        kernel: Pair = (3, 3),
        *,
        stride: Pair = (1, 1),
        padding: Pair = (0, 0),
        dilation: Pair = (1, 1),
        groups: int = 1,
        extreme: bool = False,
    ) -> Node:
        shape = (channels, self.shape(q)[1] // groups, *kernel)
        tensors = self.layer(shape, extreme)
        window = (list(stride), list(padding), list(dilation), groups)
        return self.call(
            qpc_ops.conv2d.default, q, *tensors, *window, self._zero_point(), *self._grid()
        )

    def conv_transpose2d(
        self,
        q: Node,
        channels: int,
        kernel: Pair = (3, 3),
        *,
        stride: Pair = (1, 1),
        padding: Pair = (0, 0),
        output_padding: Pair = (0, 0),
        groups: int = 1,
        dilation: Pair = (1, 1),
        extreme: bool = False,
    ) -> Node:
        shape = (channels, self.shape(q)[1] // groups, *kernel)
        weight, *others = self.layer_tensors(shape, extreme)
        tensors = [self.constant(t) for t in (own_layout(weight, 1, groups), *others)]
        pairs = (list(stride), list(padding), list(output_padding), groups, list(dilation))
        numbers = (self._zero_point(), *self._grid())
        return self.call(qpc_ops.conv_transpose2d.default, q, *tensors, *pairs, *numbers)

    def linear(self, q: Node, features: int, *, extreme: bool = False) -> Node:
        tensors = self.layer((features, self.shape(q)[-1]), extreme)
        return self.call(qpc_ops.linear.default, q, *tensors, self._zero_point(), *self._grid())

    def joined(self, layer: Node, other: Node) -> Node:
        """The layer that is the last node, which adds a value of its shape before it rounds."""
        name = layer.target._schema.name.partition("::")[2]  # type: ignore[union-attr]  # an operator
        target = getattr(qpc_ops, f"{name}_add").default
        *kept, output_zero_point, lo, hi = layer.args
        shift = self.apart.choice((0, 3, 8, 13, 13))
        factor = int(self.apart.uniform(0.3, 0.9) * 2**shift) or 1
        factor *= self.apart.choice((1, 1, 1, -1))
        zero_point = self.apart.choice((0, 255, 100, 130))
        multiplier = self.root.get_buffer(str(layer.args[3].target))  # type: ignore[union-attr]  # nodes
        kept[3] = self.constant(multiplier * 2.0**shift)
        self.graph.erase_node(layer)
        numbers = (zero_point, factor, shift, output_zero_point, lo, hi)
        return self.call(target, *kept, other, *numbers)

    def add(self, a: Node, b: Node) -> Node:
        shift = self.choose.choice((0, 1, 8, 14, 16))
        # The sum of the two multipliers stays near 2**shift, so that results spread over the grid.
        factors = [max(1, min(32767, int(self.choose.uniform(0.3, 0.9) * 2**shift))) for _ in "ab"]
        factors[1] *= self.choose.choice((1, 1, 1, -1))  # the other sign subtracts
        points = (self._zero_point(), self._zero_point())
        return self.call(qpc_ops.add.default, a, b, *points, *factors, shift, *self._grid())

    def mul(self, a: Node, b: Node) -> Node:
        multiplier = _float32(self.choose.uniform(0.004, 0.02))
        points = (self._zero_point(), self._zero_point())
        return self.call(qpc_ops.mul.default, a, b, *points, multiplier, *self._grid())

    def max_pool2d(
        self,
        q: Node,
        kernel: Pair,
        stride: Pair,
        padding: Pair = (0, 0),
        dilation: Pair = (1, 1),
        ceil_mode: bool = False,
    ) -> Node:
        window = (list(kernel), list(stride), list(padding), list(dilation), ceil_mode)
        return self.call(qpc_ops.max_pool2d.default, q, *window)

    def avg_pool2d(self, q: Node, kernel: Pair, stride: Pair, padding: Pair = (0, 0)) -> Node:
        multiplier = _float32(self.choose.uniform(0.6, 1.2) / prod(kernel))
        window = (list(kernel), list(stride), list(padding))
        numbers = (self._zero_point(), multiplier, *self._grid())
        return self.call(qpc_ops.avg_pool2d.default, q, *window, *numbers)

    def mean(self, q: Node, dims: Sequence[int], keepdim: bool = False) -> Node:
        scales = (_float32(self.choose.uniform(0.6, 1.2)), 1.0)
        numbers = (self._zero_point(), *scales, *self._grid())
        return self.call(qpc_ops.mean.default, q, list(dims), keepdim, *numbers)

    def sum(self, q: Node, dims: Sequence[int], keepdim: bool = False) -> Node:
        count = prod(self.shape(q)[d] for d in dims)
        multiplier = _float32(self.choose.uniform(0.6, 1.2) / count)
        numbers = (self._zero_point(), multiplier, *self._grid())
        return self.call(qpc_ops.sum.default, q, list(dims), keepdim, *numbers)

    def resize2d(self, q: Node, rows: int, columns: int, *, linear: bool) -> Node:
        """Samples anywhere, or at pixels only."""
        places = []
        sizes = list(self.shape(q)[2:])
        for count, size in zip((rows, columns), sizes, strict=True):
            last = (size - 1) * POSITIONS
            chosen = torch.randint(0, last + 1, (count,), generator=self.random, dtype=torch.int32)
            places.append(chosen if linear else chosen // POSITIONS * POSITIONS)
        return self.call(qpc_ops.resize2d.default, q, *map(self.constant, places), sizes)

    def lookup(self, q: Node) -> Node:
        table = torch.randperm(256, generator=self.random).to(torch.uint8)
        return self.call(qpc_ops.lookup.default, q, self.constant(table))

    def clamp(self, q: Node, lo: int = 30, hi: int = 200) -> Node:
        return self.call(qpc_ops.clamp.default, q, lo, hi)

    # --- movement ---------------------------------------------------------------------------------

    def reshape(self, q: Node, *shape: int) -> Node:
        return self.call(aten.reshape.default, q, list(shape))

    def permute(self, q: Node, *order: int) -> Node:
        return self.call(aten.permute.default, q, list(order))

    def cat(self, *values: Node, dim: int = 1) -> Node:
        return self.call(aten.cat.default, list(values), dim)

    def slice(self, q: Node, dim: int, start: int, stop: int, step: int = 1) -> Node:
        return self.call(aten.slice.Tensor, q, dim, start, stop, step)

    # --- numbers ----------------------------------------------------------------------------------

    def layer(self, shape: tuple[int, ...], extreme: bool) -> tuple[Node, Node, Node]:
        """weight[out, ...], bias[out] and multiplier[out] of a layer."""
        weight, bias, multiplier = map(self.constant, self.layer_tensors(shape, extreme))
        return weight, bias, multiplier

    def layer_tensors(self, shape: tuple[int, ...], extreme: bool) -> tuple[Tensor, Tensor, Tensor]:
        """The same as tensors."""
        fan_in = prod(shape[1:])
        if extreme:
            ends = torch.tensor([-127, 127], dtype=torch.int8)
            weight = ends[torch.randint(0, 2, shape, generator=self.random)]
            bias = torch.randint(-(2**30), 2**30, shape[:1], generator=self.random)
            multiplier = 10.0 ** torch.empty(shape[0]).uniform_(-12, 2, generator=self.random)
        else:
            weight = torch.randint(-127, 128, shape, generator=self.random)
            bias = torch.randint(-5000, 5001, shape[:1], generator=self.random)
            spread = 0.5 + torch.rand(shape[0], generator=self.random)
            multiplier = spread * 60 / (sqrt(fan_in) * 74 * 74)
        return weight.to(torch.int8), bias.to(torch.int32), multiplier.to(torch.float32)

    def _zero_point(self) -> int:
        return self.choose.choice((0, 255, *(self.choose.randint(100, 156) for _ in range(8))))

    def _grid(self) -> tuple[int, int, int]:
        """Output zero point, lo and hi."""
        lo, hi = self.choose.choice(((0, 255),) * 7 + ((128, 255), (0, 15), (7, 201)))
        return max(lo, min(hi, self.choose.randint(110, 145))), lo, hi


def random_graph(seed: int, nodes: int = 10) -> GraphModule:
    """A random network of integer operators with odd sizes, joins, and up to three outputs."""
    return _RandomNetwork(seed).build(nodes)


def random_inputs(
    gm: GraphModule, batch: int, seed: int = 0, *, scale_extremes: bool = True
) -> list[Tensor]:
    """Inputs for a graph of this module; some elements are extreme unless told otherwise."""
    generator = torch.Generator().manual_seed(seed)
    made = []
    for node, found in concrete_shapes(gm, batch).items():
        if node.op != "placeholder":
            continue
        assert isinstance(found, TensorType)
        if found.dtype.is_floating_point:
            x = torch.randn(found.shape, generator=generator)
            if scale_extremes:
                x[torch.rand(found.shape, generator=generator) < 0.05] *= 1e3
        else:
            x = torch.randint(0, 256, found.shape, generator=generator).to(found.dtype)
        made.append(x)
    return made


class _RandomNetwork:
    """Grows a pool of image values (`[N, C, H, W]`, uint8) by random operators."""

    def __init__(self, seed: int) -> None:
        self.g = IntegerGraph(seed)
        self.choose = self.g.choose
        self.pool: list[Node] = []

    def build(self, nodes: int) -> GraphModule:
        channels = self.choose.choice((1, 3, 5, 16, 20, 33))
        size = (self.choose.randint(5, 14), self.choose.randint(5, 14))
        if self.choose.random() < 0.7:
            self.pool.append(self.g.quantize(self.g.input(channels, *size)))
        else:
            self.pool.append(self.g.image(channels, *size))
        steps = (
            *(self._conv,) * 5,
            *(self._residual,) * 3,
            self._conv_transpose,
            self._resize,
            self._max_pool,
            self._avg_pool,
            self._squeeze_excite,
            self._cat,
            self._slice,
            self._shuffle,
            self._pixels,
            self._pointwise,
            self._pad,
            self._flip_or_roll,
            self._float_island,
        )
        while len(self.pool) < nodes:
            made = self.choose.choice(steps)(self._recent())
            if made is not None:
                self.pool.append(self._joined(made))
        return self.g.module(*self._outputs())

    def _joined(self, made: Node) -> Node:
        """Some layers add a value of their shape; another layer makes it if there is none."""
        if made.target not in _LAYERS or made.users or self.g.apart.random() < 0.5:
            return made
        shape = self.g.shape(made)
        twins = [v for v in self.pool if self.g.shape(v) == shape and v is not made]
        if not twins:
            other = self.g.call(made.target, *made.args)
            return self.g.joined(other, self.g.call(qpc_ops.clamp.default, made, 5, 250))
        return self.g.joined(made, self.g.apart.choice(twins))

    def _recent(self) -> Node:
        return self.choose.choice(self.pool[-3:])

    def _outputs(self) -> list[Node]:
        last = self.pool[-1]
        heads = [self.g.dequantize(self._classifier(last))]
        if self.choose.random() < 0.5:
            heads.append(self.choose.choice(self.pool))
        if self.choose.random() < 0.3:
            heads.append(self.g.dequantize(last))
        return heads

    def _classifier(self, q: Node) -> Node:
        _, c, h, w = self.g.shape(q)
        if self.choose.random() < 0.5:
            flat = self.g.mean(q, (2, 3))
        elif self.choose.random() < 0.5:
            flat = self.g.reshape(q, -1, c * h * w)
        else:  # tokens, as in transformers
            flat = self.g.permute(self.g.reshape(q, -1, c, h * w), 0, 2, 1)
        return self._joined(self.g.linear(flat, self.choose.choice((1, 7, 10, 40))))

    def _conv(self, q: Node) -> Node | None:
        _, c, h, w = self.g.shape(q)
        kernel = (self.choose.choice((1, 1, 3, 3, 2, 5)), self.choose.choice((1, 3, 3, 2)))
        dilation = (self.choose.choice((1, 1, 2)), self.choose.choice((1, 1, 2)))
        padding = (self.choose.randint(0, 2), self.choose.randint(0, 2))
        stride = (self.choose.choice((1, 1, 2)), self.choose.choice((1, 1, 2, 3)))
        reach = [d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True)]
        if h + 2 * padding[0] < reach[0] or w + 2 * padding[1] < reach[1]:
            return None
        groups = self.choose.choice((1, 1, 1, c, *(d for d in range(1, c + 1) if c % d == 0)))
        per_group = self.choose.choice((1, 1, 2, 3, 8, 16, 17))
        return self.g.conv2d(
            q,
            min(groups * per_group, 96 // groups * groups or groups),
            kernel,
            stride=stride,
            padding=padding,
            dilation=dilation,
            groups=groups,
            extreme=self.choose.random() < 0.15,
        )

    def _conv_transpose(self, q: Node) -> Node | None:
        _, c, h, w = self.g.shape(q)
        if max(h, w) > _LARGEST:
            return None
        stride = (self.choose.choice((1, 2, 2, 3)), self.choose.choice((1, 2, 2, 4)))
        kernel = (self.choose.choice((2, 3, 4)), self.choose.choice((1, 2, 4)))
        dilation = (self.choose.choice((1, 1, 2)), self.choose.choice((1, 1, 3)))
        padding = (self.choose.randint(0, 2), self.choose.randint(0, 2))
        extra = [
            self.choose.randint(0, max(s, d) - 1) for s, d in zip(stride, dilation, strict=True)
        ]
        reach = [d * (k - 1) + e for d, k, e in zip(dilation, kernel, extra, strict=True)]
        sizes = [
            (size - 1) * s - 2 * p + r + 1
            for size, s, p, r in zip((h, w), stride, padding, reach, strict=True)
        ]
        if min(sizes) < 1:
            return None
        groups = self.choose.choice((1, 1, 1, c, *(d for d in range(1, c + 1) if c % d == 0)))
        channels = groups * self.choose.choice((1, 2, 3, 17))
        return self.g.conv_transpose2d(
            q,
            min(channels, 48 // groups * groups or groups),
            kernel,
            stride=stride,
            padding=padding,
            output_padding=(extra[0], extra[1]),
            groups=groups,
            dilation=dilation,
            extreme=self.choose.random() < 0.15,
        )

    def _resize(self, q: Node) -> Node:
        rows, columns = (self.choose.randint(3, _LARGEST) for _ in "hw")
        return self.g.resize2d(q, rows, columns, linear=self.choose.random() < 0.6)

    def _residual(self, q: Node) -> Node:
        """Add to a value of the same shape, made by a convolution if there is none."""
        shape = self.g.shape(q)
        twins = [v for v in self.pool if self.g.shape(v) == shape]
        if self.choose.random() < 0.6:
            other = self.g.conv2d(q, shape[1], (3, 3), padding=(1, 1))
        else:
            other = self.choose.choice(twins)
        a, b = (q, other) if self.choose.random() < 0.5 else (other, q)
        total = self.g.add(a, b)
        return self.g.lookup(total) if self.choose.random() < 0.3 else total

    def _max_pool(self, q: Node) -> Node | None:
        kernel = (self.choose.choice((2, 3)), self.choose.choice((1, 2, 3)))
        if min(self.g.shape(q)[2:]) < 3:
            return None
        stride = (self.choose.choice((1, 2)), self.choose.choice((1, 2)))
        padding = (self.choose.randint(0, kernel[0] // 2), self.choose.randint(0, kernel[1] // 2))
        return self.g.max_pool2d(q, kernel, stride, padding, ceil_mode=self.choose.random() < 0.3)

    def _avg_pool(self, q: Node) -> Node | None:
        kernel = (self.choose.choice((2, 3)), self.choose.choice((2, 3)))
        if min(self.g.shape(q)[2:]) < 3:
            return None
        stride = (self.choose.choice((1, 2)), self.choose.choice((1, 2)))
        padding = (self.choose.randint(0, 1), self.choose.randint(0, 1))
        return self.g.avg_pool2d(q, kernel, stride, padding)

    def _squeeze_excite(self, q: Node) -> Node:
        gate = self.g.conv2d(self.g.mean(q, (2, 3), True), self.g.shape(q)[1], (1, 1))
        return self.g.mul(q, self.g.lookup(gate))

    def _cat(self, q: Node) -> Node:
        shape = self.g.shape(q)
        same = [v for v in self.pool if self.g.shape(v)[2:] == shape[2:]]
        others = [self.choose.choice(same) for _ in range(self.choose.randint(1, 2))]
        return self.g.cat(q, *others)

    def _slice(self, q: Node) -> Node:
        dim = self.choose.choice((1, 1, 2, 3))
        size = self.g.shape(q)[dim]
        start = self.choose.randint(0, (size - 1) // 2)
        stop = self.choose.randint(start + (size - start + 1) // 2, size)
        return self.g.slice(q, dim, start, stop, self.choose.choice((1, 1, 2)))

    def _shuffle(self, q: Node) -> Node:
        """Channel shuffle, or space moved into channels."""
        _, c, h, w = self.g.shape(q)
        divisor = self.choose.choice([d for d in range(1, c + 1) if c % d == 0])
        apart = self.g.reshape(q, -1, divisor, c // divisor, h, w)
        if self.choose.random() < 0.7:
            return self.g.reshape(self.g.permute(apart, 0, 2, 1, 3, 4), -1, c, h, w)
        merged = self.g.permute(apart, 0, 2, 3, 1, 4)
        return self.g.reshape(merged, -1, c // divisor, h * divisor, w)

    def _pointwise(self, q: Node) -> Node:
        return self.g.lookup(q) if self.choose.random() < 0.5 else self.g.clamp(q)

    def _pad(self, q: Node) -> Node:
        amounts = [self.choose.choice((0, 1, 2, -1)) for _ in range(4)]
        if min(self.g.shape(q)[2:]) < 4:
            amounts = [abs(a) for a in amounts]
        value = self.choose.choice((0, 7, 255))
        return self.g.call(aten.constant_pad_nd.default, q, amounts, value)

    def _pixels(self, q: Node) -> Node:
        """Pixels moved into channels or out of them, or channels shuffled."""
        _, c, h, w = self.g.shape(q)
        if h % 2 == w % 2 == 0:
            return self.g.call(aten.pixel_unshuffle.default, q, 2)
        if c % 4 == 0 and max(h, w) <= _LARGEST:
            return self.g.call(aten.pixel_shuffle.default, q, 2)
        divisor = self.choose.choice([d for d in range(1, c + 1) if c % d == 0])
        return self.g.call(aten.channel_shuffle.default, q, divisor)

    def _flip_or_roll(self, q: Node) -> Node:
        if self.choose.random() < 0.5:
            return self.g.call(aten.flip.default, q, [self.choose.choice((1, 2)), 3])
        shifts = [self.choose.randint(-3, 3), self.choose.randint(-3, 3)]
        return self.g.call(aten.roll.default, q, shifts, [2, 3])

    def _float_island(self, q: Node) -> Node:
        return self.g.quantize(self.g.call(aten.relu.default, self.g.dequantize(q)))


def _float32(value: float) -> float:
    return torch.tensor(value, dtype=torch.float32).item()
