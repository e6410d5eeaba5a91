"""A stable text form of a graph: the same graph always prints the same, on every machine."""

from __future__ import annotations

from typing import Any

import torch
from torch._ops import OpOverload
from torch.fx import GraphModule, Node
from torch.fx.node import map_arg

from qpc.facts import require_graph
from qpc.meta import NodeInfo, info
from qpc.types import Shape

_DTYPES = {
    torch.float32: "f32",
    torch.float64: "f64",
    torch.float16: "f16",
    torch.bfloat16: "bf16",
    torch.int64: "i64",
    torch.int32: "i32",
    torch.int16: "i16",
    torch.int8: "i8",
    torch.uint8: "u8",
    torch.bool: "bool",
}


def format_graph(gm: GraphModule) -> str:
    """The graph as text, one operator a line, with types, grids, observers and the user's modules.

    Parameters appear as `@name` where they are used.
    """
    require_graph(gm, "format_graph")
    lines = ["graph:"]
    lines += [f"  {_line(node)}" for node in gm.graph.nodes if node.op != "get_attr"]
    return "\n".join(lines) + "\n"


def format_type(shape: Shape | None, dtype: torch.dtype | None) -> str:
    """`u8[N, 64, 56, 56]`, or `?` where the value is not one tensor."""
    if shape is None or dtype is None:
        return "?"
    return f"{_DTYPES.get(dtype, str(dtype))}[{', '.join(map(str, shape))}]"


def _line(node: Node) -> str:
    if node.op == "output":
        return f"return {_value(node.args[0])}"
    about = info(node)
    typed = f"%{node.name}: {format_type(about.shape, about.dtype)}"
    if node.op == "placeholder":
        return f"{typed} = input{_remark(about)}"
    named = ", ".join(f"{key}={_value(value)}" for key, value in node.kwargs.items())
    args = ", ".join(map(_value, node.args))
    joined = ", ".join(part for part in (args, named) if part)
    return f"{typed} = {_operator(node)}({joined}){_remark(about)}"


def _operator(node: Node) -> str:
    if isinstance(node.target, OpOverload):
        return str(node.target).removesuffix(".default")
    return getattr(node.target, "__name__", str(node.target))


def _value(value: Any) -> str:
    def name(node: Node) -> Any:
        return _Name(f"@{node.target}" if node.op == "get_attr" else f"%{node.name}")

    return _plain(map_arg(value, name))


def _plain(value: object) -> str:
    if isinstance(value, list | tuple):
        inside = ", ".join(map(_plain, value))
        return f"[{inside}]" if isinstance(value, list) else f"({inside})"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{k}: {_plain(v)}" for k, v in value.items()) + "}"
    if isinstance(value, torch.dtype):
        return _DTYPES.get(value, str(value))
    return repr(value)


class _Name(str):
    """A reference to a node, printed without quotes."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


def _remark(about: NodeInfo) -> str:
    parts = []
    if about.qparams is not None:
        parts.append(f"scale {about.qparams.scale:.9g}, zero {about.qparams.zero_point}")
    elif about.observer is not None:
        parts.append(f"observer {about.observer}")
    if about.module_path:
        parts.append(about.module_path)
    return f"  # {'; '.join(parts)}" if parts else ""
