"""Proofs that what a graph of integer operators computes fits the integers it is computed in.

Conversion makes only graphs that hold. Graphs that were written by hand, or read from a file, are
checked before they become machine code, where a sum that does not fit would be a wrong result
without a word.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from qpc.calls import arguments
from qpc.errors import BackendError, OverflowProofError, QPCError
from qpc.meta import attribute, label
from qpc.quant.arithmetic import require_multiplier
from qpc.quant.fixedpoint import INT32_MAX, accumulator_bounds
from qpc.quant.grid import LARGEST_SCALE, SMALLEST_SCALE
from qpc.registry import spec_of
from qpc.types import Concrete, TensorType

_MOST_ELEMENTS = 2**31 - 1
_REPAIR = "let qpc.quantize make the graph"


def check_integers(gm: GraphModule, types: Mapping[Node, Concrete]) -> None:
    """Raise at the first integer operator whose numbers are not legal or whose sums might not fit.

    types: what every node yields, at one batch size. Raises OverflowProofError for sums,
    BackendError for all else.
    """
    proof = IntegerProof(gm, types, {})
    for node in gm.graph.nodes:
        spec = spec_of(node)
        if spec is None or spec.check is None:
            continue
        try:
            proof.check_numbers(node)
            spec.check(proof, node)
        except QPCError as e:
            if e.node is not None:
                raise
            raise type(e)(f"{label(node)}: {e.what}", node=node, fix=e.fix or _REPAIR) from e


@dataclass(frozen=True)
class IntegerProof:
    """One walk; `ranges` holds the least and the greatest integer of the values seen so far."""

    gm: GraphModule
    types: Mapping[Node, Concrete]
    ranges: dict[Node, tuple[int, int]]

    def type(self, node: Node) -> TensorType:
        """Shape and dtype of a value."""
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
        spec = spec_of(node)
        if spec is not None and spec.bounds is not None:
            return spec.bounds(self, node)
        if spec is not None and spec.ends_with_clamp:
            given = arguments(node)
            return given["lo"], given["hi"]
        inputs = [self.ranges[n] for n in _sources(node)]
        if not inputs:
            limits = torch.iinfo(self.type(node).dtype)
            return limits.min, limits.max
        return min(least for least, _ in inputs), max(greatest for _, greatest in inputs)

    def require_accumulator(
        self, source: Node, weight: Tensor, bias: Tensor, zero_point: int
    ) -> None:
        """Raise OverflowProofError if sums of products with `source` might not fit 32 bits.

        weight: int8[out, ...]; bias: int32[out].
        """
        least, greatest = self.range(source)
        # the zero point is what padding counts as, wherever the values lie
        bounds = min(least, zero_point), max(greatest, zero_point)
        lowest, highest = accumulator_bounds(weight, bias, zero_point, *bounds)
        worst = max(int(highest.max()), -int(lowest.min()))
        if worst > INT32_MAX:
            raise OverflowProofError(
                f"its accumulator can reach {worst}, which does not fit 32 bits"
            )

    def check_numbers(self, node: Node) -> None:
        """Sizes, zero points and bounds of any integer operator."""
        tensors = [n for n in (node, *node.all_input_nodes) if n.op != "get_attr"]
        sizes = [prod(self.type(n).shape) for n in tensors]
        if max(sizes) > _MOST_ELEMENTS:
            raise BackendError(f"a tensor of {max(sizes)} elements is too large to be addressed")
        given = arguments(node)
        integers = [self.type(n).dtype for n in tensors if not self.type(n).dtype.is_floating_point]
        if not integers:
            return  # floats in and out, with integers inside
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
            require_multiplier(torch.tensor(given["multiplier"], dtype=torch.float32))
        for name in ("scale", "input_scale", "output_scale"):
            if name in given and not SMALLEST_SCALE <= given[name] <= LARGEST_SCALE:
                raise BackendError(f"{name!r} must be from 2**-126 to 2**119, got {given[name]!r}")


def _sources(node: Node) -> list[Node]:
    """The values whose integers those of `node` are: none for operators that make new ones."""
    spec = spec_of(node)
    if spec is None or not spec.picks:
        return []
    return [n for n in node.all_input_nodes if n.op != "get_attr"]
