"""`qpc.trace_onnx`: a graph in core form from an ONNX model."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor
from torch.fx import GraphModule

from qpc.capture.checks import ExampleInputs
from qpc.capture.trace import trace
from qpc.errors import (
    ArtifactError,
    MissingDependencyError,
    TraceError,
    UnsupportedOpError,
)
from qpc.files import read_regular
from qpc.importers.onnx.inputs import examples, in_order, with_ranks
from qpc.importers.onnx.module import OnnxModule
from qpc.importers.onnx.naming import keep_names
from qpc.importers.onnx.operators import OF_ONNX_RUNTIME, RULES, SPELLED_OUT
from qpc.importers.onnx.sizes import require_likely_sizes
from qpc.installing import install_line
from qpc.modes import ordinary_torch

if TYPE_CHECKING:
    import onnx

_LARGEST = 2**31 - 1
"""Bytes of a message of protocol buffers."""
_OPSETS = range(6, 26)
_RUN = "see what ONNX Runtime says of it, or pass other example_inputs"
_WITHOUT = "export the model without this, or keep that part of it in Python"
_FIX = "write it again, with onnx.save_model"


@ordinary_torch()
def trace_onnx(
    path: str | os.PathLike[str],
    example_inputs: ExampleInputs | None = None,
    *,
    check: bool = True,
) -> GraphModule:
    """Return an ONNX model as a graph in core form, as `qpc.trace` does for a module.

    path: a file of ONNX's opset 6 to 25, in float or in QDQ form, with its weights inside. What is
    computed from shapes alone is folded; a first axis without a size stays open.
    example_inputs: one tensor, several in the order of the inputs, or by their names; needed where
    another axis has no size, and where an input is no float.
    check: run both the operators of the file and the graph on the inputs, and compare.

    QuantizeLinear and DequantizeLinear are kept, for `qpc.import_quantized`. Nothing of the file is
    run as code.

    Raises ArtifactError for a file that is no such model, UnsupportedOpError that names all
    operators that QPC does not read, MissingDependencyError without onnx.
    """
    model, module = read_model(path, sized=example_inputs is None)
    name = Path(path).name
    if example_inputs is None:
        inputs: Sequence[Tensor] = examples(model, module, name)
    else:
        inputs = in_order(model, module, example_inputs, name)
    require_likely_sizes(module, inputs, name)
    with _in_file(name):
        gm = trace(module, inputs, check=check)
    keep_names(gm, module)
    return gm


def read_model(
    path: str | os.PathLike[str], *, sized: bool = True
) -> tuple[onnx.ModelProto, OnnxModule]:
    """What stands in a file, and a module that runs it. Nothing is run; raises as `trace_onnx`.

    sized: whether inputs must have shapes.
    """
    if not isinstance(path, str | os.PathLike):
        raise ArtifactError(
            f"trace_onnx reads a file, got {type(path).__name__}",
            fix="onnx.save_model(model, path), and pass the path",
        )
    model = _loaded(Path(path), sized=sized)
    return model, _module(model, Path(path).name)


@contextmanager
def _in_file(name: str) -> Iterator[None]:
    """What is wrong while a file's operators run is told of the file."""
    try:
        yield
    except TraceError as e:
        raise ArtifactError(f"{name}: {e.what}", fix=e.fix or _RUN) from e
    except UnsupportedOpError as e:
        raise UnsupportedOpError(f"{name}: {e.what}", fix=e.fix or _WITHOUT) from e


def _loaded(path: Path, *, sized: bool) -> onnx.ModelProto:
    try:
        import onnx
        from google.protobuf.message import DecodeError
    except ImportError as e:
        raise MissingDependencyError("onnx is not installed", fix=install_line("onnx")) from e
    data = read_regular(path, _LARGEST)
    try:
        model = onnx.load_model_from_string(data)
    except DecodeError as e:
        raise ArtifactError(
            f"{path.name} is no ONNX model",
            fix="pass a file .onnx that a tool has exported as a whole",
        ) from e
    outside = [t for t in _tensors(model.graph) if t.data_location == t.EXTERNAL]
    if outside:
        places = {entry.key: entry.value for entry in outside[0].external_data}
        raise ArtifactError(
            f"{path.name} has its weights in other files, such as {outside[0].name!r} in"
            f" {places.get('location', '')!r}",
            fix="where these are, onnx.save_model(onnx.load_model(path), path,"
            " save_as_external_data=False) puts them into one",
        )
    with_ranks(model, path.name, given=not sized)
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
            f" the first is the node {first.name or first.output[0]!r}",
            fix=_WITHOUT,
        )
    try:
        with _in_file(source):
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
