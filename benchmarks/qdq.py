"""A fake-quantized graph as an ONNX model in QDQ form, for comparisons with other runtimes.

Every quantized value becomes a pair of QuantizeLinear and DequantizeLinear with the graph's own
scale and zero point, every weight and bias an integer constant behind a DequantizeLinear: the form
that ONNX Runtime turns into integer kernels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor
from torch.fx import GraphModule, Node

from qpc.meta import attribute, info
from qpc.ops import views
from qpc.ops.views import qpc_ops
from qpc.quant.fixedpoint import quantize_bias, quantize_weight
from qpc.quant.grid import QParams
from qpc.shapes import TensorType, concrete_shapes

_OPSET, _IR_VERSION = 17, 10  # what ONNX Runtime has known for years


def to_qdq(gm: GraphModule, batch: int = 1) -> onnx.ModelProto:
    """Return `gm`, between `fake-quantize` and `convert-to-integer`, as an ONNX model.

    Raises NotImplementedError for operators that image classifiers seldom have.
    """
    return _Exporter(gm, batch).model()


class _Exporter:
    def __init__(self, gm: GraphModule, batch: int) -> None:
        self.gm = gm
        self.types = concrete_shapes(gm, batch)
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, onnx.TensorProto] = {}
        self.names: dict[Node, str] = {}

    def model(self) -> onnx.ModelProto:
        inputs, outputs = [], []
        for node in self.gm.graph.nodes:
            if node.op == "placeholder":
                self.names[node] = node.name
                inputs.append(self.value_info(node))
            elif node.op == "call_function":
                self.call(node)
            elif node.op == "output":
                outputs = [self.value_info(value) for value in node.all_input_nodes]
        graph = helper.make_graph(self.nodes, "qpc", inputs, outputs, list(self.constants.values()))
        opsets = [helper.make_opsetid("", _OPSET)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=_IR_VERSION)
        onnx.checker.check_model(model, full_check=True)
        return model

    def call(self, node: Node) -> None:
        if node.target is qpc_ops.fake_quantize.default:
            if (source := node.args[0]) in self.names:  # else it rounds a weight; see `layer`
                grid = info(node).qparams
                assert isinstance(source, Node)
                assert grid is not None
                self.names[node] = self.round(self.names[source], grid)
            return
        for view, export in _EXPORTS.items():
            if view.matches(node):
                self.names[node] = export(self, view(node))
                break
        else:
            raise NotImplementedError(f"no ONNX form for {node.target}")
        if not any(user.target is qpc_ops.fake_quantize.default for user in node.users):
            self.keep_grid(node)

    def keep_grid(self, node: Node) -> None:
        """Where a value has its input's grid, ONNX Runtime wants to see the grid again."""
        moves = views.MaxPool2d.matches(node) or views.Reshape.matches(node)
        grid = info(node).qparams
        if moves and grid is not None:
            self.names[node] = self.round(self.names[node], grid)

    def round(self, name: str, grid: QParams) -> str:
        """A QuantizeLinear and a DequantizeLinear."""
        full = (0, 255) if grid.dtype is torch.uint8 else (-128, 127)
        if (grid.lo, grid.hi) != full:
            raise NotImplementedError("activations of fewer than 8 bits")
        zero_point = np.array(grid.zero_point, str(grid.dtype).removeprefix("torch."))
        ends = [self.constant(np.float32(grid.scale)), self.constant(zero_point)]
        integer = self.emit("QuantizeLinear", [name, *ends])
        return self.emit("DequantizeLinear", [integer, *ends])

    def layer(self, view: views.Conv2d | views.Linear) -> list[str]:
        """Names of the input, the weight and the bias of a convolution or linear layer."""
        rounded, source = view.weight, info(view.input).qparams
        config = info(view.node).config
        if rounded.target is not qpc_ops.fake_quantize.default or source is None or config is None:
            raise NotImplementedError(f"{view.node.name} is not quantized")
        real, scales = (attribute(self.gm, str(n.target)) for n in rounded.all_input_nodes[:2])
        weight = quantize_weight(real.detach(), scales, config.weight.bits, view.output_axis)
        names = [self.names[view.input], self.dequantized(weight, scales)]
        if view.bias is not None:
            bias = attribute(self.gm, str(view.bias.target)).detach()
            integer = quantize_bias(bias, source.scale, scales)
            names.append(self.dequantized(integer, scales * source.scale))
        return names

    def dequantized(self, integer: Tensor, scales: Tensor) -> str:
        """A constant behind a DequantizeLinear; scales by index of axis 0."""
        value = integer.numpy()
        ends = [self.constant(scales.numpy()), self.constant(np.zeros(scales.shape, value.dtype))]
        return self.emit("DequantizeLinear", [self.constant(value), *ends], axis=0)

    def emit(self, kind: str, inputs: list[str], **attributes: object) -> str:
        """A node of one output, whose name it returns."""
        name = f"{kind}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [name], name, **attributes))
        return name

    def constant(self, value: npt.NDArray[np.generic] | np.generic) -> str:
        name = f"constant_{len(self.constants)}"
        self.constants[name] = numpy_helper.from_array(np.asarray(value), name)
        return name

    def value_info(self, node: Node) -> onnx.ValueInfoProto:
        found = self.types[node]
        assert isinstance(found, TensorType)
        return helper.make_tensor_value_info(self.names[node], TensorProto.FLOAT, found.shape)


def _conv2d(to: _Exporter, view: views.Conv2d) -> str:
    return to.emit(
        "Conv",
        to.layer(view),
        strides=view.stride,
        pads=view.padding * 2,
        dilations=view.dilation,
        group=view.groups,
    )


def _linear(to: _Exporter, view: views.Linear) -> str:
    return to.emit("Gemm", to.layer(view), transB=1)


def _add(to: _Exporter, view: views.Add) -> str:
    assert isinstance(view.b, Node)
    return to.emit("Add", [to.names[view.a], to.names[view.b]])


def _relu(to: _Exporter, view: views.Relu) -> str:
    return to.emit("Relu", [to.names[view.input]])


def _clamp(to: _Exporter, view: views.Clamp) -> str:
    ends = ["" if end is None else to.constant(np.float32(end)) for end in (view.min, view.max)]
    return to.emit("Clip", [to.names[view.input], *ends])


def _max_pool2d(to: _Exporter, view: views.MaxPool2d) -> str:
    return to.emit(
        "MaxPool",
        [to.names[view.input]],
        kernel_shape=view.kernel_size,
        strides=view.stride,
        pads=view.padding * 2,
        dilations=view.dilation,
        ceil_mode=int(view.ceil_mode),
    )


def _mean(to: _Exporter, view: views.Mean) -> str:
    if view.dims != (2, 3) or not view.keepdim:
        raise NotImplementedError("means over other than height and width")
    return to.emit("GlobalAveragePool", [to.names[view.input]])


def _reshape(to: _Exporter, view: views.Reshape) -> str:
    return to.emit("Reshape", [to.names[view.input], to.constant(np.array(view.shape, np.int64))])


_EXPORTS: Mapping[type[views.OpView], Callable[..., str]] = {
    views.Conv2d: _conv2d,
    views.Linear: _linear,
    views.Add: _add,
    views.Relu: _relu,
    views.Clamp: _clamp,
    views.MaxPool2d: _max_pool2d,
    views.Mean: _mean,
    views.Reshape: _reshape,
}
