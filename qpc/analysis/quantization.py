"""Which operators become integer operators, and which values share one grid.

Convolutions and linear layers decide: an operator of another kind is integer only where all its
inputs are, and only together with at least one such layer, so that nothing is rounded for no gain.

Values share a grid where that makes an operator cheaper at no loss: moving values keeps their grid;
the producer of a ReLU takes the ReLU's grid, because clamping an integer is then all that is left
of it; the operands of a concat take the grid of the concat. A value that has other readers keeps a
grid of its own.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import prod

import torch
from torch.fx import GraphModule, Node

from qpc.analysis.affine import ChannelAffine
from qpc.analysis.origins import (
    activations,
    computed,
    maker,
    multiplies_by_parameter,
    reported_calls,
)
from qpc.calls import aten
from qpc.layers import float_layer
from qpc.meta import info, label
from qpc.ops.clamp import Clamp
from qpc.ops.concat import Cat
from qpc.ops.linear import Linear
from qpc.ops.movement import Dropout
from qpc.ops.padding import Pad, PadByValues
from qpc.ops.pooling import AvgPool2d
from qpc.ops.reduction import Mean, Sum
from qpc.quant.arithmetic import MOST_SUMMED
from qpc.quant.config import LayerConfig, QuantConfig, Site
from qpc.registry import Role, op_name, spec_of

KEPT_IN_FLOAT = "kept in float by the configuration"
"""The reason of operators that could be integer."""


@dataclass(frozen=True)
class QuantizationPlan:
    """The result of `plan_quantization`.

    integer: operators that become integer operators.
    declined: operators that stay in float although they could matter, with the reason.
    carrier: for each quantized value the node after which its statistics are taken; one per shared
    grid.
    configs: the configuration of each integer operator and each carrier's grid.
    sites: every place that the configuration was asked about.
    """

    integer: frozenset[Node]
    declined: dict[Node, str]
    carrier: dict[Node, Node]
    configs: dict[Node, LayerConfig]
    grid_configs: dict[Node, LayerConfig]
    sites: tuple[Site, ...]


def plan_quantization(gm: GraphModule, config: QuantConfig) -> QuantizationPlan:
    """Decide for every node of a core-form graph whether and how it is quantized."""
    configs = _Configs(config, _positions(gm))
    reasons: dict[Node, str] = {}
    candidates: set[Node] = set()
    for node in gm.graph.nodes:
        if node.op != "call_function":
            continue
        why = _why_float(node, configs)
        if why is None:
            candidates.add(node)
        else:
            reasons[node] = why
    _drop_unfed(candidates, reasons, configs)
    _drop_without_layer(candidates, reasons)
    carrier, owner = _share_grids(gm, candidates)
    reported = reported_calls(gm)
    return QuantizationPlan(
        integer=frozenset(candidates),
        declined={n: why for n, why in reasons.items() if n in reported},
        carrier=carrier,
        configs={n: c for n in candidates if (c := configs.of(n)) is not None},
        grid_configs={c: configs.of(o) or config.default for c, o in owner.items()},
        sites=tuple(configs.seen),
    )


@dataclass
class _Configs:
    """The configuration by node, and a record of every question."""

    config: QuantConfig
    positions: dict[Node, str]
    seen: list[Site] = field(default_factory=list)

    def of(self, node: Node) -> LayerConfig | None:
        site = Site(info(node).module_path, _site_op(node), self.positions.get(node))
        self.seen.append(site)
        return self.config.resolve(module=site.module, op=site.op, position=site.position)


def _site_op(node: Node) -> str:
    return "input" if node.op == "placeholder" else op_name(node)


def role_of(node: Node) -> Role:
    """The role of a call under quantization.

    Arithmetic with one number is pointwise, and with a number for each channel affine.
    """
    if _constant_arithmetic(node):
        return Role.POINTWISE
    if ChannelAffine.of(node) is not None:
        return Role.AFFINE
    spec = spec_of(node)
    return spec.role if spec is not None else Role.FLOAT


def _constant_arithmetic(node: Node) -> bool:
    """Whether a call has one tensor that is computed; the other operand is a number, or one too."""
    if node.target not in (aten.add.Tensor, aten.sub.Tensor, aten.mul.Tensor, aten.div.Tensor):
        return False
    constants = [n for n in node.all_input_nodes if n.op == "get_attr"]
    return len(activations(node)) == 1 and all(_is_one_number(n) for n in constants)


def _is_one_number(node: Node) -> bool:
    return all(size == 1 for size in info(node).shape or ())


# --- candidates -----------------------------------------------------------------------------------


def _why_float(node: Node, configs: _Configs) -> str | None:
    """Why one operator must stay in float, by itself; None if it can be an integer operator."""
    role = role_of(node)
    if role in (Role.FLOAT, Role.RECURRENT):
        hint = "; nn.Linear has one" if multiplies_by_parameter(node) else ""
        return f"{op_name(node)} has no integer form{hint}"
    if info(node).dtype is not torch.float32:
        return f"{op_name(node)} works on {info(node).dtype}"
    tensors = [n for n in node.all_input_nodes if n.op != "get_attr"]
    if any(info(n).dtype is None for n in tensors):
        return "its sizes are computed"
    if any(info(n).dtype is not torch.float32 for n in tensors):
        return "an input is not float32"
    if why := _REFUSALS[role](node):
        return why
    return None if configs.of(node) is not None else KEPT_IN_FLOAT


def _refuse_compute(node: Node) -> str | None:
    layer = float_layer(node)
    if layer is None:
        return f"{op_name(node)} has no integer form yet"
    if layer.weight.op != "get_attr":
        return f"its weight {computed(layer.weight)}"
    if layer.bias is not None and layer.bias.op != "get_attr":
        return f"its bias {computed(layer.bias)}"
    if layer.input.op == "get_attr":
        return "its input is a parameter"
    if not isinstance(layer, Linear) and len(info(node).shape or ()) != 4:
        return "the convolution has no batch dimension"
    return None


def _refuse_affine(node: Node) -> str | None:
    source = node
    while len(activations(source)) == 1 and role_of(source) is not Role.COMPUTE:
        source = activations(source)[0]
    if source.op == "placeholder":
        return "it reads an input of the model, whose channels may differ too much for one grid"
    shape = info(node).shape or ()
    if any(not isinstance(size, int) for size in shape[1:]):
        return "an axis other than the first grows with the batch"
    return None


def _refuse_combine(node: Node) -> str | None:
    if any(n.op == "get_attr" for n in node.all_input_nodes):
        return "an operand is a parameter"
    return None


def _refuse_reduce(node: Node) -> str | None:
    if mean := Mean.of(node) or Sum.of(node):
        dims = {d % len(info(mean.input).shape or (0,)) for d in mean.dims}
        sizes = [s for d, s in enumerate(info(mean.input).shape or ()) if d in dims]
        fixed = [size for size in sizes if isinstance(size, int)]
        if not dims or 0 in dims or len(fixed) < len(sizes):
            return "it reduces the batch"
        return _refuse_sum(prod(fixed))
    pool = AvgPool2d(node)
    if pool.ceil_mode:
        return "average pooling with ceil_mode divides by varying counts"
    if pool.padding != (0, 0) and not pool.count_include_pad:
        return "average pooling without counting the padding divides by varying counts"
    return _refuse_sum(prod(pool.kernel_size))


def _refuse_sum(count: int) -> str | None:
    if count <= MOST_SUMMED:
        return None
    return f"its sum of {count} values may not fit 32 bits, which {MOST_SUMMED} always do"


def _refuse_clamp(node: Node) -> str | None:
    clamp = Clamp.of(node)
    if clamp is None:
        return None
    if not all(v is None or isinstance(v, int | float) for v in (clamp.min, clamp.max)):
        return "its bounds are tensors"
    return None


def _refuse_move(node: Node) -> str | None:
    if (pad := Pad.of(node)) and pad.value != 0:
        return f"it pads with {pad.value}, not with 0"
    if (pad_by := PadByValues.of(node)) and (
        len(pad_by.pad) != 4 or len(info(node).shape or ()) != 4
    ):
        return "it pads something else than the rows and columns of images"
    if (drop := Dropout.of(node)) and drop.train:
        return "dropout is in training mode"
    if any(n.op == "get_attr" for n in node.all_input_nodes):
        return "it moves a parameter"
    return None


def _refuse_pointwise(node: Node) -> str | None:
    if len(activations(node)) != 1:
        return "it has more than one tensor input"
    for constant in node.all_input_nodes:
        if constant.op == "get_attr" and not _is_one_number(constant):
            return f"its parameter {constant.target} has more than one number"
    if len(info(node).shape or ()) != len(info(activations(node)[0]).shape or ()):
        return "its parameter adds axes"
    return None


_REFUSALS = {
    Role.COMPUTE: _refuse_compute,
    Role.AFFINE: _refuse_affine,
    Role.COMBINE: _refuse_combine,
    Role.REDUCE: _refuse_reduce,
    Role.CLAMP: _refuse_clamp,
    Role.MOVE: _refuse_move,
    Role.INTERPOLATE: _refuse_move,
    Role.POINTWISE: _refuse_pointwise,
}


def _drop_unfed(candidates: set[Node], reasons: dict[Node, str], configs: _Configs) -> None:
    """Drop operators with an input that is not quantized, until none is left.

    Layers quantize their input themselves, unless the configuration forbids it.
    """
    pending = sorted(candidates)
    while pending:
        node = pending.pop(0)
        if node not in candidates:
            continue
        for source in activations(node):
            if source in candidates or _quantizable_source(node, source, configs):
                continue
            candidates.discard(node)
            kept = "is kept" if role_of(node) is Role.COMPUTE else "stays"
            reasons[node] = f"its input {label(maker(source))} {kept} in float"
            pending += [u for u in node.users if u in candidates]
            break


def _quantizable_source(node: Node, source: Node, configs: _Configs) -> bool:
    if source.op == "placeholder" or role_of(node) is Role.COMPUTE:
        return configs.of(source) is not None or source.op != "placeholder"
    return False


def _drop_without_layer(candidates: set[Node], reasons: dict[Node, str]) -> None:
    """Drop connected groups of integer operators that hold no convolution or linear layer."""
    unseen = set(candidates)
    while unseen:
        group, pending = set(), [unseen.pop()]
        while pending:
            node = pending.pop()
            group.add(node)
            near = {*activations(node), *node.users} & unseen
            unseen -= near
            pending += near
        if not any(role_of(n) is Role.COMPUTE for n in group):
            candidates -= group
            for node in group:
                reasons[node] = "no quantized convolution or linear layer is next to it"


# --- shared grids ---------------------------------------------------------------------------------


def _share_grids(gm: GraphModule, integer: set[Node]) -> tuple[dict[Node, Node], dict[Node, Node]]:
    """`carrier` of every quantized value, and the `owner` of every carrier's configuration."""
    grids = _Grids()
    for node in gm.graph.nodes:
        if node not in integer:
            continue
        sources = activations(node)
        for source in sources:
            grids.add(source)
        role = role_of(node)
        if role in (Role.MOVE, Role.INTERPOLATE):
            grids.follow(node, sources[0])
        elif role is Role.CLAMP and _adopts(sources[0], integer, grids):
            grids.take_over(node, sources[0], owner=grids.owner_of(sources[0]))
        else:
            grids.add(node)
            if Cat.matches(node):
                for source in sources:
                    if _adopts(source, integer, grids):
                        grids.take_over(node, source, owner=node)
    return grids.carriers()


