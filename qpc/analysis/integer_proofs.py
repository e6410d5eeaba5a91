"""Proofs that what a graph of integer operators computes fits the integers it is computed in.

Conversion makes only graphs that hold. Graphs that were written by hand, or read from a file, are
checked before they become machine code, where a sum that does not fit would be a wrong result
without a word.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from qpc.calls import Pair, arguments, aten, qpc_ops
from qpc.errors import BackendError, OverflowProofError, QPCError
from qpc.layers import outputs_first
from qpc.meta import attribute, label
from qpc.ops.clamp import Clamping
from qpc.ops.padding import Pad
from qpc.ops.reduction import reduced_axes
from qpc.ops.resize import POSITIONS
from qpc.quant.arithmetic import average_multiplier, require_sum
from qpc.quant.fixedpoint import INT32_MAX, accumulator_bounds
from qpc.quant.grid import LARGEST_SCALE, SMALLEST_SCALE
from qpc.types import Concrete, TensorType

_MOST_ELEMENTS = 2**31 - 1
_MOST_SHIFT = 30
_INT16 = range(-(2**15), 2**15)
_REPAIR = "let qpc.quantize make the graph"


def check_integers(gm: GraphModule, types: Mapping[Node, Concrete]) -> None:
    """Raise at the first integer operator whose numbers are not legal or whose sums might not fit.

    types: what every node yields, at one batch size. Raises OverflowProofError for sums,
    BackendError for all else.
    """
    proof = _Proof(gm, types, {})
    for node in gm.graph.nodes:
        if node.target not in _CHECKS:
            continue
        try:
            proof.check_numbers(node)
            _CHECKS[node.target](proof, node)
        except QPCError as e:
            if e.node is not None:
                raise
            raise type(e)(f"{label(node)}: {e.what}", node=node, fix=e.fix or _REPAIR) from e


@dataclass(frozen=True)
class _Proof:
    """One walk; `ranges` holds the least and the greatest integer of the values seen so far."""

    gm: GraphModule
    types: Mapping[Node, Concrete]
    ranges: dict[Node, tuple[int, int]]

    def type(self, node: Node) -> TensorType:
        found = self.types[node]
        if not isinstance(found, TensorType):
            raise BackendError("it is not a tensor")
        return found

    def tensor(self, node: Node, name: str, dtype: torch.dtype) -> Tensor:
        """An argument that is a constant."""
        given = arguments(node)[name]
        if not isinstance(given, Node) or given.op != "get_attr":
            raise BackendError(f"{name!r} of {node.target} must be a constant")
        found = attribute(self.gm, str(given.target)).detach()
        if found.dtype is not dtype:
            raise BackendError(f"{name!r} is {found.dtype}, not {dtype}")
        return found

    def range(self, node: Node) -> tuple[int, int]:
        """The least and the greatest integer that a value may be."""
        pending = [node]
        while pending:
            top = pending[-1]
            unknown = [n for n in _sources(top) if n not in self.ranges]
            if unknown:
                pending += unknown
            else:
                self.ranges[pending.pop()] = self._range(top)
        return self.ranges[node]

    def _range(self, node: Node) -> tuple[int, int]:
        given = arguments(node) if node.op == "call_function" else {}
        inputs = [self.ranges[n] for n in _sources(node)]
        if node.target is qpc_ops.lookup.default:
            table = self.tensor(node, "table", self.type(node).dtype)
            return int(table.min()), int(table.max())
        if node.target is qpc_ops.clamp.default:
            ((least, greatest),) = inputs
            lo, hi = given["lo"], given["hi"]
            return min(max(least, lo), hi), min(max(greatest, lo), hi)
        if Clamping.matches(node):
            return given["lo"], given["hi"]
        if pad := Pad.of(node):
            inputs.append((int(pad.value), int(pad.value)))
        if not inputs:
            limits = torch.iinfo(self.type(node).dtype)
            return limits.min, limits.max
        return min(least for least, _ in inputs), max(greatest for _, greatest in inputs)

    def check_numbers(self, node: Node) -> None:
        """Sizes, zero points and bounds of any integer operator."""
        tensors = [n for n in (node, *node.all_input_nodes) if n.op != "get_attr"]
        sizes = [prod(self.type(n).shape) for n in tensors]
        if max(sizes) > _MOST_ELEMENTS:
            raise BackendError(f"a tensor of {max(sizes)} elements is too large to be addressed")
        given = arguments(node)
        integers = [self.type(n).dtype for n in tensors if not self.type(n).dtype.is_floating_point]
        if integers[0] not in (torch.uint8, torch.int8):
            raise BackendError(f"it works on {integers[0]}, not on integers of 8 bits")
        limits = torch.iinfo(integers[0])
        for name, value in given.items():
            point = name.endswith("zero_point") or name in ("lo", "hi")
            if point and not limits.min <= value <= limits.max:
                raise BackendError(f"{name!r} is {value}, which is no {integers[0]}")
        if "lo" in given and given["lo"] > given["hi"]:
            raise BackendError(f"its bounds are {given['lo']} and {given['hi']}")
        if isinstance(given.get("multiplier"), float):
            _require_multiplier(torch.tensor(given["multiplier"], dtype=torch.float32))
        for name in ("scale", "input_scale", "output_scale"):
            if name in given and not SMALLEST_SCALE <= given[name] <= LARGEST_SCALE:
                raise BackendError(f"{name!r} must be from 2**-126 to 2**119, got {given[name]!r}")


def _sources(node: Node) -> list[Node]:
    """The values whose integers those of `node` are: none for operators that make new ones."""
    makes_new = Clamping.matches(node) and node.target is not qpc_ops.clamp.default
    if node.op != "call_function" or makes_new or node.target not in _KEEP_INTEGERS:
        return []
    return [n for n in node.all_input_nodes if n.op != "get_attr"]


def _require_multiplier(multiplier: Tensor) -> None:
    if not bool((torch.isfinite(multiplier) & (multiplier >= 0)).all()):
        raise BackendError("a requantization multiplier is negative, infinite or NaN")


def _check_layer(proof: _Proof, node: Node) -> None:
    given = arguments(node)
    weight, bias = proof.tensor(node, "weight", torch.int8), proof.tensor(node, "bias", torch.int32)
    if node.target is qpc_ops.conv_transpose2d.default:
        weight = outputs_first(weight, 1, given["groups"])
    multiplier = proof.tensor(node, "multiplier", torch.float32)
    if not weight.shape[0] == bias.numel() == multiplier.numel():
        raise BackendError(
            f"{weight.shape[0]} outputs, {bias.numel()} biases and {multiplier.numel()} multipliers"
        )
    _require_multiplier(multiplier)
    least, greatest = proof.range(given["q"])
    zero_point = given["input_zero_point"]  # what padding counts as, wherever the values lie
    bounds = min(least, zero_point), max(greatest, zero_point)
    lowest, highest = accumulator_bounds(weight, bias, zero_point, *bounds)
    worst = max(int(highest.max()), -int(lowest.min()))
    if worst > INT32_MAX:
        raise OverflowProofError(f"its accumulator can reach {worst}, which does not fit 32 bits")


def _check_add(proof: _Proof, node: Node) -> None:
    """`2 * 255 * 2**15 + 2**29` at the most."""
    given = arguments(node)
    for name in ("a_multiplier", "b_multiplier"):
        if given[name] not in _INT16:
            raise BackendError(f"{name!r} is {given[name]}, which does not fit 16 bits")
    if not 0 <= given["shift"] <= _MOST_SHIFT:
        raise BackendError(f"'shift' must be from 0 to {_MOST_SHIFT}, got {given['shift']}")


def _check_pool(proof: _Proof, node: Node) -> None:
    require_sum(prod(Pair().decode(arguments(node)["kernel_size"])))


def _check_sum(proof: _Proof, node: Node) -> None:
    given = arguments(node)
    shape = proof.type(given["q"]).shape
    count = prod(shape[axis] for axis in reduced_axes(given["dims"], len(shape)))
    require_sum(count)
    if "input_scale" in given:
        average_multiplier(given["input_scale"], given["output_scale"], count)


def _check_resize(proof: _Proof, node: Node) -> None:
    """`255 * POSITIONS**2 + POSITIONS**2 / 2` at the most."""
    given = arguments(node)
    size = proof.type(given["q"]).shape[-2:]
    if size != tuple(given["input_size"]):
        raise BackendError(
            f"it resizes images of {tuple(given['input_size'])} pixels, not of {size}"
        )
    for name, pixels in zip(("rows", "columns"), size, strict=True):
        places = proof.tensor(node, name, torch.int32)
        if places.numel() and not 0 <= int(places.min()) <= int(places.max()) <= (
            (pixels - 1) * POSITIONS
        ):
            raise BackendError(f"{name!r} has places outside the image")


def _check_lookup(proof: _Proof, node: Node) -> None:
    table = proof.tensor(node, "table", proof.type(arguments(node)["q"]).dtype)
    if table.numel() != 256:
        raise BackendError(f"a table has 256 entries, not {table.numel()}")


def _nothing_more(proof: _Proof, node: Node) -> None:
    """Products of two differences, maxima and single values fit by themselves."""


_CHECKS: dict[object, Callable[[_Proof, Node], None]] = {
    qpc_ops.conv2d.default: _check_layer,
    qpc_ops.conv_transpose2d.default: _check_layer,
    qpc_ops.linear.default: _check_layer,
    qpc_ops.add.default: _check_add,
    qpc_ops.mul.default: _nothing_more,
    qpc_ops.max_pool2d.default: _nothing_more,
    qpc_ops.avg_pool2d.default: _check_pool,
    qpc_ops.sum.default: _check_sum,
    qpc_ops.mean.default: _check_sum,
    qpc_ops.resize2d.default: _check_resize,
    qpc_ops.lookup.default: _check_lookup,
    qpc_ops.clamp.default: _nothing_more,
    qpc_ops.quantize.default: _nothing_more,
    qpc_ops.dequantize.default: _nothing_more,
}

_KEEP_INTEGERS: frozenset[Any] = frozenset(
    {
        qpc_ops.clamp.default,
        qpc_ops.max_pool2d.default,
        qpc_ops.resize2d.default,
        aten.reshape.default,
        aten.permute.default,
        aten.slice.Tensor,
        aten.select.int,
        aten.cat.default,
        aten.flip.default,
        aten.roll.default,
        aten.pixel_shuffle.default,
        aten.pixel_unshuffle.default,
        aten.channel_shuffle.default,
        aten.constant_pad_nd.default,
    }
)
"""What only picks among the integers that it reads; any other operator may yield any integer."""
