"""The levels of a graph, from float to integer, and all that each of them says of it.

    core form       node info has the shapes and dtypes that the operators yield
    observed        every observer has its call, its settings and its statistics
    calibrated      and these are of data
    fake-quantized  scales and zero points are those of the grids in node info, and of legal size;
                    integer operators-to-be read rounded values, and weights rounded symmetrically
    integer         values are on grids of their own dtype, every number is legal, no sum can
                    overflow, and float operators stand between integer ones only with a reason

These are the proofs of the facts in `qpc.facts`, which only look at what every pass can afford.
Each returns the first violation, with its node, or None.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import nn
from torch._ops import OpOverload
from torch.fx import GraphModule, Node

from qpc.analysis.integer_proofs import check_integers
from qpc.analysis.layer_sums import joined_layer
from qpc.analysis.roundings import grid_tensor, unrounded
from qpc.calls import arguments, qpc_ops
from qpc.errors import QPCError
from qpc.facts import Violation, observer_state
from qpc.layers import float_layer
from qpc.meta import attribute, info, label
from qpc.quant.fixedpoint import weight_limit
from qpc.quant.grid import LARGEST_SCALE, SMALLEST_SCALE, QParams
from qpc.registry import Role, quantization_of, role_of
from qpc.shapes import concrete_shapes
from qpc.types import TensorType, format_shape, resolve

_BATCHES = (2, 3)  # two sizes tell a size that grows with the batch from one that does not


def core_form(gm: GraphModule) -> Violation | None:
    """Node info says what the operators yield."""
    for batch in _BATCHES:
        try:
            types = concrete_shapes(gm, batch)
        except QPCError as e:
            return Violation(e.what, e.node)
        for node, found in types.items():
            about = info(node)
            if about.shape is None or not isinstance(found, TensorType):
                continue
            noted = TensorType(resolve(about.shape, batch), about.dtype or found.dtype)
            if noted != found:
                return Violation(
                    f"{label(node)} yields {found.dtype} of shape {found.shape} for a batch of "
                    f"{batch}, but {about.dtype} of shape {format_shape(about.shape)} is noted",
                    node,
                )
    return None


# --- observers ------------------------------------------------------------------------------------


def observed(gm: GraphModule) -> Violation | None:
    """Every observer has its call, its settings and the statistics that these keep."""
    calls: dict[str, Node] = {}
    modules = {name for name, _ in gm.named_modules()}
    for node in _calls(gm, qpc_ops.observe.default):
        name, config = str(node.args[1]), info(node).config
        if name in calls:
            return Violation(f"{node.name} and {calls[name].name} have one observer", node)
        if name not in modules:
            return Violation(f"there is no observer {name!r}", node)
        if config is None:
            return Violation(f"observer {name!r} has no configuration", node)
        wanted, found = config.activation.observer.init().keys(), observer_state(gm, node).keys()
        if wanted != found:
            return Violation(f"observer {name!r} keeps {sorted(found)}, not {sorted(wanted)}", node)
        calls[name] = node
    for node in gm.graph.nodes:
        if (name_ := info(node).observer) is not None and name_ not in calls:
            return Violation(f"{label(node)} has the observer {name_!r}, which is not called", node)
    return _reads_unknown(gm, lambda node: info(node).observer is not None, "has no observer")


def calibrated(gm: GraphModule) -> Violation | None:
    """Statistics are finite numbers."""
    for node in _calls(gm, qpc_ops.observe.default):
        if info(node).qparams is not None:
            continue  # its grid was given, whatever it has seen
        for key, value in observer_state(gm, node).items():
            if not bool(torch.isfinite(value.double()).all()):
                return Violation(f"{key!r} of observer {node.args[1]!r} is not finite", node)
    return None


# --- fake quantization ----------------------------------------------------------------------------


def fake_quantized(gm: GraphModule) -> Violation | None:
    """Rounding is to legal grids, those in node info, wherever integer operators will read."""
    for node in _calls(gm, qpc_ops.fake_quantize.default):
        if problem := _grid_problem(gm, node):
            return Violation(f"{label(node)}: {problem}", node)
    for node in gm.graph.nodes:
        layer = float_layer(node) if info(node).integer else None
        if layer is not None and layer.weight.target is not qpc_ops.fake_quantize.default:
            return Violation(f"the weight of {label(node)} is not rounded", node)
    return _reads_unknown(gm, lambda node: info(node).qparams is not None, "has no grid")


def _grid_problem(gm: GraphModule, node: Node) -> str | None:
    """What is wrong with one call that rounds, of a value or of a weight."""
    given = arguments(node)
    tensors = [grid_tensor(node, name) for name in ("scale", "zero_point")]
    if any(t.op != "get_attr" for t in tensors):
        return "its grid is no constant"
    scale, zero_point = (attribute(gm, str(t.target)) for t in tensors)
    lo, hi = int(given["lo"]), int(given["hi"])
    moves = given["range"] is not None
    if moves or isinstance(scale, nn.Parameter) or isinstance(zero_point, nn.Parameter):
        return None  # what they are is a grid once they are frozen
    if not bool(((scale >= SMALLEST_SCALE) & (scale <= LARGEST_SCALE)).all()):
        return "a scale is not from the smallest to the largest that a grid may have"
    if not bool(((zero_point >= lo) & (zero_point <= hi)).all()):
        return f"a zero point is not from {lo} to {hi}"
    grid = info(node).qparams
    if grid is None:
        return _weight_problem(node, zero_point, lo, hi)
    noted = (grid.scale, grid.zero_point, grid.lo, grid.hi)
    found = (float(scale), int(zero_point), lo, hi)
    return None if found == noted else f"it rounds to {found}, but {noted} is noted"


def _weight_problem(node: Node, zero_point: torch.Tensor, lo: int, hi: int) -> str | None:
    readers = [info(user).config for user in node.users]
    if bool((zero_point != 0).any()) or lo not in (-hi, -hi - 1):
        return "weights must be rounded symmetrically"
    for config in readers:
        if config is not None and hi != weight_limit(config.weight.bits):
            return f"weights of {config.weight.bits} bits are rounded to {lo}..{hi}"
    return None


# --- integers -------------------------------------------------------------------------------------


def integer(gm: GraphModule) -> Violation | None:
    """Values have grids of their dtype, nothing can overflow, and floats stay for a reason."""
    for node in gm.graph.nodes:
        about = info(node)
        if about.dtype in (torch.int8, torch.uint8) and node.op == "call_function":
            grid = about.qparams
            if grid is not None and (problem := _integer_grid_problem(node, grid)):
                return Violation(f"{label(node)}: {problem}", node)
    try:
        check_integers(gm, concrete_shapes(gm, 1))
    except QPCError as e:
        return Violation(e.what, e.node)
    return _float_between(gm)


def _integer_grid_problem(node: Node, grid: QParams) -> str | None:
    if grid.dtype is not info(node).dtype:
        return f"its grid is of {grid.dtype}, its value of {info(node).dtype}"
    if node.target is qpc_ops.quantize.default:
        given = arguments(node)
        found = tuple(given[name] for name in ("scale", "zero_point", "lo", "hi"))
        noted = (grid.scale, grid.zero_point, grid.lo, grid.hi)
        if found != noted:
            return f"it rounds to {found}, but {noted} is noted"
    return None


def _float_between(gm: GraphModule) -> Violation | None:
    """A float operator between two integer ones of which nobody said why it stays float."""
    after: set[Node] = set()
    for node in gm.graph.nodes:
        follows = _is_float_call(node) and not after.isdisjoint(node.all_input_nodes)
        if follows or _leaves_integers(node):
            after.add(node)
    before: set[Node] = set()
    for node in reversed(gm.graph.nodes):
        reads_float = node.target is qpc_ops.quantize.default or node in before
        if reads_float:
            before.update(n for n in node.all_input_nodes if n in after)
    for node in gm.graph.nodes:
        between = node in before and not _leaves_integers(node)
        if between and not _is_float_for_a_reason(node):
            return Violation(f"{label(node)} stays in float between integers without reason", node)
    return None


def _is_float_for_a_reason(node: Node) -> bool:
    """It has one, or is a layer of another mode, or moves values to operators that have one."""
    if info(node).declined or role_of(node) is Role.STORED:
        return True
    rounded = any(user.target is qpc_ops.quantize.default for user in node.users)
    return quantization_of(node).leaves_values and not rounded


def _leaves_integers(node: Node) -> bool:
    """Whether an operator reads integers and makes floats: `dequantize`, and many that sum."""
    ours = isinstance(node.target, OpOverload) and node.target.namespace == "qpc"
    if not ours or not _is_float_call(node):
        return False
    return any(info(n).dtype in (torch.int8, torch.uint8) for n in _computed(node))


def _computed(node: Node) -> list[Node]:
    return [n for n in node.all_input_nodes if n.op != "get_attr"]


def _is_float_call(node: Node) -> bool:
    dtype = info(node).dtype
    return node.op == "call_function" and dtype is not None and dtype.is_floating_point


# --- what both halves of quantization ask ---------------------------------------------------------


def _calls(gm: GraphModule, target: object) -> Iterator[Node]:
    return (node for node in gm.graph.nodes if node.target is target)


def _reads_unknown(
    gm: GraphModule, is_known: Callable[[Node], bool], what: str
) -> Violation | None:
    """A float value that an integer operator-to-be makes or reads, and that is not known.

    What it makes need not be, if it may end in float32 and no integer operator-to-be reads it, nor
    if it is a layer that joins the addition which reads it.
    """
    for node in gm.graph.nodes:
        if not info(node).integer:
            continue
        layer = float_layer(node)
        sources = node.all_input_nodes if layer is None else [layer.input]
        values = [
            n
            for n in sources
            if unrounded(n).op != "get_attr"
            and _is_float_value(n)
            and not _is_folded(n, node)
            and n is not joined_layer(node)
        ]
        made = [] if quantization_of(node).ends_in_float else [node]
        for value in (*made, *values):
            if not is_known(value):
                reader = "" if value is node else f", which {label(node)} reads,"
                return Violation(f"{label(value)}{reader} {what}", value)
    return None


def _is_folded(value: Node, reader: Node) -> bool:
    """Whether a batch norm is to be folded into the layer that it reads, and ends it in float32."""
    norm = role_of(reader) is Role.AFFINE and info(reader).observer is None
    return norm and float_layer(value) is not None and len(value.users) == 1


def _is_float_value(node: Node) -> bool:
    dtype = info(node).dtype
    return dtype is not None and dtype.is_floating_point
