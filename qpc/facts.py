"""Facts: named, checkable statements about a graph."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass, field

from torch import Tensor, nn
from torch._ops import OpOverload
from torch.fx import GraphModule, Node

from qpc.aliasing import written_argument
from qpc.calls import is_shape_arithmetic, qpc_ops
from qpc.errors import ConfigError, PassError
from qpc.foreign import foreign_calls
from qpc.layers import weighted
from qpc.meta import attribute, info
from qpc.registry import Role, quantization_of, role_of


class Violation(str):
    """What breaks a fact, in words, and the node that does, if it is one."""

    node: Node | None

    def __new__(cls, text: str, node: Node | None = None) -> Violation:
        made = super().__new__(cls, text)
        made.node = node
        return made


Check = Callable[[GraphModule], str | None]


@dataclass(frozen=True)
class Fact:
    """A statement about a graph that a pass may rely on.

    check: returns the first violation it finds, in words, or None when the fact holds. It runs
    after every pass, so it is a quick look.
    proof: the same for all that the statement says, whatever that costs, where `check` leaves
    something out. Tests run it, and contexts with `thorough=True`.

    otherwise: how an error says that it does not hold, after "the graph is".
    fix: what to do then.
    """

    name: str
    check: Check = field(repr=False, compare=False)
    proof: Check | None = field(default=None, repr=False, compare=False)
    otherwise: str = field(default="", repr=False, compare=False)
    fix: str | None = field(default=None, repr=False, compare=False)

    def violation(self, gm: GraphModule, *, thorough: bool = False) -> Violation | None:
        """What breaks the fact, or None when it holds."""
        broken = self.check(gm)
        if broken is None and thorough and self.proof is not None:
            broken = self.proof(gm)
        if broken is None or isinstance(broken, Violation):
            return broken
        return Violation(broken)


def require_graph(gm: object, what: str) -> None:
    """Raise PassError unless `gm` is a graph: a model that was never traced is a common slip."""
    if not isinstance(gm, GraphModule):
        raise PassError(
            f"{what} needs a traced graph, got {type(gm).__name__}",
            fix="gm = qpc.trace(model, example_inputs)"
            if isinstance(gm, nn.Module)
            else "pass what qpc.trace or qpc.quantize returned",
        )


def require_unquantized(gm: GraphModule) -> None:
    """Raise PassError for a graph that QPC or another tool has quantized."""
    if foreign := foreign_calls(gm):
        raise PassError(
            f"the graph has {len(foreign)} quantize and dequantize operators of another tool, such"
            f" as {foreign[0].target}",
            node=foreign[0],
            fix="take its grids over with qpc.import_quantized(gm), or trace the float model",
        )
    for node in gm.graph.nodes:
        ours = isinstance(node.target, OpOverload) and node.target.namespace == "qpc"
        if ours and role_of(node) is not Role.STORED:
            raise PassError(
                f"the graph is quantized already: it calls {node.target}",
                node=node,
                fix="start again from the float graph that qpc.trace returned",
            )


def named_tensor(gm: GraphModule, name: object) -> Tensor:
    """The parameter or buffer of this name; raises ConfigError if the graph has none."""
    try:
        return attribute(gm, str(name))
    except (AttributeError, TypeError) as e:
        raise ConfigError(
            f"the graph has no parameter or buffer {name!r}",
            fix="see dict(gm.named_parameters()) for the names",
        ) from e


def _core_form(gm: GraphModule) -> str | None:
    for node in gm.graph.nodes:
        if problem := _not_core(gm, node):
            return f"{node.name}: {problem}"
    return None


def _not_core(gm: GraphModule, node: Node) -> str | None:
    if node.op in ("placeholder", "output"):
        return None
    if node.op == "get_attr":
        try:
            attribute(gm, str(node.target))
        except (AttributeError, TypeError) as e:
            return f"no tensor named {node.target!r} ({e})"
        return None
    if node.op != "call_function":
        return f"is a {node.op}; core form has only calls of operator overloads"
    if not isinstance(node.target, OpOverload):
        known = is_shape_arithmetic(node)
        return None if known else f"calls {node.target}, which is no operator overload"
    if written_argument(node) is not None:
        return f"{node.target} writes to its input"
    return None


def observer_state(gm: GraphModule, node: Node) -> dict[str, Tensor]:
    """The statistics that the observer of an `observe` call has gathered."""
    return dict(gm.get_submodule(str(node.args[1])).named_buffers())


def _has(target: OpOverload, gm: GraphModule) -> list[Node]:
    return [n for n in gm.graph.nodes if n.target is target]


def _observed(gm: GraphModule) -> str | None:
    rounded = _has(qpc_ops.fake_quantize.default, gm)
    if fake := [n for n in rounded if info(n).observer]:  # weights may be rounded already
        return f"{fake[0].name} already rounds values; observers are gone"
    unobserved = [
        n.name
        for n in gm.graph.nodes
        if info(n).config is not None
        and not info(n).observer
        and not quantization_of(n).ends_in_float  # it may be read by float operators only
    ]
    return f"no observer for {', '.join(unobserved)}" if unobserved else None


def _calibrated(gm: GraphModule) -> str | None:
    for node in _has(qpc_ops.observe.default, gm):
        if info(node).qparams is not None:
            continue  # its grid was given
        config = info(node).config
        if config is None:
            return f"observer {node.name} has no configuration"
        least, greatest = config.activation.observer.observed(observer_state(gm, node))
        if least > greatest:
            return f"observer {node.name} has seen no data"
    return None


def _fake_quantized(gm: GraphModule) -> str | None:
    if left := _has(qpc_ops.observe.default, gm):
        return f"observer {left[0].name} remains"
    unknown = [n.name for n in gm.graph.nodes if info(n).observer and info(n).qparams is None]
    return f"no grid for {', '.join(unknown)}" if unknown else None


def _integer(gm: GraphModule) -> str | None:
    for target in (qpc_ops.observe.default, qpc_ops.fake_quantize.default):
        if left := _has(target, gm):
            return f"{left[0].name} calls {target}"
    layers = [n for n in gm.graph.nodes if weighted(n) is not None and not info(n).declined]
    if layers and not any(map(_is_integer_operator, gm.graph.nodes)):
        return Violation(f"{layers[0].name} and all other operators are float", layers[0])
    return None


def _is_integer_operator(node: Node) -> bool:
    return isinstance(node.target, OpOverload) and node.target.namespace == "qpc"


def _finished(gm: GraphModule) -> Violation | None:
    between = (qpc_ops.observe.default, qpc_ops.fake_quantize.default)
    found = next((n for n in gm.graph.nodes if n.target in between), None)
    return None if found is None else Violation(f"it calls {found.target}", found)


def _proof(name: str) -> Check:
    """A proof of `qpc.analysis.levels`, which stands above this module and is imported for it."""

    def prove(gm: GraphModule) -> str | None:
        found: Check = getattr(importlib.import_module("qpc.analysis.levels"), name)
        return found(gm)

    return prove


CORE_FORM = Fact(
    "core-form",
    _core_form,
    _proof("core_form"),
    otherwise="not in core form",
    fix="make graphs with qpc.trace, not with torch.fx.symbolic_trace",
)
"""Functional calls of operator overloads only; see `docs/where-things-are.md`."""
OBSERVED = Fact("observed", _observed, _proof("observed"))
"""Every value that is to be quantized knows its observer."""
CALIBRATED = Fact("calibrated", _calibrated, _proof("calibrated"))
"""Every observer has seen data."""
FAKE_QUANTIZED = Fact("fake-quantized", _fake_quantized, _proof("fake_quantized"))
"""Every value that is to be quantized knows its grid and is rounded to it in float."""
FINISHED = Fact(
    "finished",
    _finished,
    otherwise="on its way to integers",
    fix="finish with qpc.quantize, or qpc.recipes.to_integer() for a fake-quantized graph",
)
"""The graph is wholly float, or its quantized values are integers: nothing stands in between."""
INTEGER = Fact("integer", _integer, _proof("integer"))
"""Quantized values are integers, and there are some: no fake quantization or observer is left."""
