"""Save a compiled model, load it, run it, and see what a damaged one says.

A saved model is a folder without pickles: JSON, safetensors and a shared library.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import torch

import qpc
from qpc.assets import load_demo_images, load_demo_model


def main() -> None:
    """Make a model, put it away, and take it out again."""
    model, metadata = load_demo_model()
    images = load_demo_images()
    gm = qpc.trace(model, images.test[:1])
    int8 = qpc.quantize(gm, images.calibration[:128].split(64))
    compiled = qpc.compile(int8, batch_sizes=(4,))
    few = images.test[:4]

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "fashion-int8")
        compiled.save(path)
        for file in sorted(path.iterdir()):
            print(f"{file.name:20} {file.stat().st_size:8,} bytes")

        # Loading checks every file's hash, the versions and the CPU before anything is used.
        loaded = qpc.load(path)
        logits = loaded(few)
        print(f"\nsame bits as before saving: {torch.equal(logits, compiled(few))}")
        print(f"same bits as the integer graph in PyTorch: {torch.equal(logits, int8(few))}")

        # Arrays in, arrays out.
        array = loaded(few.numpy())
        assert isinstance(array, np.ndarray)
        print("it sees:", ", ".join(metadata.classes[i] for i in array.argmax(1)))

        # One changed bit in the machine code would crash the process, so it is not loaded.
        library = path / "kernels.so"
        code = bytearray(library.read_bytes())
        code[len(code) // 2] ^= 1
        library.write_bytes(code)
        try:
            qpc.load(path)
        except qpc.QPCError as error:
            print(f"\n{error.full_text}".replace(folder, "..."))


if __name__ == "__main__":
    main()
