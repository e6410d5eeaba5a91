"""Graphs with the operators of PyTorch's own quantization, `quantized_decomposed`.

That is the form of PT2E models, which torch.compile's Inductor and ExecuTorch's backends turn into
integer kernels: pairs of quantize and dequantize around float operators, weights as integers behind
a dequantize.
"""

from __future__ import annotations

import importlib
import io
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node
from torch.fx.node import map_arg

from qpc.calls import arguments, qpc_ops
from qpc.edit import Editor
from qpc.errors import PassError, UnsupportedOpError
from qpc.facts import require_graph
from qpc.meta import attribute, copied
from qpc.quant.fake_quantization import Rounding
from qpc.quant.grid import SMALLEST_SCALE
from qpc.shapes import concrete_shapes
from qpc.training.switch import set_training
from qpc.types import TensorType

_DEFINES = "torch.ao.quantization.fx._decomposed"
"""The module of PyTorch that defines the operators."""
_ORIGIN = "export-pt2e"
_EXAMPLE_BATCH = 2  # 0 and 1 are special to torch.export


def to_pt2e(gm: GraphModule) -> GraphModule:
    """Return a fake-quantized graph with `quantized_decomposed` operators in place of QPC's.

    gm: what `qpc.prepare_qat`, or `qpc.recipes.post_training_quantization(...).run(gm)`, returned,
    trained or not. It computes the same numbers in eager PyTorch, bit by bit. Values become pairs
    of quantize and dequantize, with a dequantize for each reader, as Inductor looks for them;
    weights become int8 constants behind a dequantize.

    Raises PassError for a graph that is not fake-quantized, UnsupportedOpError for operators of QPC
    without such a form.
    """
    require_graph(gm, "to_pt2e")
    importlib.import_module(_DEFINES)
    found = gm.graph.find_nodes(op="call_function", target=qpc_ops.fake_quantize.default)
    if not found:
        raise PassError(
            "PT2E models are made of graphs whose values are rounded in float, which this one's"
            " are not",
            fix="pass what qpc.prepare_qat returned, before qpc.convert",
        )
    made = copied(gm)
    set_training(made, mode=False)
    _Rewriter(made).run()
    return made


def pt2e_file(gm: GraphModule) -> bytes:
    """The same as an exported program, as `torch.export.load` reads it, of any batch size."""
    made = to_pt2e(gm)
    examples, dynamic = [], []
    small, large = (concrete_shapes(made, batch) for batch in (_EXAMPLE_BATCH, _EXAMPLE_BATCH + 1))
    for node in made.graph.nodes:
        if node.op == "placeholder":
            a, b = small[node], large[node]
            assert isinstance(a, TensorType)
            assert isinstance(b, TensorType)
            examples.append(torch.zeros(a.shape, dtype=a.dtype))
            open_axes = [i for i, (p, q) in enumerate(zip(a.shape, b.shape, strict=True)) if p != q]
            dynamic.append(dict.fromkeys(open_axes, torch.export.Dim.DYNAMIC))
    with torch.no_grad():
        shapes: Any = tuple(dynamic)
        program = torch.export.export(made, tuple(examples), dynamic_shapes=shapes)
    buffer = io.BytesIO()
    torch.export.save(program, buffer)
    return buffer.getvalue()


