"""Run an ONNX model once in another runtime: `python -m qpc.bench.try_peer NAME FILE THREADS`."""

from __future__ import annotations

import sys

import numpy as np

from qpc.bench.peers import PEERS


def main(name: str, file: str, threads: str) -> None:
    """Zeros go in; what comes out does not matter."""
    import onnx

    model = onnx.load(file)
    inputs = [
        np.zeros(
            [d.dim_value for d in i.type.tensor_type.shape.dim],
            onnx.helper.tensor_dtype_to_np_dtype(i.type.tensor_type.elem_type),
        )
        for i in model.graph.input
    ]
    PEERS[name](model, inputs, int(threads)).run()


if __name__ == "__main__":
    main(*sys.argv[1:])
