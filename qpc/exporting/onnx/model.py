"""Graphs as ONNX models, in any of the forms, checked by ONNX's own checker."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch.fx import GraphModule, Node
from torch.fx.node import map_arg

from qpc.analysis.separate_sums import with_separate_sums
from qpc.batches import Batch
from qpc.errors import (
    BackendError,
    ConfigError,
    MissingDependencyError,
    QPCError,
    UnsupportedOpError,
)
from qpc.exporting.grids import TensorGrid
from qpc.exporting.onnx.exporter import REGISTER, Exporter, onnx_type
from qpc.exporting.onnx.form import DEFAULT_OPSET, OnnxForm
from qpc.exporting.onnx.residual import branches_of_sums
from qpc.exporting.onnx.rules import export_rules
from qpc.exporting.onnx.sizes import ValueType
from qpc.hashing import fingerprint
from qpc.installing import install_line
from qpc.meta import label
from qpc.types import BatchDim, dtype_name
from qpc.version import VERSION

if TYPE_CHECKING:
    import onnx

_LARGEST = 2**31 - 1
"""Bytes of a message of protocol buffers."""


@dataclass(frozen=True)
class OnnxExport:
    """An ONNX model, and the grids of its tensors in the order in which they are computed."""

    model: onnx.ModelProto
    grids: tuple[TensorGrid, ...]


def to_qdq(gm: GraphModule, batch: int | None = 1) -> onnx.ModelProto:
    """Return `gm`, a core-form graph with integer operators, as an ONNX model in QDQ form.

    Every integer value becomes a pair of QuantizeLinear and DequantizeLinear with the graph's own
    scale and zero point around a float operator, every weight and bias an integer constant behind a
    DequantizeLinear: the form that ONNX Runtime, OpenVINO and others turn into integer kernels.
    What the graph computes in float is float in the model, too.

    The model computes the same up to the rounding of sums, which runtimes do in their own ways.
    Padding by zeros before a convolution becomes part of the convolution.

    batch: the batch size, None for any. Raises what `to_onnx` raises.
    """
    return to_onnx(gm, OnnxForm("qdq", batch=batch)).model


def to_onnx(gm: GraphModule, form: OnnxForm, batches: Iterable[Batch] | None = None) -> OnnxExport:
    """Return `gm`, a core-form graph, as an ONNX model in a form.

    Tensors have the names of the graph's values, nodes begin with the path of the user's module and
    hold the line of the user's model. The model was checked by ONNX's checker and its inference of
    shapes.

    Raises UnsupportedOpError that names every operator without an ONNX form, BackendError for what
    the form cannot say, and MissingDependencyError without onnx.

    batches: see `with_separate_sums`.
    """
    try:
        import onnx
    except ImportError as e:
        raise MissingDependencyError("onnx is not installed", fix=install_line("onnx")) from e
    newest = onnx.defs.onnx_opset_version()
    if form.opset > newest:
        raise ConfigError(
            f"there is no opset {form.opset}: the newest that the installed onnx has is {newest}",
            fix=f"opset={DEFAULT_OPSET}",
        )
    apart, joined = (
        (gm, ()) if form.exact else with_separate_sums(gm, rounded=form.rounds, batches=batches)
    )
    to = Exporter(apart, form, export_rules(form))
    if form.fuse_residual_adds:
        to.left_out.update(branches_of_sums(apart))
    if not form.rounds:
        to.left_out.update(joined)
    to.write()
    if to.refused:
        raise _all_refused(to.refused)
    model = _model(to, fingerprint(gm))
    if model.ByteSize() > _LARGEST:
        raise BackendError("an ONNX model of more than 2 GiB does not fit one file")
    onnx.checker.check_model(model, full_check=True)
    return OnnxExport(model, tuple(to.grids))


def _all_refused(refused: Sequence[QPCError]) -> QPCError:
    """One error that names all operators without a form."""
    first = refused[0]
    whats = list(dict.fromkeys(error.what for error in refused))
    if len(whats) == 1:
        return first
    where = [f"{e.what}, at {label(e.node)}" if e.node is not None else e.what for e in refused]
    shown = "; ".join(list(dict.fromkeys(where))[:_MOST_NAMED])
    more = "" if len(where) <= _MOST_NAMED else f"; and {len(where) - _MOST_NAMED} more"
    return UnsupportedOpError(
        f"{len(refused)} operators have no ONNX form: {shown}{more}", fix=REGISTER
    )


_MOST_NAMED = 20


def _model(to: Exporter, made_from: str) -> onnx.ModelProto:
    from onnx import helper

    inputs = [node for node in to.gm.graph.nodes if node.op == "placeholder"]
    (output,) = (node for node in to.gm.graph.nodes if node.op == "output")
    names = _output_names(to, _results(output))
    nodes, constants = to.written(names)
    order = {name: i for i, (name, _) in enumerate(to.gm.named_parameters())}
    constants.sort(key=lambda tensor: order.get(tensor.name, len(order)))  # as the model has them
    graph = helper.make_graph(
        nodes,
        "qpc",
        [_value_info(to, node, to.inputs[node]) for node in inputs],
        [_value_info(to, node, name) for node, name in zip(_results(output), names, strict=True)],
        constants,
    )
    opsets = [helper.make_opsetid("", to.opset)]
    model = helper.make_model(
        graph,
        opset_imports=opsets,
        ir_version=max(10, helper.find_min_ir_version_for(opsets)),
        producer_name="qpc",
        producer_version=VERSION,
    )
    helper.set_model_props(model, _properties(to, graph, made_from))
    return model


def _results(output: Node) -> list[Node]:
    """What the graph returns, in order; a value may be there twice."""
    found: list[Node] = []
    map_arg(output.args[0], found.append)
    return found


def _output_names(to: Exporter, results: Sequence[Node]) -> list[str]:
    """Names of the results; an input, a constant or a tensor that is there twice is copied."""
    found: list[str] = []
    inputs = set(to.inputs.values())
    for node in results:
        name = to.of(node)
        if to.is_integer(node) and not to.form.exact:
            raise BackendError("no ONNX form for a model that returns integers", node=node)
        if name in found or name in inputs or node.op == "get_attr":
            name = to.emit("Identity", [name])
        found.append(name)
    return found


def _value_info(to: Exporter, node: Node, name: str) -> onnx.ValueInfoProto:
    from onnx import helper

    found = to.type(node)
    sizes = [str(size) if isinstance(size, BatchDim) else size for size in found.shape]
    return helper.make_tensor_value_info(name, onnx_type(found.dtype), sizes)


def _properties(to: Exporter, graph: onnx.GraphProto, made_from: str) -> dict[str, str]:
    """What the file says of itself: its form, the graph that it was made from, its signature."""
    kinds = {node: found for node, found in to.types.items() if isinstance(found, ValueType)}
    inputs = [node for node in kinds if node.op == "placeholder"]
    (output,) = (node for node in to.gm.graph.nodes if node.op == "output")
    signature = {
        "inputs": [_described(kinds[n], i.name) for n, i in zip(inputs, graph.input, strict=True)],
        "outputs": [
            _described(to.type(n), o.name)
            for n, o in zip(_results(output), graph.output, strict=True)
        ],
    }
    return {
        "qpc.version": VERSION,
        "qpc.form": to.form.kind,
        "qpc.fingerprint": made_from,
        "qpc.signature": json.dumps(signature),
    }


def _described(found: ValueType, name: str) -> dict[str, object]:
    shape = [str(size) if isinstance(size, BatchDim) else size for size in found.shape]
    return {"name": name, "dtype": dtype_name(found.dtype), "shape": shape}