class _Rewriter:
    """Replaces QPC's operators of one graph, in place."""

    def __init__(self, gm: GraphModule) -> None:
        self._gm, self._editor = gm, Editor(gm, _ORIGIN)
        self._operators = torch.ops.quantized_decomposed
        self._constants: dict[Node, bool] = {}

    def run(self) -> None:
        for node in self._gm.graph.nodes:
            known = node.op == "get_attr" or (
                node.op == "call_function"
                and bool(node.all_input_nodes)
                and all(self._constants[source] for source in node.all_input_nodes)
            )
            self._constants[node] = known
        for node in list(self._gm.graph.nodes):
            if node.op != "call_function" or _namespace(node) != "qpc":
                continue
            if node.target is qpc_ops.fake_quantize.default:
                self._rounded(node)
            elif self._constants[node]:
                self._replace(node, self._stored(node, f"{node.name}", self._value(node)))
        self._editor.drop_unused()
        self._require_none_left()
        self._gm.graph.lint()
        self._gm.recompile()

    def _require_none_left(self) -> None:
        left = [n for n in self._gm.graph.nodes if _namespace(n) == "qpc"]
        if left:
            names = ", ".join(sorted({str(node.target) for node in left}))
            raise UnsupportedOpError(f"no PT2E form for {names}", node=left[0])

    def _value(self, node: Node) -> Tensor:
        """What a node yields that depends on no input."""
        if node.op == "get_attr":
            return attribute(self._gm, str(node.target)).detach()
        args, kwargs = map_arg((node.args, node.kwargs), self._value)
        assert callable(node.target)
        with torch.no_grad():
            found: Tensor = node.target(*args, **kwargs)
        return found

    def _rounded(self, node: Node) -> None:
        given = arguments(node)
        scale, zero_point = (self._value(given[name]) for name in ("scale", "zero_point"))
        if not self._constants[given["x"]]:
            self._pairs(node, float(scale.abs().clamp(min=SMALLEST_SCALE)), zero_point)
            return
        value, axis, groups = self._value(given["x"]), given["axis"], given["groups"]
        layout = axis, groups, given["safe_pairs"]
        rounding = Rounding(scale, zero_point, given["lo"], given["hi"], *layout)
        name = f"{given['x'].name}_int8"
        if groups > 1:  # a scale for each group and index of an axis, of which PT2E knows none
            self._replace(node, self._stored(node, name, rounding.apply(value)))
            return
        integers = rounding.points(value).to(torch.int8)
        stored = self._stored(node, name, integers)
        steps = scale.abs().clamp(min=SMALLEST_SCALE).reshape(-1)
        ends = given["lo"], given["hi"], torch.int8
        if steps.numel() == 1:
            target, grid = self._operators.dequantize_per_tensor.default, (float(steps), 0)
            self._replace(node, self._call(target, node, stored, *grid, *ends))
            return
        zeros = torch.zeros(steps.numel(), dtype=torch.int64)
        made = self._call(
            self._operators.dequantize_per_channel.default,
            node,
            stored,
            self._stored(node, f"{name}_scales", steps),
            self._stored(node, f"{name}_zero_points", zeros),
            axis,
            *ends,
        )
        self._replace(node, made)

    def _pairs(self, node: Node, scale: float, zero_point: Tensor) -> None:
        """A quantize, and a dequantize for each reader."""
        given = arguments(node)
        lo, hi = given["lo"], given["hi"]
        zero = min(max(round(float(zero_point)), lo), hi)
        grid = scale, zero, lo, hi, torch.int8 if lo < 0 else torch.uint8
        quantize = self._operators.quantize_per_tensor.default
        integers = self._call(quantize, node, given["x"], *grid)
        for reader in list(node.users):
            dequantize = self._operators.dequantize_per_tensor.default
            made = self._call(dequantize, reader, integers, *grid)
            made.meta = dict(node.meta)
            reader.replace_input_with(node, made)

    def _call(self, target: Any, before: Node, *args: Any) -> Node:
        with self._gm.graph.inserting_before(before):
            made = self._gm.graph.call_function(target, args)
        made.meta = dict(before.meta) if before.op == "call_function" else {}
        return made

    def _stored(self, before: Node, name: str, value: Tensor) -> Node:
        free = self._editor.free_name(name)
        return self._editor.buffer(free, value.clone(), before=before)

    def _replace(self, node: Node, by: Node) -> None:
        by.meta = dict(node.meta)
        node.replace_all_uses_with(by)


def _namespace(node: Node) -> str:
    return str(getattr(node.target, "namespace", ""))
