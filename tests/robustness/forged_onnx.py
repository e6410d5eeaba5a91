"""ONNX models and encodings, changed on purpose."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from tests.robustness.forgery import forge_document

MODEL, ENCODINGS = "net.onnx", "net.encodings"


def forge_model(rng: random.Random, folder: Path) -> str:
    """Change the model of a folder; returns what was done."""
    model = onnx.load(folder / MODEL)
    done = [rng.choice(_EDITS)(rng, model) for _ in range(rng.choice((1, 1, 2, 3)))]
    (folder / MODEL).write_bytes(model.SerializeToString())
    return ", ".join(done)


def forge_encodings(rng: random.Random, folder: Path) -> str:
    """Change the encodings of a folder; returns what was done."""
    file = folder / ENCODINGS
    document, done = forge_document(rng, json.loads(file.read_bytes()))
    try:
        file.write_text(json.dumps(document))
    except (ValueError, RecursionError):
        file.write_text(str(document))
    return done


_HUGE = (-1, 0, 1, 7, 2**20, 2**31, 2**40, 2**62, -(2**63))


def _node(rng: random.Random, model: Any) -> Any:
    return rng.choice(list(model.graph.node))


def _external(rng: random.Random, model: Any) -> str:
    """Weights in another file, wherever that may be."""
    tensor = rng.choice(list(model.graph.initializer))
    path = rng.choice(("/etc/passwd", "../../secret", "/dev/zero", "net.onnx", "", "\0"))
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=path)
    return f"{tensor.name} lies in {path!r}"


def _external_constant(rng: random.Random, model: Any) -> str:
    """The same of the tensor in a Constant."""
    tensor = helper.make_tensor("c", onnx.TensorProto.FLOAT, [1], [0.0])
    tensor.ClearField("float_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="/etc/passwd")
    node = helper.make_node("Constant", [], [f"c{rng.random()}"], value=tensor)
    model.graph.node.insert(0, node)
    _node(rng, model).input.append(node.output[0])
    return "a Constant in /etc/passwd"


def _dimensions(rng: random.Random, model: Any) -> str:
    tensor = rng.choice(list(model.graph.initializer))
    place = rng.randrange(len(tensor.dims) or 1)
    if tensor.dims:
        tensor.dims[place] = rng.choice(_HUGE)
    return f"{tensor.name} is {list(tensor.dims)}"


def _kind_of_tensor(rng: random.Random, model: Any) -> str:
    tensor = rng.choice(list(model.graph.initializer))
    tensor.data_type = rng.choice((0, 1, 2, 3, 6, 7, 8, 9, 10, 11, 14, 16, 17, 22, 99))
    return f"{tensor.name} has the type {tensor.data_type}"


def _input_shape(rng: random.Random, model: Any) -> str:
    kind = rng.choice(list(model.graph.input)).type.tensor_type
    if kind.shape.dim:
        rng.choice(list(kind.shape.dim)).dim_value = rng.choice(_HUGE)
    if rng.random() < 0.2:
        kind.elem_type = rng.choice((0, 7, 8, 9, 10, 99))
    return "another input"


def _cycle(rng: random.Random, model: Any) -> str:
    a, b = _node(rng, model), _node(rng, model)
    if a.input and b.output:
        a.input[rng.randrange(len(a.input))] = b.output[0]
    return f"{a.op_type} reads {b.op_type}"


def _missing(rng: random.Random, model: Any) -> str:
    node = _node(rng, model)
    if node.input:
        node.input[rng.randrange(len(node.input))] = rng.choice(("", "nowhere", "x"))
    return f"{node.op_type} reads nothing"


def _fewer_or_more(rng: random.Random, model: Any) -> str:
    node = _node(rng, model)
    if rng.random() < 0.5 and node.input:
        del node.input[-1]
    else:
        node.input.append(rng.choice([t.name for t in model.graph.initializer]))
    return f"{node.op_type} has {len(node.input)} inputs"


def _same_names(rng: random.Random, model: Any) -> str:
    a, b = _node(rng, model), _node(rng, model)
    a.output[0] = b.output[0]
    return f"two of {b.output[0]}"


def _operator(rng: random.Random, model: Any) -> str:
    from qpc.importers.onnx.operators import RULES

    node = _node(rng, model)
    node.op_type = rng.choice((*RULES, "If", "Loop", "Scan", "LSTM", "__class__", "", "é"))
    if rng.random() < 0.1:
        node.domain = rng.choice(("com.microsoft", "ai.onnx.ml", "evil", "ai.onnx"))
    return f"calls {node.op_type}"


def _attribute(rng: random.Random, model: Any) -> str:
    node = _node(rng, model)
    old = [a.name for a in node.attribute]
    name = rng.choice((*old, "axis", "axes", "perm", "pads", "kernel_shape", "group", "to", "mode"))
    value = rng.choice(
        (rng.choice(_HUGE), [rng.choice(_HUGE)] * 2, [0] * 5000, 0.5, float("nan"), "é", [b"\xff"])
    )
    kept = [a for a in node.attribute if a.name != name]
    del node.attribute[:]
    node.attribute.extend([*kept, helper.make_attribute(name, value)])
    return f"{node.op_type}.{name} = {str(value)[:40]}"


def _bomb(rng: random.Random, model: Any) -> str:
    """A value or a row of sizes that would be enormous."""
    large = numpy_helper.from_array(
        np.array([2 ** rng.choice((16, 20, 33))] * 2), f"n{rng.random()}"
    )
    model.graph.initializer.append(large)
    first = next(node for node in model.graph.node if node.input)
    source, made = first.input[0], f"bomb{rng.random()}"
    kind = rng.choice(("Expand", "Tile", "ConstantOfShape", "Range"))
    inputs = {"ConstantOfShape": [large.name], "Range": [large.name] * 3}.get(
        kind, [source, large.name]
    )
    model.graph.node.insert(0, helper.make_node(kind, inputs, [made]))
    _node(rng, model).input.append(made)
    first.input[0] = made if rng.random() < 0.7 else source
    return f"{kind} of {numpy_helper.to_array(large).tolist()}"


def _branch(rng: random.Random, model: Any) -> str:
    """Graphs within graphs within graphs."""
    graph = helper.make_graph([], "g", [], [])
    for _ in range(rng.choice((1, 40, 120))):
        node = helper.make_node("If", ["c"], ["y"], then_branch=graph, else_branch=graph)
        graph = helper.make_graph([node], "g", [], []) if rng.random() < 0.9 else graph
        if graph.ByteSize() > 2**20:
            break
    model.graph.node.append(helper.make_node("Loop", ["", ""], ["z"], body=graph))
    return "a Loop of Ifs"


def _function(rng: random.Random, model: Any) -> str:
    """A function that calls itself."""
    call = helper.make_node("F", ["a"], ["b"], domain="evil")
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("evil", 1)]
    model.functions.append(helper.make_function("evil", "F", ["a"], ["b"], [call], opsets))
    model.opset_import.append(helper.make_opsetid("evil", 1))
    node = _node(rng, model)
    node.op_type, node.domain = "F", "evil"
    return "calls itself"


def _versions(rng: random.Random, model: Any) -> str:
    model.opset_import[0].version = rng.choice((0, 1, 6, 7, 12, 18, 26, 2**40))
    if rng.random() < 0.3:
        model.ir_version = rng.choice((0, 3, 99, 2**40))
    return f"opset {model.opset_import[0].version}"


def _data(rng: random.Random, model: Any) -> str:
    tensor = rng.choice(list(model.graph.initializer))
    if rng.random() < 0.5:
        tensor.raw_data = tensor.raw_data[: rng.randrange(len(tensor.raw_data) + 1)]
    else:
        tensor.raw_data = bytes(rng.choice((0, 0xFF, 0x7F)) for _ in tensor.raw_data)
    return f"other contents of {tensor.name}"


_EDITS: tuple[Callable[[random.Random, Any], str], ...] = (
    *(_external, _external_constant, _dimensions, _kind_of_tensor, _input_shape, _cycle, _missing),
    *(_fewer_or_more, _same_names, _operator, _operator, _attribute, _attribute, _bomb, _branch),
    *(_function, _versions, _data),
)
