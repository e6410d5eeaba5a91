"""Operators without an integer kernel: TVM's own importer of PyTorch operators translates them."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from torch._ops import OpOverload
from torch.fx import Node
from torch.fx.node import map_arg
from tvm import relax
from tvm.relax.frontend.torch.exported_program_translator import ExportedProgramImporter

from qpc.errors import BackendError, UnsupportedOpError


class FloatOperators:
    """TVM's converters from one PyTorch call to Relax, used one node at a time."""

    def __init__(self, builder: relax.BlockBuilder) -> None:
        self._importer = ExportedProgramImporter()
        self._importer.block_builder = builder

    def convert(self, node: Node, value: Callable[[Node], Any]) -> Any:
        """Emit `node`; `value` gives the tensor, tuple or number that an input node stands for."""
        name = getattr(node.target, "__name__", str(node.target))
        converter = self._importer.convert_map.get(name)
        if converter is None:
            raise UnsupportedOpError(
                f"the TVM backend has no rule for operator {node.target}",
                node=node,
                fix="express it with other operators, or use the reference backend",
            )
        values = {n: value(n) for n in node.all_input_nodes}
        self._importer.env = {n: v for n, v in values.items() if not isinstance(v, int | float)}
        try:
            return converter(self._as_call(node, values))
        except Exception as e:
            raise BackendError(
                f"TVM cannot translate operator {node.target}: {e}",
                node=node,
                fix="express it with other operators, or use the reference backend",
            ) from e

    @staticmethod
    def _as_call(node: Node, values: dict[Node, Any]) -> Any:
        """The call in the form converters expect: positional arguments, numbers instead of number nodes."""

        def known(n: Node) -> Any:
            return values[n] if isinstance(values[n], int | float) else n

        args = list(map_arg(node.args, known))
        kwargs = dict(map_arg(node.kwargs, known))
        if isinstance(node.target, OpOverload):
            for position, parameter in enumerate(node.target._schema.arguments):
                if parameter.kwarg_only or not (kwargs.keys() & _later(node.target, position)):
                    break
                if position >= len(args):
                    args.append(kwargs.pop(parameter.name, parameter.default_value))
        return SimpleNamespace(
            op=node.op,
            name=node.name,
            target=node.target,
            args=tuple(args),
            kwargs=kwargs,
            meta=node.meta,
        )


def _later(target: OpOverload, position: int) -> set[str]:
    """Names of the positional parameters from `position` on."""
    return {p.name for p in target._schema.arguments[position:] if not p.kwarg_only}
