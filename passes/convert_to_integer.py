"""Replace fake-quantized float operators by integer operators.

Before:  x -> fake_quantize -> conv2d(fake_quantize(W), b) -> relu -> fake_quantize -> linear -> y
After:   x -> quantize -> qpc::conv2d(W int8, b int32, multiplier) -> qpc::clamp -> ...
         -> dequantize -> y
Keeps:   the fake-quantized output, up to one step of the output grid
         A layer and the addition that it joins become one operator
Leaves:  operators that stay in float; dequantize and quantize stand at the borders, or nothing
         where an operator ends in float32 by itself
Cost:    one walk over the graph

Every layer is proven from its real weights not to overflow its 32-bit accumulator; a layer that
might raises OverflowProofError. Reports "N of M convolution and linear layers quantized".
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.fx import GraphModule, Node

from qpc.analysis.coverage import is_quantized, kind_of, layers_with_weights
from qpc.analysis.fixed_sizes import fixed_sizes
from qpc.analysis.layer_sums import joined_layer, joins_sum
from qpc.analysis.origins import bytes_behind
from qpc.base import Pass, PassContext
from qpc.calls import qpc_ops, set_arguments
from qpc.conversion import Conversion
from qpc.edit import Editor
from qpc.errors import PassError, UnsupportedOpError
from qpc.facts import FAKE_QUANTIZED, INTEGER
from qpc.meta import attribute, info, label, update_info, value_name
from qpc.passes.fold_batch_norm import norm_beside
from qpc.passes.freeze_grids import grids_are_frozen
from qpc.quant.grid import QParams
from qpc.registry import op_name, quantization_of

_BYTES = QParams(1.0, 0, 0, 255, torch.uint8)


@dataclass(frozen=True)
class ConvertToInteger(
    Pass,
    name="convert-to-integer",
    requires={FAKE_QUANTIZED},
    establishes={INTEGER},
    invalidates={FAKE_QUANTIZED},
):
    """Turn every operator that was planned to be integer into one."""

    def apply(self, gm: GraphModule, ctx: PassContext) -> bool:
        if not grids_are_frozen(gm):
            raise PassError(
                "training has moved the grids, and conversion would take the old ones",
                fix="call qpc.convert(gm), or run qpc.passes.FreezeGrids before",
            )
        if beside := next((n for n in gm.graph.nodes if norm_beside(n) is not None), None):
            raise PassError(
                f"the batch norm behind {label(beside)} is not folded yet",
                node=beside,
                fix="call qpc.convert(gm), or run qpc.passes.FoldBatchNorm before",
            )
        layers = layers_with_weights(gm)
        left = [n for n in layers if not is_quantized(n)]
        reasons = "; ".join(f"{label(n)}: {info(n).declined or 'not planned'}" for n in left)
        changed = _Conversion(gm, self.name).run()
        done = f"{len(layers) - len(left)} of {len(layers)} {kind_of(layers)} quantized"
        ctx.summarize(f"{done}, the others stay in float ({reasons})" if left else done)
        return changed


class _Conversion:
    """One walk: `integers` maps every quantized value of the float graph to its integer node."""

    def __init__(self, gm: GraphModule, origin: str) -> None:
        self.gm, self.editor = gm, Editor(gm, origin)
        self.integers: dict[Node, Node] = {}

    def run(self) -> bool:
        changed = False
        for node in list(self.gm.graph.nodes):
            if node.target is qpc_ops.fake_quantize.default:
                self._convert_rounding(node)
            elif info(node).integer and not joins_sum(node):
                made = self._convert_operator(node)
                if info(node).qparams is None:
                    changed = True
                    self.editor.replace(node, made)  # nothing but float operators reads it
                else:
                    self.integers[node] = made
        for value, made in self.integers.items():
            self._serve_float_readers(value, made)
        self.editor.drop_unused()
        self.editor.promote("integers")  # integer tensors take the names of the float ones
        self.editor.drop_unused()
        for node, sizes in fixed_sizes(self.gm).items():
            set_arguments(node, sizes=list(sizes))
        return changed or bool(self.integers)

    def _convert_rounding(self, node: Node) -> None:
        """A rounded value is the integer it was made as, or a float that is quantized here."""
        source = node.args[0]
        assert isinstance(source, Node)
        if source.op == "get_attr":
            if info(node).qparams is not None:
                self.integers[node] = self._constant(source, like=node)
            return  # or it is a weight; its layer reads it
        if source in self.integers:
            self.integers[node] = self.integers[source]
            return
        counted, grid = bytes_behind(source), info(node).qparams
        if counted is not None and grid == _BYTES:
            update_info(counted, qparams=grid)
            self.integers[node] = counted
            return
        self.integers[node] = self._quantize(source, like=node)

    def _constant(self, parameter: Node, *, like: Node) -> Node:
        """A parameter that is used like a value, on its grid."""
        grid = info(like).qparams
        assert grid is not None
        value = attribute(self.gm, str(parameter.target)).detach()
        name = self.editor.free_name(f"integers.{parameter.target}")
        ends = (grid.zero_point, grid.lo, grid.hi, grid.dtype)
        rounded = qpc_ops.quantize.default(value, grid.scale, *ends)
        made = self.editor.buffer(name, rounded, before=like)
        update_info(made, qparams=grid, value=value_name(like) or "")
        return made

    def _quantize(self, value: Node, *, like: Node) -> Node:
        grid = info(like).qparams
        assert grid is not None
        ends = (grid.zero_point, grid.lo, grid.hi, grid.dtype)
        made = self.editor.call(qpc_ops.quantize.default, value, grid.scale, *ends, like=like)
        update_info(made, qparams=grid, value=value_name(value) or "")
        return made

    def _convert_operator(self, node: Node) -> Node:
        convert = quantization_of(node).convert
        if convert is None:
            raise UnsupportedOpError(
                f"no integer form for {op_name(node)}",
                node=node,
                fix=f"keep it in float: Override(op={op_name(node)!r}, use='float')",
            )
        layer = joined_layer(node)
        for source in (*node.all_input_nodes, *(layer.all_input_nodes if layer else ())):
            # The operator shares its own grid with a value that is made in float and has no other
            # reader; such a value is not rounded in the float graph, so there is no integer for it.
            if info(source).qparams is not None and source not in self.integers:
                self.integers[source] = self._quantize(source, like=node)
        made = convert(Conversion(self.editor, node, self.integers))
        name = value_name(node) or ""
        update_info(made, qparams=info(node).qparams, config=info(layer or node).config, value=name)
        return made

    def _serve_float_readers(self, value: Node, made: Node) -> None:
        """Operators that stayed in float read a quantized value through `dequantize`."""
        readers = [
            u
            for u in value.users
            if u is not made and not info(u).integer and u not in self.integers
        ]
        if not readers:
            return
        grid = info(made).qparams
        assert isinstance(grid, QParams)
        real = self.editor.call(
            qpc_ops.dequantize.default, made, grid.scale, grid.zero_point, like=value, after=made
        )
        for reader in readers:
            reader.replace_input_with(value, real)