def _adopts(value: Node, integer: set[Node], grids: _Grids) -> bool:
    """Whether the grid of `value` may be chosen by its only reader.

    Not through an interpolation: on a grid that ends sooner, its inputs would be clamped.
    """
    while True:
        if len(value.users) != 1:
            return False
        if value in integer and role_of(value) is Role.INTERPOLATE:
            return False
        keeps_grid = value in integer and (
            role_of(value) is Role.MOVE
            or (role_of(value) is Role.CLAMP and grids.same(value, activations(value)[0]))
        )
        if not keeps_grid:
            return True
        value = activations(value)[0]


class _Grids:
    """Disjoint sets of values; each set has a carrier and an owner."""

    def __init__(self) -> None:
        self._parent: dict[Node, Node] = {}
        self._carrier: dict[Node, Node] = {}
        self._owner: dict[Node, Node] = {}

    def add(self, node: Node) -> None:
        if node not in self._parent:
            self._parent[node] = self._carrier[node] = self._owner[node] = node

    def follow(self, node: Node, source: Node) -> None:
        """`node` has the grid of `source`."""
        self._parent[node] = self._root(source)

    def take_over(self, node: Node, source: Node, *, owner: Node) -> None:
        """`source` has the grid of `node`, whose values are the ones that count."""
        self.add(node)
        old, new = self._root(source), self._root(node)
        self._parent[old] = new
        self._carrier[new], self._owner[new] = node, owner

    def same(self, a: Node, b: Node) -> bool:
        return self._root(a) is self._root(b)

    def owner_of(self, node: Node) -> Node:
        return self._owner[self._root(node)]

    def carriers(self) -> tuple[dict[Node, Node], dict[Node, Node]]:
        carrier = {node: self._carrier[self._root(node)] for node in self._parent}
        owner = {self._carrier[self._root(n)]: self._owner[self._root(n)] for n in self._parent}
        return carrier, owner

    def _root(self, node: Node) -> Node:
        while self._parent[node] is not node:
            node = self._parent[node]
        return node


# --- places and reports ---------------------------------------------------------------------------


def _positions(gm: GraphModule) -> dict[Node, str]:
    """Where a model begins and ends.

    "input": the graph's inputs, and the first layers that read them, also through operators of one
    tensor, such as a normalisation. "output": the last layers before the graph's outputs, likewise.
    """
    found: dict[Node, str] = {}
    for node in gm.graph.nodes:
        if node.op == "output":
            for value in node.all_input_nodes:
                found[_last_layer(value)] = "output"
    leading: set[Node] = set()
    for node in gm.graph.nodes:
        sources = activations(node)
        if node.op == "placeholder" or (len(sources) == 1 and sources[0] in leading):
            found[node] = "input"
            if role_of(node) is not Role.COMPUTE:
                leading.add(node)
    return found


def _last_layer(value: Node) -> Node:
    """The layer that makes an output value, seen through operators of one tensor."""
    while role_of(value) is not Role.COMPUTE and len(activations(value)) == 1:
        value = activations(value)[0]
    return value
