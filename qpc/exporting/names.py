"""How exported models name things: after the user's modules, values and lines."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import PurePath

from torch.fx import GraphModule, Node

from qpc.errors import user_line
from qpc.meta import info, value_name


def value_names(gm: GraphModule) -> Mapping[Node, str]:
    """A name for each value: that of the traced graph, unless another node computes it as well.

    A value that is rounded and read as float again keeps its name for what readers see.
    """
    found: dict[Node, str] = {}
    taken = {node.name for node in gm.graph.nodes if node.op == "placeholder"}
    for node in gm.graph.nodes:
        wanted = value_name(node) or node.name
        if node.op != "placeholder" and wanted in taken:
            wanted = node.name
        taken.add(wanted)
        found[node] = wanted
    return found


def module_of(node: Node) -> str:
    """The user's module that an operator is from, as a path with dots; empty at the top."""
    return info(node).module_path


def source_line(node: Node) -> str:
    """The line of the user's model that an operator is from, such as `net.py:7 in forward`.

    Without the folder of the file, which is nobody else's business.
    """
    found = re.fullmatch(r'File "(.*)", line (\d+), in (.*)', user_line(node) or "")
    if found is None:
        return ""
    file, line, function = found.groups()
    return f"{PurePath(file).name}:{line} in {function}"
