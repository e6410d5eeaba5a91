"""Test vectors: inputs, and the outputs that the graph itself gives for them in PyTorch.

Inputs are spread over the grid that they are rounded to, and a little beyond its ends, so that
rounding and saturation show.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from qpc.analysis.exactness import exactness
from qpc.backends.compiled import output_nodes, signature_of
from qpc.backends.deploy.abi import ELEMENTS
from qpc.backends.deploy.deployable import Array, Case, Port, raw_bytes
from qpc.backends.inputs import plain_tensor
from qpc.backends.reference.model import compile_graph
from qpc.backends.vectors import array_of, grid_of_input, known_grid, random_inputs
from qpc.calls import arguments, qpc_ops
from qpc.errors import BackendError
from qpc.types import TensorType, dtype_name

_FLOAT_SHARE, _STEP_SHARE, _LEAST = 1e-3, 0.01, 1e-6


def input_ports(gm: GraphModule, batch: int) -> tuple[Port, ...]:
    """What the model takes at one batch size."""
    signature = signature_of(gm, (batch,))
    nodes = [node for node in gm.graph.nodes if node.op == "placeholder"]
    return tuple(
        _port(name, kind, grid_of_input(node))
        for name, node, kind in zip(signature.names, nodes, signature.inputs[batch], strict=True)
    )


def output_ports(
    gm: GraphModule, types: Sequence[TensorType], cases: Sequence[Case]
) -> tuple[Port, ...]:
    """What the model gives, of these types; test vectors say how far values go."""
    ports = []
    known = zip(output_nodes(gm), types, exactness(gm), strict=True)
    for number, (node, kind, exact) in enumerate(known):
        port = _port(node.name, kind, _grid_of_output(node))
        tolerance = None if exact.exact else _tolerance(port, [c.outputs[number] for c in cases])
        ports.append(Port(**vars(port) | {"tolerance": tolerance}))
    return tuple(ports)


def make_cases(
    gm: GraphModule, batch: int, count: int, examples: Sequence[Sequence[object]] = ()
) -> tuple[Case, ...]:
    """Test vectors: those of the examples, then random ones until there are `count`.

    Raises BackendError for examples that do not fit the model.
    """
    reference = compile_graph(gm, batch_sizes=(batch,))
    input_ports(gm, batch)  # which refuses what C has no type for
    given = [_checked(example, reference.signature.names) for example in examples]
    types = reference.signature.inputs[batch]
    wanted = [*given, *(random_inputs(gm, types, seed) for seed in range(count - len(given)))]
    cases = []
    for inputs in wanted:
        reference.signature.batch_of(inputs)
        outputs = reference.run_tensors(batch, inputs)
        cases.append(Case(*(tuple(map(tensor_bytes, tensors)) for tensors in (inputs, outputs))))
    return tuple(cases)


def tensor_bytes(tensor: Tensor) -> bytes:
    """The elements of a tensor as they lie in memory."""
    return raw_bytes(tensor_array(tensor))


def tensor_array(tensor: Tensor) -> Array:
    """A tensor as an array; floats of 16 bits are numbers that have their bits."""
    array = array_of(tensor)
    return array.view(np.uint16) if array.dtype == np.float16 else array


def _checked(example: Sequence[object], names: Sequence[str]) -> list[Tensor]:
    single: object = example
    values = [single] if isinstance(single, Tensor | np.ndarray) else list(example)
    if len(values) != len(names):
        raise BackendError(
            f"an example has {len(values)} inputs, the model takes {len(names)}",
            fix="examples=[(x, ...), ...]: a tuple of inputs for each test vector",
        )
    return [plain_tensor(value, name) for value, name in zip(values, names, strict=True)]


def _port(name: str, kind: TensorType, grid: tuple[float, int] | None) -> Port:
    dtype = dtype_name(kind.dtype)
    if dtype not in ELEMENTS:
        raise BackendError(f"a library cannot take or give {dtype}, which {name!r} is")
    return Port(name, dtype, kind.shape, *(grid or (None, None)))


def _grid_of_output(node: Node) -> tuple[float, int] | None:
    if node.target is qpc_ops.dequantize.default:
        about = arguments(node)
        return float(about["scale"]), int(about["zero_point"])
    return known_grid(node)


def _tolerance(port: Port, expected: Sequence[bytes]) -> float:
    """A share of the largest value of an output that float operators round."""
    largest = max((_largest(port, raw) for raw in expected), default=0.0)
    if port.dtype.startswith(("float", "bfloat")):
        return max(largest * _FLOAT_SHARE, _LEAST)
    return max(1.0, round(largest * _STEP_SHARE))


def _largest(port: Port, raw: bytes) -> float:
    values = np.frombuffer(raw, port.element.numpy)
    if port.dtype in ("float16", "bfloat16"):
        bits = torch.from_numpy(values.copy())
        values = bits.view(getattr(torch, port.dtype)).float().numpy()
    return float(np.abs(values[np.isfinite(values)].astype(np.float64)).max(initial=0))
