"""`qpc.trace_onnx`: a graph in core form from an ONNX model."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.fx import GraphModule

from qpc.capture.trace import trace
from qpc.errors import (
    ArtifactError,
    MissingDependencyError,
    TraceError,
    UnsupportedOpError,
)
from qpc.files import read_regular
from qpc.importers.onnx.module import OnnxModule
from qpc.importers.onnx.naming import keep_names
from qpc.importers.onnx.operators import OF_ONNX_RUNTIME, RULES, SPELLED_OUT
from qpc.importers.onnx.sizes import MOST_ELEMENTS, require_likely_sizes
from qpc.importers.onnx.values import as_sizes
from qpc.installing import install_line
from qpc.modes import ordinary_torch

if TYPE_CHECKING:
    import onnx

_LARGEST = 2**31 - 1
"""Bytes of a message of protocol buffers."""
_OPSETS = range(6, 26)
_BATCH = 2  # 0 and 1 are special to torch.export
_RUN = "see what ONNX Runtime says of it, or pass other example_inputs"
_FIX = "write it again, with onnx.save_model"


@ordinary_torch()
def trace_onnx(
    path: str | os.PathLike[str],
    example_inputs: Tensor | Sequence[Tensor] | None = None,
    *,
    check: bool = True,
) -> GraphModule:
    """Return an ONNX model as a graph in core form, as `qpc.trace` does for a module.

    path: a file of ONNX's opset 6 to 25, in float or in QDQ form, with its weights inside. What is
    computed from shapes alone is folded; a first axis without a size stays open.
    example_inputs: needed where another axis has no size.
    check: run both the operators of the file and the graph on the inputs, and compare.

    QuantizeLinear and DequantizeLinear are kept, for `qpc.import_quantized`. Nothing of the file is
    run as code.

    Raises ArtifactError for a file that is no such model, UnsupportedOpError that names all
    operators that QPC does not read, MissingDependencyError without onnx.
    """
    name = Path(path).name
    model, module = read_model(path)
    inputs = _examples(model, module, name) if example_inputs is None else example_inputs
    require_likely_sizes(module, inputs, name)
    try:
        gm = trace(module, inputs, check=check)
    except TraceError as e:
        raise ArtifactError(f"{name}: {e.what}", fix=e.fix or _RUN) from e
    keep_names(gm, module)
    return gm


def read_model(path: str | os.PathLike[str]) -> tuple[onnx.ModelProto, OnnxModule]:
    """What stands in a file, and a module that runs it. Nothing is run; raises as `trace_onnx`."""
    model = _loaded(Path(path))
    return model, _module(model, Path(path).name)


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
    outside = [t for t in _tensors(model.graph) if t.data_location == t.EXTERNAL]
    if outside:
        raise ArtifactError(
            f"{path.name} has its weights in other files, such as {outside[0].name!r}",
            fix="onnx.save_model(onnx.load_model(path), path, save_as_external_data=False)",
        )
    try:
        onnx.checker.check_model(model)
    except (onnx.checker.ValidationError, ValueError) as e:
        raise ArtifactError(f"{path.name}: {str(e).strip().splitlines()[0]}", fix=_FIX) from e
    return model


def _tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    """All that have contents: initializers and attributes of nodes."""
    yield from graph.initializer
    for attribute in (a for node in graph.node for a in node.attribute):
        yield from attribute.tensors
        if attribute.HasField("t"):
            yield attribute.t


def _module(model: onnx.ModelProto, source: str) -> OnnxModule:
    opset = next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 0)
    if opset not in _OPSETS:
        raise ArtifactError(
            f"{source} is of opset {opset}, and QPC reads {_OPSETS[0]} to {_OPSETS[-1]}",
            fix="onnx.version_converter.convert_version(model, 17)",
        )
    unknown = {
        f"{n.domain}.{n.op_type}" if n.domain not in _OWN else n.op_type: n
        for n in model.graph.node
        if not _is_read(n)
    }
    if unknown:
        first = next(iter(unknown.values()))
        raise UnsupportedOpError(
            f"{source} (opset {opset}) calls {', '.join(sorted(unknown))}, which QPC does not read;"
            f" the first is the node {first.name or first.output[0]!r}"
        )
    try:
        return OnnxModule(model, opset)
    except (
        ValueError,
        TypeError,
        KeyError,
        IndexError,
        AttributeError,
        RuntimeError,
        OverflowError,
    ) as e:
        raise ArtifactError(f"{source}: {str(e)[:_LONGEST]}", fix=_FIX) from e


_LONGEST = 300


_OWN = ("", "ai.onnx")


def _is_read(node: onnx.NodeProto) -> bool:
    """Whether QPC knows the operator of a node."""
    if node.domain in _OWN:
        known = node.op_type in RULES and node.op_type not in (*OF_ONNX_RUNTIME, *SPELLED_OUT)
        return known or node.op_type == "Constant"
    return node.domain == "com.microsoft" and node.op_type in OF_ONNX_RUNTIME


def _examples(model: onnx.ModelProto, module: OnnxModule, source: str) -> tuple[Tensor, ...]:
    """Random inputs of the sizes that the model gives, two samples where it leaves them open."""
    from onnx import TensorProto

    found = []
    generator = torch.Generator().manual_seed(0)
    for value in model.graph.input:
        if value.name not in module.inputs:
            continue
        kind = value.type.tensor_type
        sizes = [d.dim_value if d.HasField("dim_value") else 0 for d in kind.shape.dim]
        if sizes and sizes[0] == 0:
            sizes[0] = _BATCH
        known = min(sizes, default=1) > 0 and prod(sizes) <= MOST_ELEMENTS
        if not known or kind.elem_type != TensorProto.FLOAT:
            raise ArtifactError(
                f"{source} does not say of which size its float input {value.name!r} is",
                fix="pass example_inputs",
            )
        found.append(torch.randn(as_sizes(sizes), generator=generator))
    return tuple(found)
