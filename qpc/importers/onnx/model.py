"""`qpc.trace_onnx`: a graph in core form from an ONNX model."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from qpc.capture.trace import trace
from qpc.errors import (
    ArtifactError,
    MissingDependencyError,
    QPCError,
    TraceError,
    UnsupportedOpError,
)
from qpc.files import read_regular
from qpc.importers.onnx.operators import RULES
from qpc.importers.onnx.values import Call, Value, as_sizes
from qpc.installing import install_line
from qpc.modes import ordinary_torch

if TYPE_CHECKING:
    import onnx

_LARGEST = 2**31 - 1
"""Bytes of a message of protocol buffers."""
_OPSETS = range(7, 26)
_BATCH = 2  # 0 and 1 are special to torch.export
_FIX = "write it again, with onnx.save_model"


@ordinary_torch()
def trace_onnx(
    path: str | os.PathLike[str],
    example_inputs: Tensor | Sequence[Tensor] | None = None,
    *,
    check: bool = True,
) -> GraphModule:
    """Return an ONNX model as a graph in core form, as `qpc.trace` does for a module.

    path: a file of ONNX's opset 7 to 25, in float or in QDQ form, with its weights inside. What is
    computed from shapes alone is folded; a first axis without a size stays open.
    example_inputs: needed where another axis has no size.
    check: run both the operators of the file and the graph on the inputs, and compare.

    QuantizeLinear and DequantizeLinear are kept, for `qpc.import_quantized`. Nothing of the file is
    run as code.

    Raises ArtifactError for a file that is no such model, UnsupportedOpError that names all
    operators that QPC does not read, MissingDependencyError without onnx.
    """
    model, name = _loaded(Path(path)), Path(path).name
    module = _module(model, name)
    inputs = _examples(model, module, name) if example_inputs is None else example_inputs
    try:
        return trace(module, inputs, check=check)
    except TraceError as e:
        raise ArtifactError(f"{name}: {e.what}", fix=e.fix) from e


def _loaded(path: Path) -> onnx.ModelProto:
    try:
        import onnx
        from google.protobuf.message import DecodeError
    except ImportError as e:
        raise MissingDependencyError("onnx is not installed", fix=install_line("onnx")) from e
    data = read_regular(path, _LARGEST)
    try:
        model = onnx.load_model_from_string(data)
    except DecodeError as e:
        raise ArtifactError(f"{path.name} is no ONNX model", fix=_FIX) from e
    outside = [t.name for t in model.graph.initializer if t.data_location == t.EXTERNAL]
    if outside:
        raise ArtifactError(
            f"{path.name} has its weights in other files, such as {outside[0]!r}",
            fix="onnx.save_model(onnx.load_model(path), path, save_as_external_data=False)",
        )
    try:
        onnx.checker.check_model(model)
    except (onnx.checker.ValidationError, ValueError) as e:
        raise ArtifactError(f"{path.name}: {str(e).strip().splitlines()[0]}", fix=_FIX) from e
    return model


def _module(model: onnx.ModelProto, source: str) -> _OnnxModule:
    opset = next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 0)
    if opset not in _OPSETS:
        raise ArtifactError(
            f"{source} is of opset {opset}, and QPC reads {_OPSETS[0]} to {_OPSETS[-1]}",
            fix="onnx.version_converter.convert_version(model, 17)",
        )
    unknown = {
        f"{n.domain}.{n.op_type}" if n.domain not in ("", "ai.onnx") else n.op_type: n
        for n in model.graph.node
        if n.op_type not in (*RULES, "Constant") or n.domain not in ("", "ai.onnx")
    }
    if unknown:
        first = next(iter(unknown.values()))
        raise UnsupportedOpError(
            f"{source} (opset {opset}) calls {', '.join(sorted(unknown))}, which QPC does not read;"
            f" the first is the node {first.name or first.output[0]!r}"
        )
    try:
        return _OnnxModule(model, opset)
    except (ValueError, TypeError, KeyError) as e:
        raise ArtifactError(f"{source}: {e}", fix=_FIX) from e


class _OnnxModule(nn.Module):
    """Runs the nodes of a model in order; `torch.export` captures what PyTorch does meanwhile."""

    def __init__(self, model: onnx.ModelProto, opset: int) -> None:
        from onnx import helper, numpy_helper

        super().__init__()
        graph = model.graph
        self._stored: dict[str, str] = {}
        self._small: dict[str, Value] = {}
        self._calls: list[Call] = []
        for tensor in graph.initializer:
            self._store(tensor.name, numpy_helper.to_array(tensor))
        for place, node in enumerate(graph.node):
            attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
            if node.op_type == "Constant":
                self._store(node.output[0], _constant(attributes))
                continue
            text = {k: v.decode() if isinstance(v, bytes) else v for k, v in attributes.items()}
            name = node.name or f"node {place}"
            ends = tuple(node.input), tuple(node.output)
            self._calls.append(Call(node.op_type, name, opset, *ends, text))
        self._inputs = [i.name for i in graph.input if i.name not in self._stored]
        self._inputs = [name for name in self._inputs if name not in self._small]
        self._outputs = [o.name for o in graph.output]

    def _store(self, name: str, array: Any) -> None:
        """Whole numbers that shapes are made of stay numbers; all else is a tensor of the model."""
        if str(array.dtype) == "int64" and array.ndim <= 1:
            self._small[name] = array.tolist()
            return
        value = torch.from_numpy(array.copy())
        path = f"initializers.{len(self._stored)}".replace(".", "_")
        *folders, leaf = name.split(".")
        if all(part.isidentifier() and not hasattr(nn.Module, part) for part in (*folders, leaf)):
            path = name
        *folders, leaf = path.split(".")
        owner: nn.Module = self
        for part in folders:
            if not hasattr(owner, part):
                owner.add_module(part, nn.Module())
            owner = owner.get_submodule(part)
        if value.is_floating_point():
            owner.register_parameter(leaf, nn.Parameter(value))
        else:
            owner.register_buffer(leaf, value)
        self._stored[name] = path

    def forward(self, *inputs: Tensor) -> Any:
        values: dict[str, Value] = {"": None} | self._small
        values |= dict(zip(self._inputs, inputs, strict=True))
        for name, path in self._stored.items():
            owner, _, leaf = path.rpartition(".")
            values[name] = getattr(self.get_submodule(owner), leaf)
        for call in self._calls:
            self._run(call, values)
        found = [values[name] for name in self._outputs]
        return found[0] if len(found) == 1 else tuple(found)

    def _run(self, call: Call, values: dict[str, Value]) -> None:
        try:
            made = RULES[call.kind](call, *[values[name] for name in call.inputs])
        except QPCError:
            raise
        except (RuntimeError, TypeError, ValueError, KeyError, IndexError) as e:
            first = (str(e).splitlines() or [type(e).__name__])[0]
            raise TraceError(f"{call.kind} at {call.name!r} cannot be computed: {first}") from e
        several = made if isinstance(made, tuple) else (made,)
        values |= dict(zip(call.outputs, several, strict=False))


def _constant(attributes: dict[str, Any]) -> Any:
    import numpy as np
    from onnx import numpy_helper

    ((kind, value),) = attributes.items()
    if kind == "value":
        return numpy_helper.to_array(value)
    types = {"value_float": "float32", "value_floats": "float32"}
    types |= {"value_int": "int64", "value_ints": "int64"}
    if kind not in types:
        raise ValueError(f"a Constant by {kind!r} is not read")
    return np.array(value, types[kind])


def _examples(model: onnx.ModelProto, module: _OnnxModule, source: str) -> tuple[Tensor, ...]:
    """Random inputs of the sizes that the model gives, two samples where it leaves them open."""
    from onnx import TensorProto

    found = []
    generator = torch.Generator().manual_seed(0)
    for value in model.graph.input:
        if value.name not in module._inputs:
            continue
        kind = value.type.tensor_type
        sizes = [d.dim_value if d.HasField("dim_value") else 0 for d in kind.shape.dim]
        if sizes and sizes[0] == 0:
            sizes[0] = _BATCH
        if 0 in sizes or kind.elem_type != TensorProto.FLOAT:
            raise ArtifactError(
                f"{source} does not say of which size its float input {value.name!r} is",
                fix="pass example_inputs",
            )
        found.append(torch.randn(as_sizes(sizes), generator=generator))
    return tuple(found)
