"""Other runtimes, each with a model that is ready to run."""

from __future__ import annotations

import json
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch.fx import GraphModule

from qpc.backends.litert import to_tflite
from qpc.bench.litert_peer import litert_peer
from qpc.bench.peer import Array, Peer
from qpc.bench.request import check_peers
from qpc.bench.torch_peer import FloatModel
from qpc.children import run_module
from qpc.errors import BackendError, UnsupportedOpError
from qpc.exporting.onnx.model import to_qdq
from qpc.meta import label
from qpc.shapes import concrete_shapes
from qpc.types import TensorType, dtype_name


def onnxruntime_peer(data: bytes, inputs: list[Array], threads: int) -> Peer:
    """An ONNX model in ONNX Runtime, with all of its optimizations."""
    import onnx
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3  # it warns that what it saves fits this machine only
    providers = ["CPUExecutionProvider"]
    start = time.perf_counter()
    session = onnxruntime.InferenceSession(data, options, providers=providers)
    seconds = time.perf_counter() - start
    with tempfile.TemporaryDirectory() as folder:
        options.optimized_model_filepath = str(Path(folder) / "optimized.onnx")
        onnxruntime.InferenceSession(data, options, providers=providers)
        optimized = onnx.load(options.optimized_model_filepath)
    kernels = Counter(node.op_type for node in optimized.graph.node)
    feeds = {i.name: x for i, x in zip(session.get_inputs(), inputs, strict=True)}
    return Peer(
        "ONNX Runtime",
        onnxruntime.__version__,
        lambda: session.run(None, feeds),
        seconds,
        sum(kernels[k] for k in ("QLinearConv", "QGemm", "MatMulInteger")),
        sum(kernels[k] for k in _ONNX_RUNTIME_FLOAT),
        dict(kernels),
        lambda values: session.run(None, dict(zip(feeds, values, strict=True))),
    )


_ONNX_RUNTIME_FLOAT = ("Conv", "FusedConv", "ConvTranspose", "Gemm", "FusedGemm", "MatMul")


def openvino_peer(data: bytes, inputs: list[Array], threads: int) -> Peer:
    """An ONNX model in OpenVINO, set up for the latency of a single call."""
    import openvino

    core = openvino.Core()
    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": "1",
        "INFERENCE_NUM_THREADS": threads,
        "ENABLE_CPU_PINNING": False,  # the process is kept on its cores already
    }
    start = time.perf_counter()
    compiled = core.compile_model(core.read_model(data, b""), "CPU", settings)
    request = compiled.create_infer_request()
    seconds = time.perf_counter() - start
    feeds = dict(enumerate(inputs))

    def run() -> list[Array]:
        return list(request.infer(feeds, share_inputs=True, share_outputs=True).values())

    others = compiled.create_infer_request()  # the first one would copy values into `inputs`

    def call(values: Sequence[Array]) -> list[Array]:
        return list(others.infer(dict(enumerate(values))).values())

    kernels: Counter[str] = Counter()
    integer = 0
    for operator in compiled.get_runtime_model().get_ops():
        about = operator.get_rt_info()
        kind, precision = (str(about[k].astype(str)) for k in ("layerType", "runtimePrecision"))
        kernels[f"{kind} {precision}"] += 1
        integer += kind in _OPENVINO_LAYERS and precision in ("u8", "i8")
    layers = sum(n for k, n in kernels.items() if k.split()[0] in _OPENVINO_LAYERS)
    return Peer(
        "OpenVINO",
        openvino.__version__.partition("-")[0],
        run,
        seconds,
        integer,
        layers - integer,
        dict(kernels),
        call,
    )


_OPENVINO_LAYERS = ("Convolution", "Deconvolution", "FullyConnected", "MatMul")


def torch_peer(data: bytes, inputs: list[Array], threads: int) -> Peer:
    """The network in float32 PyTorch, operator by operator."""
    import onnx

    start = time.perf_counter()
    model = onnx.load_model_from_string(data)
    network = FloatModel(model)
    seconds = time.perf_counter() - start
    torch.set_num_threads(threads)
    kernels = Counter(str(node.op_type) for node in model.graph.node)
    layers = sum(kernels[kind] for kind in ("Conv", "ConvTranspose", "Gemm"))
    return Peer(
        "PyTorch float32",
        torch.__version__,
        lambda: network(*inputs),
        seconds,
        0,
        layers,
        {k: n for k, n in kernels.items() if k not in ("QuantizeLinear", "DequantizeLinear")},
        lambda values: list(network(*values)),
    )


PEERS: Mapping[str, Callable[[bytes, list[Array], int], Peer]] = {
    "onnxruntime": onnxruntime_peer,
    "openvino": openvino_peer,
    "litert": litert_peer,
    "torch": torch_peer,
}
"""How to make each of `qpc.bench.request.RUNTIMES`, of its file in `Files`, for inputs."""
INT8_PEERS = ("onnxruntime", "openvino")
"""What QPC is compared with where nothing else is asked for."""


class Files:
    """An integer graph in the forms that runtimes read, each of which is written once."""

    def __init__(self, gm: GraphModule, batch: int) -> None:
        self._gm, self._batch = gm, batch
        self._by_form: dict[object, bytes] = {}

    def of(self, name: str) -> bytes:
        """The file for a runtime. Raises UnsupportedOpError or BackendError if there is none."""
        form = to_tflite if name == "litert" else _to_qdq_bytes
        if form not in self._by_form:
            self._by_form[form] = form(self._gm, self._batch)
        return self._by_form[form]


def _to_qdq_bytes(gm: GraphModule, batch: int) -> bytes:
    data: bytes = to_qdq(gm, batch).SerializeToString()
    return data


def signal_to_noise_db(reference: Sequence[Array], found: Sequence[Array]) -> float:
    """10 log10 of the energy of the reference over that of the difference; infinite if none."""
    a, b = (
        np.concatenate([v.ravel() for v in side]).astype(np.float64) for side in (reference, found)
    )
    noise = float(np.square(a - b).sum())
    return float(10 * np.log10(np.square(a).sum() / noise)) if noise else float("inf")


def usable_peers(
    names: Sequence[str], gm: GraphModule, batch: int, threads: int
) -> tuple[list[str], dict[str, str]]:
    """The runtimes that can run an integer graph, and why the others cannot.

    Each is tried in a process of its own, because some crash on some models. The graph may have no
    form that a runtime reads.
    """
    check_peers(names)
    usable, failures, files = [], {}, Files(gm, batch)
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            file = Path(folder, name)
            try:
                file.write_bytes(files.of(name))
            except (UnsupportedOpError, BackendError) as e:
                where = "" if e.node is None else f" at {label(e.node)}"
                failures[name] = e.what if where in e.what else f"{e.what},{where}"
                continue
            arguments = name, str(file), str(threads), json.dumps(_inputs(gm, batch))
            done = run_module("qpc.bench.try_peer", *arguments, temporary=Path(folder))
            if done.status == 0:
                usable.append(name)
            else:
                failures[name] = done.last_words
    return usable, failures


def _inputs(gm: GraphModule, batch: int) -> list[tuple[str, list[int]]]:
    """Dtypes and shapes of a graph's inputs."""
    types = (concrete_shapes(gm, batch)[n] for n in gm.graph.find_nodes(op="placeholder"))
    return [(dtype_name(t.dtype), list(t.shape)) for t in types if isinstance(t, TensorType)]
