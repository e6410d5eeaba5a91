"""A .tflite file in LiteRT.

Its images are NHWC. What goes in is turned around once, when the peer is made, and what comes out
is a view: so a time holds no turning around, which a program made for this form would not do.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

import numpy as np

from qpc.bench.peer import Array, Peer

_LAYERS = ("CONV_2D", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV", "FULLY_CONNECTED")


def litert_peer(data: bytes, inputs: list[Array], threads: int) -> Peer:
    """A .tflite file in LiteRT, with XNNPACK where that has kernels."""
    from ai_edge_litert.interpreter import Interpreter

    start = time.perf_counter()
    interpreter = Interpreter(model_content=data, num_threads=threads)
    interpreter.allocate_tensors()
    seconds = time.perf_counter() - start
    given = [_as_stored(x) for x in inputs]
    ends = [d["index"] for d in interpreter.get_input_details()]
    results = [d["index"] for d in interpreter.get_output_details()]

    def of(values: Sequence[Array]) -> list[Array]:
        for index, value in zip(ends, values, strict=True):
            interpreter.set_tensor(index, value)
        interpreter.invoke()
        return [_as_logical(interpreter.get_tensor(index)) for index in results]

    kernels = _kernels(data)
    counts = Counter(kind for kind, _ in kernels)
    integer = sum(kind in _LAYERS and dtype is np.int8 for kind, dtype in kernels)
    return Peer(
        "LiteRT",
        version("ai-edge-litert"),
        lambda: of(given),
        seconds,
        integer,
        sum(counts[kind] for kind in _LAYERS) - integer,
        dict(counts),
        lambda values: of([_as_stored(x) for x in values]),
    )


def _kernels(data: bytes) -> list[tuple[str, Any]]:
    """A file's operators, before any are handed to XNNPACK, and the dtypes of their results."""
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    plain = OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    interpreter = Interpreter(model_content=data, experimental_op_resolver_type=plain)
    dtypes: Mapping[int, Any] = {d["index"]: d["dtype"] for d in interpreter.get_tensor_details()}
    return [
        (str(each["op_name"]), dtypes.get(int(each["outputs"][0])))
        for each in interpreter._get_ops_details()
    ]


def _as_stored(x: Array) -> Array:
    return np.ascontiguousarray(x.transpose(0, 2, 3, 1)) if x.ndim == 4 else x


def _as_logical(x: Array) -> Array:
    return x.transpose(0, 3, 1, 2) if x.ndim == 4 else x
