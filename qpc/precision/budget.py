"""What bits cost: bytes of weights, and bit operations."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from torch.fx import GraphModule, Node

from qpc.analysis.quantization import QuantizationPlan
from qpc.channels.cost import Sizes, source_parameter
from qpc.errors import ConfigError
from qpc.layers import weighted
from qpc.meta import attribute
from qpc.precision.parts import Part
from qpc.registry import spec_of

_FLOAT_BITS = 32
_REFERENCE_BITS = 8  # what shares are relative to
_BYTE = 8


@dataclass(frozen=True)
class BitBudget:
    """What a model may cost, one of the two or both.

    weight_bytes: of the weights of all layers, packed; layers that stay in float count 4 bytes a
    weight. Biases and scales, which are the same for all bits, do not count.
    bit_operations: multiply-accumulates at batch size 1, each times the bits of its weight (32 in
    float) times the bits of its input (van Baalen et al. 2020, arXiv:2005.07093).

    Each is a number, or a share of what 8 bits everywhere cost, such as "60%".
    """

    weight_bytes: float | str | None = None
    bit_operations: float | str | None = None

    def __post_init__(self) -> None:
        if self.weight_bytes is None and self.bit_operations is None:
            raise ConfigError(
                "a budget needs weight_bytes or bit_operations", fix='BitBudget(weight_bytes="60%")'
            )
        for name in ("weight_bytes", "bit_operations"):
            value = getattr(self, name)
            if value is not None and _amount(value, 1.0) is None:
                raise ConfigError(
                    f"{name} must be a number above 0 or a share such as '60%', got {value!r}"
                )


@dataclass(frozen=True)
class Product:
    """Multiply-accumulates of two operands, each of which has the bits of a part; None: 32 bits."""

    macs: int
    first: Part | None
    second: Part | None

    def cost(self, bits: Mapping[Part, int]) -> int:
        """Its bit operations."""
        a, b = (_FLOAT_BITS if p is None else bits[p] for p in (self.first, self.second))
        return self.macs * a * b


@dataclass(frozen=True)
class Costs:
    """The costs of a graph as functions of the bits of its parts.

    float_weights: the weights of layers that stay in float.
    """

    parts: tuple[Part, ...]
    products: tuple[Product, ...]
    float_weights: int

    def weight_bytes(self, bits: Mapping[Part, int]) -> int:
        """Those of all weights, each part packed and rounded up to a byte."""
        return sum(self.part_bytes(part, bits[part]) for part in self.parts) + self.float_bytes

    def part_bytes(self, part: Part, bits: int) -> int:
        """Those of one part."""
        return -(-part.weights * bits // _BYTE)

    @property
    def float_bytes(self) -> int:
        """Those of layers that stay in float."""
        return self.float_weights * _FLOAT_BITS // _BYTE

    def bit_operations(self, bits: Mapping[Part, int]) -> int:
        """Those of all products."""
        return sum(product.cost(bits) for product in self.products)

    def limits(self, budget: BitBudget) -> tuple[float, float]:
        """The most bytes and bit operations that a budget allows; inf for no limit."""
        full = dict.fromkeys(self.parts, _REFERENCE_BITS)
        wholes = (self.weight_bytes(full), self.bit_operations(full))
        given = (budget.weight_bytes, budget.bit_operations)
        limits = [
            math.inf if value is None else _amount(value, whole)
            for value, whole in zip(given, wholes, strict=True)
        ]
        assert limits[0] is not None
        assert limits[1] is not None
        return limits[0], limits[1]


def costs_of(gm: GraphModule, plan: QuantizationPlan, parts: tuple[Part, ...]) -> Costs:
    """What a tidy float graph costs under a plan."""
    products: dict[tuple[Part | None, Part | None], int] = {}
    for macs, *operands in _products(gm, plan, parts):
        first, second = operands
        products[first, second] = products.get((first, second), 0) + macs
    return Costs(
        parts,
        tuple(Product(macs, first, second) for (first, second), macs in products.items()),
        _float_weights(gm, plan),
    )


def _float_weights(gm: GraphModule, plan: QuantizationPlan) -> int:
    sizes, rounded = {}, set()
    for node in gm.graph.nodes:
        layer = weighted(node)
        source = None if layer is None else source_parameter(layer.weight)
        if source is not None:
            tensor = attribute(gm, str(source.target))
            sizes[id(tensor)] = tensor.numel()
            if node in plan.integer:
                rounded.add(id(tensor))
    return sum(size for key, size in sizes.items() if key not in rounded)


def _products(
    gm: GraphModule, plan: QuantizationPlan, parts: tuple[Part, ...]
) -> Iterator[tuple[int, Part | None, Part | None]]:
    sizes = Sizes(gm, None)
    weights = {name: p for p in parts if p.kind == "weights" for name in p.nodes}
    values = {name: p for p in parts if p.kind == "activations" for name in p.nodes}
    for node in gm.graph.nodes:
        macs = _macs(node, sizes)
        if not macs:
            continue
        layer = weighted(node)
        if node not in plan.integer:
            yield macs, None, None
        elif layer is not None:
            yield macs, weights.get(node.name), values.get(layer.input.name)
        else:
            first, second = [values.get(n.name) for n in node.all_input_nodes if n in plan.carrier]
            yield macs, first, second


def _macs(node: Node, sizes: Sizes) -> int:
    """Multiply-accumulates of one call at batch size 1."""
    layer, spec = weighted(node), spec_of(node)
    if layer is not None:
        positions = list(sizes.shape(layer.input if layer.transposed else node))
        del positions[layer.channel_axis]
        return math.prod(positions) * math.prod(sizes.shape(layer.weight))
    if spec is None or spec.macs is None:
        return 0
    return sum(math.prod(int(s) for s in product) for product in spec.macs(sizes, node))


def _amount(value: object, whole: float) -> float | None:
    """A number, or a share of `whole`; None if it is neither."""
    if isinstance(value, str):
        text = value.strip()
        if not text.endswith("%"):
            return None
        try:
            number = float(text.removesuffix("%")) / 100 * whole
        except ValueError:
            return None
    elif isinstance(value, int | float) and not isinstance(value, bool):
        number = float(value)
    else:
        return None
    return number if math.isfinite(number) and number > 0 else None
