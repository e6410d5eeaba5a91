"""Make a traced graph functional: no operator writes to its inputs.

Constant regions are run once, as they stand, and become buffers: this removes the in-place mask
construction of window attention. The in-place operators left (`relu_`, `add_`) become their
functional forms, provided no other name of the written memory is read afterwards;
`replace_in_place` says where that is not so.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.fx import GraphModule, Node
from torch.fx.node import map_arg

from qpc.aliasing import aliased_inputs, functional_form, written_argument
from qpc.edit import Editor
from qpc.foreign import is_foreign
from qpc.meta import attribute, info

_CONSTANTS = "_constants"


def fold_constants(gm: GraphModule) -> bool:
    """Replace everything that depends neither on inputs nor on parameters by its value."""
    _free_factories(gm)
    constant = _constant_nodes(gm)
    editor, found = Editor(gm, ""), _run(gm, constant)
    for (node, _), (value, users) in found.items():
        if isinstance(value, Tensor):
            name = editor.free_name(f"{_CONSTANTS}.{node.name}")
            editor.set_tensor(name, value)
            with gm.graph.inserting_before(users[0]):
                by: Any = gm.graph.get_attr(name)
            by.meta = dict(node.meta)
        else:
            by = value
        for user in users:
            user.replace_input_with(node, by)  # fx allows constants
    for node in reversed(list(gm.graph.nodes)):
        if node in constant and not node.users:
            gm.graph.erase_node(node)
    return bool(found)


_FACTORIES = {
    torch.ops.aten.new_zeros.default: 0,
    torch.ops.aten.new_ones.default: 1,
    torch.ops.aten.new_full.default: None,
}


def _free_factories(gm: GraphModule) -> None:
    """`x.new_zeros(...)` takes only dtype and device from x: spell it so that it is a constant."""
    for node in list(gm.graph.nodes):
        if node.target not in _FACTORIES or not isinstance(node.args[0], Node):
            continue
        like = info(node.args[0]).dtype
        fill = _FACTORIES[node.target]
        value = node.args[2] if fill is None else fill
        dtype = node.kwargs.get("dtype") or like
        if any(isinstance(size, Node) for size in node.args[1]) or dtype is None:
            continue
        with gm.graph.inserting_before(node):
            made = gm.graph.call_function(
                torch.ops.aten.full.default, (node.args[1], value), {"dtype": dtype}
            )
        made.meta = dict(node.meta)
        node.replace_all_uses_with(made)
        gm.graph.erase_node(node)


def _constant_nodes(gm: GraphModule) -> set[Node]:
    """Nodes whose value is the same for every input and every setting of the parameters."""
    parameters = {name for name, _ in gm.named_parameters(remove_duplicate=False)}
    constant: set[Node] = set()
    for node in gm.graph.nodes:
        if node.op == "get_attr":
            if node.target not in parameters:
                constant.add(node)
        elif node.op == "call_function" and all(n in constant for n in node.all_input_nodes):
            if is_foreign(node):
                continue  # the integers behind it are what another tool has quantized
            random = isinstance(node.target, OpOverload) and (
                torch.Tag.nondeterministic_seeded in node.target.tags
            )
            if not random:
                constant.add(node)
    return _without_shared_writes(constant)


def _without_shared_writes(constant: set[Node]) -> set[Node]:
    """Drop constants that something outside the set writes to, until none is left."""
    while True:
        spoiled = {
            node
            for node in constant
            if any(u not in constant and written_argument(u) is node for u in node.users)
        }
        if not spoiled:
            return constant
        reached = set(spoiled)
        for node in sorted(constant, key=lambda n: n._sort_key):
            if any(n in reached for n in node.all_input_nodes):
                reached.add(node)
        constant = constant - reached


def _run(gm: GraphModule, constant: set[Node]) -> dict[tuple[Node, int], tuple[Any, list[Node]]]:
    """Run the constant nodes; return what other nodes read of them, and which nodes those are.

    A tensor that is written to between two reads counts as two values: tensors count their writes.
    """
    values: dict[Node, Any] = {}
    found: dict[tuple[Node, int], tuple[Any, list[Node]]] = {}
    with torch.no_grad():
        for node in gm.graph.nodes:
            if node in constant:
                values[node] = _evaluate(gm, node, values)
                continue
            for source in node.all_input_nodes:
                if source not in constant:
                    continue
                value = values[source]
                writes = value._version if isinstance(value, Tensor) else 0
                if source.op == "get_attr" and writes == 0:
                    continue
                if (source, writes) not in found:
                    kept = value.clone().contiguous() if isinstance(value, Tensor) else value
                    found[source, writes] = (kept, [])
                found[source, writes][1].append(node)
    return {at: (value, users) for at, (value, users) in found.items() if _is_plain(value)}


def _is_plain(value: object) -> bool:
    return isinstance(value, Tensor | int | float | bool)


def _evaluate(gm: GraphModule, node: Node, values: dict[Node, Any]) -> Any:
    if node.op == "get_attr":
        return attribute(gm, str(node.target)).detach().clone()
    assert callable(node.target)
    args = map_arg(node.args, values.__getitem__)
    return node.target(*args, **map_arg(node.kwargs, values.__getitem__))


def replace_in_place(gm: GraphModule) -> Node | None:
    """Replace in-place operators by functional ones; return the first that cannot be, or None.

    On a result other than None the graph is half-way and must be thrown away.
    """
    nodes: list[Node] = list(gm.graph.nodes)
    for node in nodes:
        written = written_argument(node)
        if written is None:
            continue
        target = node.target
        functional = functional_form(target) if isinstance(target, OpOverload) else None
        if functional is None or _read_elsewhere_later(written, node):
            return node
        node.target = functional
        for user in list(written.users):
            if node < user:
                user.replace_input_with(written, node)
    return None


def _read_elsewhere_later(written: Node, at: Node) -> bool:
    """Whether memory of `written` is read after `at`, but as neither `written` nor what `at` made.

    `at` will make a value of its own, so that names derived from it name the new value.
    """
    names = _aliases(written, without=at) - {written}
    return any(at < user for name in names for user in name.users)


def _aliases(node: Node, *, without: Node) -> set[Node]:
    found, pending = {node}, [node]
    while pending:
        current = pending.pop()
        near = [u for u in current.users if current in aliased_inputs(u)] + aliased_inputs(current)
        for other in near:
            if other not in found and other is not without:
                found.add(other)
                pending.append(other)
    return found
