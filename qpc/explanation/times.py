"""Where the time of a compiled model goes, by the operators of its graph.

A profile names the operators of integer kernels. Kernels that the compiler made of float operators
by rules of its own have no names of ours: they stand between two that have, and so do the operators
that they are made of. Within such a stretch, kernels and operators are matched by what they are
called.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.fx import GraphModule, Interpreter, Node

from qpc.backends.profile import KernelTime, Limit, Profile
from qpc.calls import is_shape_arithmetic
from qpc.explanation.float_runs import depending
from qpc.meta import info, label, value_name
from qpc.registry import op_name

_CALLED: Mapping[str, str] = {
    "mul": "multiply",
    "sub": "subtract",
    "div": "divide",
    "linear": "matmul",
    "addmm": "matmul",
    "bmm": "matmul",
    "neg": "negative",
}
"""What the compiler calls operators that it calls by other names."""


@dataclass(frozen=True)
class NodeTime:
    """The time of one operator in a compiled model.

    us: microseconds of its kernels. limit, of_limit: what limits the longest of them, and how much
    of the time that alone would take. inside: the operator whose kernel does this one, too.
    """

    us: float = 0.0
    limit: Limit | None = None
    of_limit: float | None = None
    inside: str = ""


def times_of(profile: Profile, gm: GraphModule) -> dict[Node, NodeTime]:
    """The times of a graph's operators, from a profile of what was compiled of it."""
    nodes = [n for n in gm.graph.nodes if n.op == "call_function"]
    by_label = {label(node): node for node in nodes}
    place = {node: number for number, node in enumerate(nodes)}
    found: dict[Node, NodeTime] = {}
    stretch: list[KernelTime] = []
    before = -1
    named = {by_label[name] for c in profile.calls for name in c.layers if name in by_label}
    for call in (*profile.calls, None):
        own = [by_label[name] for name in call.layers if name in by_label] if call else []
        if call is not None and not own:
            stretch.append(call)
            continue
        after = min((place[n] for n in own), default=len(nodes))
        between = [n for n in nodes[before + 1 : after] if n not in named and _is_float(n)]
        for node, calls in _matched(stretch, between or own[:1] or nodes[-1:]).items():
            _add(found, node, calls)
        stretch = []
        if call is not None:
            _add(found, own[0], [call])
            for node in own[1:]:
                found[node] = replace(found.get(node, NodeTime()), inside=label(own[0]))
            before = max(before, *(place[n] for n in own))
    return found


def _is_float(node: Node) -> bool:
    dtype = info(node).dtype
    return dtype is not None and not is_shape_arithmetic(node)


def _matched(calls: Sequence[KernelTime], nodes: Sequence[Node]) -> dict[Node, list[KernelTime]]:
    """Kernels by the operator that each is called after, in order; else by the one before."""
    found: dict[Node, list[KernelTime]] = {}
    if not nodes:
        return found
    start = 0
    for call in calls:
        words = call.kernel.rstrip("0123456789")
        rest = range(start, len(nodes))
        hit = next((n for n in rest if _called(nodes[n]) in words), None)
        here = hit if hit is not None else max(start - 1, 0)
        found.setdefault(nodes[here], []).append(call)
        start = start if hit is None else hit + 1
    return found


def _called(node: Node) -> str:
    name = op_name(node)
    return _CALLED.get(name, name)


def _add(found: dict[Node, NodeTime], node: Node, calls: Iterable[KernelTime]) -> None:
    """Add the time of calls to that of a node; the longest of them says what limits it."""
    known = found.get(node, NodeTime())
    for call in calls:
        longest = call.us >= known.us
        known = NodeTime(
            known.us + call.us,
            call.limit if longest else known.limit,
            call.of_limit if longest else known.of_limit,
            known.inside,
        )
    found[node] = known


# --- in float -------------------------------------------------------------------------------------


class _Timing(Interpreter):
    """Runs a graph, and takes the time of every operator."""

    def __init__(self, gm: GraphModule) -> None:
        super().__init__(gm)
        self.us: dict[Node, list[float]] = {}

    def run_node(self, n: Node) -> object:
        start = time.perf_counter()
        value = super().run_node(n)
        if n.op == "call_function":
            self.us.setdefault(n, []).append((time.perf_counter() - start) * 1e6)
        return value


def float_times(
    gm: GraphModule, inputs: Sequence[Tensor], *, threads: int = 1, repeats: int = 5
) -> dict[Node, float]:
    """Microseconds of every operator of a float graph in PyTorch, operator by operator.

    The median of `repeats` runs after one that does not count.
    """
    timing = _Timing(gm)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with torch.inference_mode():
            for number in range(repeats + 1):
                timing.run(*inputs)
                if number == 0:
                    timing.us.clear()
    finally:
        torch.set_num_threads(before)
    return {node: statistics.median(us) for node, us in timing.us.items()}


def in_float(node: Node, values: Mapping[str, Node], times: Mapping[Node, float]) -> float | None:
    """The time in float of what one integer operator does; None if the float graph has no such.

    values: the nodes of the float graph by the values that they hold. times: of all its operators.
    """
    target = values.get(value_name(node) or "")
    if target is None:
        return None
    sources = {
        values[name]
        for n in _sources(node, values)
        if (name := value_name(n)) is not None and name in values
    }
    return sum(times.get(n, 0.0) for n in depending(target, sources - {target}))


def _sources(node: Node, values: Mapping[str, Node]) -> set[Node]:
    """The nearest nodes before one that hold values of the float graph."""
    found, waiting, own = set(), list(node.all_input_nodes), value_name(node)
    while waiting:
        source = waiting.pop()
        if value_name(source) in values and value_name(source) != own:
            found.add(source)
        elif source.op != "get_attr":
            waiting += source.all_input_nodes
    return found
