"""Quantize a trained ResNet-18, compile it to int8 machine code, and compare it with PyTorch.

The weights and the Fashion-MNIST images are part of the package.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

import qpc
from qpc.assets import load_demo_images, load_demo_model

TEST_IMAGES = 500


def right_answers(model: Callable[[Tensor], Tensor], images: Tensor, labels: Tensor) -> int:
    """Count the images that the model gets right, one image at a time."""
    with torch.no_grad():
        classes = torch.cat([model(image).argmax(1) for image in images.split(1)])
    return int((classes == labels).sum())


def main() -> None:
    """Go from a PyTorch module to machine code in three calls."""
    model, _ = load_demo_model()
    images = load_demo_images()
    test, labels = images.test[:TEST_IMAGES], images.labels[:TEST_IMAGES]

    # 1. Capture: a torch.fx graph of plain operators. The batch size stays open.
    gm = qpc.trace(model, test[:1])

    # 2. Quantize. The batches show the range of every value; what passes say goes to `ctx`.
    ctx = qpc.PassContext()
    int8 = qpc.quantize(gm, images.calibration.split(64), ctx=ctx)
    for report in ctx.reports:
        print(f"{report.name:20} {report.summary or len(report.changes)}")

    # 3. Compile for this machine, for one image at a time (batch_sizes=(1, 8) would add eight).
    compiled = qpc.compile(int8)
    print(f"\ncompiled for {compiled.target.name}: {compiled.benchmark()}")

    # The integer graph runs in PyTorch too. It is slow, and it defines the right answer.
    few = test[:20]
    same = torch.equal(int8(few), torch.cat([compiled(image) for image in few.split(1)]))
    print(f"same bits as the integer graph in PyTorch: {same}")

    forms: dict[str, Callable[[Tensor], Tensor]] = {"float": model, "int8": compiled}
    for name, form in forms.items():
        print(f"{name:5} gets {right_answers(form, test, labels)} of {TEST_IMAGES} images right")


if __name__ == "__main__":
    main()
