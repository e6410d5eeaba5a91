"""The value that a module of the user's model returns, in any stage of its graph."""

from __future__ import annotations

import difflib

from torch.fx import GraphModule, Node

from qpc.errors import ConfigError
from qpc.meta import info, value_name


def module_value(gm: GraphModule, path: str) -> Node:
    """The last value that a module (such as `layer1.0`) makes and something outside of it reads.

    Where values are rounded to grids it is the rounded one. Raises ConfigError if there is none.
    """
    node = _module_value(gm, path)
    if node is None:
        raise _no_such(gm, path, "the graph")
    return node


def corresponding_value(reference: GraphModule, other: GraphModule, path: str) -> Node:
    """The node of `other` whose value is that of a module of `reference`, or of its own `path`.

    `other` may be a later stage of the same model, pruned or rounded, or another model whose
    modules have the same paths. A module that a pass has dissolved, such as a batch norm that was
    folded, is found by the value that it had.

    Raises ConfigError if there is no such value: the path is unknown, or what the module computes
    has been joined with the next one.
    """
    goal = value_name(module_value(reference, path))
    node = _module_value(other, path)
    if node is not None and not _stands_for_another(reference, other, node, path):
        return node
    origins = {n.name: info(n).module_path for n in reference.graph.nodes}
    nodes: list[Node] = list(other.graph.nodes)
    for found in reversed(nodes):
        # the same name in both, of one module: then they are stages of one model
        if goal and value_name(found) == goal and _origin(other, found) in origins.items():
            return found
    if node is None:
        raise _no_such(other, path, "the other graph")
    joined = info(_named(reference, value_name(node)) or node).module_path
    raise ConfigError(
        f"the value of {path!r} is computed in one step with that of {joined!r}",
        fix=f"name {joined!r} instead",
    )


def _module_value(gm: GraphModule, path: str) -> Node | None:
    found: Node | None = None
    for node in gm.graph.nodes:
        leaves = any(not _is_in(user, path) for user in node.users)
        if leaves and _is_in(node, path) and info(node).shape is not None:
            found = node
    return found


def _is_in(node: Node, path: str) -> bool:
    own = info(node).module_path
    inside = own == path or own.startswith(f"{path}.")
    return bool(path) and inside and node.op == "call_function"


def _stands_for_another(reference: GraphModule, gm: GraphModule, node: Node, path: str) -> bool:
    """Whether a node of a module computes what a module outside of it did, which is gone."""
    name = value_name(node)
    if name is None or _named(gm, name) is not None:
        return False
    original = _named(reference, name)
    return original is not None and not _is_in(original, path)


def _origin(gm: GraphModule, node: Node) -> tuple[str, str]:
    """Name and module of the traced node that makes the value of `node`, rounded or not."""
    while info(node).origin and node.all_input_nodes:
        node = node.all_input_nodes[0]
    return node.name, info(node).module_path


def _named(gm: GraphModule, name: str | None) -> Node | None:
    return next((n for n in gm.graph.nodes if n.name == name), None)


def _no_such(gm: GraphModule, path: str, which: str) -> ConfigError:
    paths = sorted({info(n).module_path for n in gm.graph.nodes} - {""})
    parts = {".".join(p.split(".")[:i]) for p in paths for i in range(1, p.count(".") + 2)}
    near = difflib.get_close_matches(str(path), sorted(parts), 3)
    return ConfigError(
        f"{which} has no value of a module {path!r}",
        fix=f"such as {', '.join(map(repr, near or sorted(parts)[:3]))}; all modules stand in "
        "print(qpc.format_graph(gm))",
    )
