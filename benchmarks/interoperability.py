"""What other runtimes compute from the demonstration's network, next to its integers.

    python -m benchmarks.interoperability [--runtime onnxruntime] [--images 1000] [--batch 50]

Of each runtime: how many images get the class that the integer graph gives them, how many steps of
the output's grid it is off at most, and the signal-to-noise ratio; in the last line the same of the
float network. ONNX files have an open batch size, and one call of another size shows that it is.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.fx import GraphModule

import qpc
from qpc.assets import load_demo_images, load_demo_model
from qpc.backends.litert import to_tflite
from qpc.bench.peers import signal_to_noise_db
from qpc.exporting.onnx.form import OnnxForm
from qpc.exporting.onnx.model import to_onnx
from qpc.meta import info
from qpc.quant.config import LayerConfig, QuantConfig

Run = Callable[[Tensor], Tensor]
_OTHER_BATCH = 7


def onnxruntime(gm: GraphModule, batch: int, *, exact: bool) -> Run:
    """ONNX Runtime; exact: with sums that do not saturate on CPUs without VNNI."""
    import onnxruntime as runtime

    options = runtime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.x64quantprecision", str(int(exact)))
    data = to_onnx(gm, OnnxForm("qdq")).model.SerializeToString()
    session = runtime.InferenceSession(data, options)
    (name,) = (i.name for i in session.get_inputs())
    return lambda x: torch.from_numpy(session.run(None, {name: x.numpy()})[0])


def openvino(gm: GraphModule, batch: int, *, integers: bool) -> Run:
    """OpenVINO; integers: as it is, or with the float operators between the grids."""
    import openvino as runtime

    data = to_onnx(gm, OnnxForm("qdq")).model.SerializeToString()
    core = runtime.Core()
    settings: dict[str, Any] = {"INFERENCE_NUM_THREADS": 1, "INFERENCE_PRECISION_HINT": "f32"}
    if not integers:
        settings["LP_TRANSFORMS_MODE"] = "NO"
    compiled = core.compile_model(core.read_model(data, b""), "CPU", settings)
    return lambda x: torch.from_numpy(np.array(compiled(x.numpy())[0]))


def litert(gm: GraphModule, batch: int, *, kernels: str) -> Run:
    """LiteRT, with one of its sets of kernels."""
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    chosen = {
        "XNNPACK": OpResolverType.AUTO,
        "built-in": OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
        "reference": OpResolverType.BUILTIN_REF,
    }
    interpreter = Interpreter(
        model_content=to_tflite(gm, batch),
        num_threads=1,
        experimental_op_resolver_type=chosen[kernels],
    )
    interpreter.allocate_tensors()
    (given,), (made,) = interpreter.get_input_details(), interpreter.get_output_details()

    def run(x: Tensor) -> Tensor:
        interpreter.set_tensor(given["index"], x.permute(0, 2, 3, 1).contiguous().numpy())
        interpreter.invoke()
        return torch.from_numpy(interpreter.get_tensor(made["index"]))

    return run


RUNTIMES: dict[str, Callable[[GraphModule, int], Run]] = {
    "onnxruntime": lambda gm, batch: onnxruntime(gm, batch, exact=True),
    "onnxruntime by default": lambda gm, batch: onnxruntime(gm, batch, exact=False),
    "openvino": lambda gm, batch: openvino(gm, batch, integers=True),
    "openvino in float": lambda gm, batch: openvino(gm, batch, integers=False),
    "litert XNNPACK": lambda gm, batch: litert(gm, batch, kernels="XNNPACK"),
    "litert built-in": lambda gm, batch: litert(gm, batch, kernels="built-in"),
    "litert reference": lambda gm, batch: litert(gm, batch, kernels="reference"),
}


def main() -> None:
    """Print a line for each runtime."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runtime", choices=RUNTIMES, action="append")
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--batch", type=int, default=50)
    given = parser.parse_args()
    torch.set_num_threads(1)
    images = load_demo_images()
    gm = qpc.trace(load_demo_model()[0], images.test[:1])
    rounded = QuantConfig(default=LayerConfig(results="integer"))
    integers = qpc.quantize(gm, [*images.calibration.split(64)], rounded)
    test = images.test[: given.images]
    expected, step = _in_batches(integers, test, given.batch), _step(integers)
    for name in given.runtime or RUNTIMES:
        run = RUNTIMES[name](integers, given.batch)
        print(_line(name, _in_batches(run, test, given.batch), expected, step), flush=True)
        if not name.startswith("litert"):
            other = run(test[:_OTHER_BATCH])
            print(_line(f"  in a batch of {_OTHER_BATCH}", other, expected[:_OTHER_BATCH], step))
    print(_line("float", _in_batches(gm, test, given.batch), expected, step))


def _in_batches(run: Run, images: Tensor, batch: int) -> Tensor:
    with torch.no_grad():
        return torch.cat([run(part) for part in images.split(batch)])


def _step(gm: GraphModule) -> float:
    """Of the grid of the only result."""
    (output,) = gm.graph.find_nodes(op="output")
    (last,) = output.all_input_nodes
    grid = info(last.all_input_nodes[0]).qparams
    assert grid is not None
    return grid.scale


def _line(name: str, found: Tensor, expected: Tensor, step: float) -> str:
    equal = (found.argmax(1) == expected.argmax(1)).float().mean()
    off = (found - expected).abs().max() / step
    noise = signal_to_noise_db([expected.numpy()], [found.numpy()])
    return f"{name:<28} {equal:7.2%} of {len(found)}, at most {off:.2f} steps, {noise:.1f} dB"


if __name__ == "__main__":
    main()
