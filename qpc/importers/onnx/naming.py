"""Names of an ONNX model in the graph that is made of it."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch.fx import Graph, GraphModule, Node

from qpc.importers.onnx.module import CALLS, OnnxModule
from qpc.importers.onnx.values import Call
from qpc.meta import info, update_info

_NUMBER = re.compile(rf"{CALLS}\.(\d+)")


def keep_names(gm: GraphModule, module: OnnxModule) -> None:
    """Name nodes after the tensors of the model, and give them the paths in the names of its nodes.

    Of a call that became several nodes, the last one computes its tensor.
    """
    last: dict[int, Node] = {}
    for node in gm.graph.nodes:
        found = _NUMBER.fullmatch(info(node).module_path)
        if found is None:
            continue
        number = int(found[1])
        update_info(node, module_path=module_path(module.calls[number]))
        if node.op == "call_function":
            last[number] = node
    wanted = {node: name for i, node in last.items() if (name := value_of(module.calls[i]))}
    inputs = gm.graph.find_nodes(op="placeholder")
    wanted |= dict(zip(inputs, module.inputs, strict=True))
    _rename(gm, wanted)
    if CALLS in gm._modules:
        delattr(gm, CALLS)
    gm.recompile()


def value_of(call: Call) -> str | None:
    """The name of the value that a node computes; None for one of several.

    Our own models say how a value is called before it is rounded, too.
    """
    if len(call.outputs) != 1:
        return None
    own = "" if call.kind in _ROUNDING else call.about.get("qpc.value", "")
    return own or call.outputs[0]


_ROUNDING = ("QuantizeLinear", "DequantizeLinear")


def module_path(call: Call) -> str:
    """The user's module that a node is from.

    As our own models say it; else what stands before the last slash of the node's name, where
    PyTorch's exporter writes `/layer1/layer1.0/conv1/Conv`.
    """
    if "qpc.module" in call.about:
        return call.about["qpc.module"]
    found: list[str] = []
    for part in call.name.strip("/").split("/")[:-1]:
        if found and part.startswith(f"{found[-1]}."):
            found.pop()
        found.append(part)
    return ".".join(found)


def _rename(gm: GraphModule, wanted: Mapping[Node, str]) -> None:
    """Give nodes their names, as far as those can be names of Python and are free."""
    taken = {node.name for node in gm.graph.nodes if node not in wanted}
    for node, name in wanted.items():
        legal = re.sub(r"\W", "_", name)
        if not legal or legal[0].isdigit():
            legal = f"_{legal}"
        free = legal
        while free in taken:
            free += "_"
        taken.add(free)
        node.name = free
        if node.op == "placeholder":
            node.target = free  # by which callers name it
    fresh = Graph()  # one that has never had the names from before
    (output,) = gm.graph.find_nodes(op="output")
    fresh.output(fresh.graph_copy(gm.graph, {})).meta.update(output.meta)
    gm.graph = fresh
