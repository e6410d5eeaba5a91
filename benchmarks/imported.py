"""What QPC makes of models that torchao's PT2E has quantized, next to what they compute themselves.

    python -m benchmarks.imported [--network mobilenet_v2] [--every 4] [--steps 30]

MobileNetV2 is quantized after training, and the demonstration's ResNet-18 in both ways: after
training, and with its roundings trained for some steps of 64 images (requirements-models.txt lists
the packages). Of each imported graph:

- how many convolutions and linear layers are integer ones, and how many of torchao's integer
  weights are theirs, bit by bit;
- how many images get the class that torchao's model gives them in PyTorch, how far logits are from
  its logits at most, in steps of 8 bits over the range of its logits, and the signal-to-noise
  ratio;
- how many values of the compiled model are not those of the integer graph.

Roundings amplify what float arithmetic leaves open, so that the same is said of torchao's model
and itself, computed without PyTorch's kernels of oneDNN, which sum in another order.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule

import qpc
from benchmarks.accuracy import integer_layers, run, share, sqnr_db
from benchmarks.real_models import NETWORKS, calibration_images, labelled_images
from qpc.assets import load_demo_images, load_demo_model
from qpc.base import PassContext

BATCH = 8
_LEVELS = 255  # steps of 8 bits
_TRAINED, _JUDGED = 64, 1000  # images of a step, and of Fashion-MNIST to judge on
_LAYERS = ("aten.conv2d", "aten.linear")


@dataclass(frozen=True)
class Converted:
    """A model that torchao has quantized, and the images it is judged on."""

    name: str
    module: GraphModule
    images: Tensor


def mobilenet_v2(every: int, steps: int) -> Converted:
    """MobileNetV2, quantized after training."""
    network = NETWORKS["mobilenet_v2"]
    calibration = network.normalise(calibration_images()[::every])
    images = network.normalise(labelled_images()[0][::every])
    return Converted("mobilenet_v2", quantized(network.load(), calibration), images)


def resnet18(every: int, steps: int) -> Converted:
    """The demonstration's network, quantized after training."""
    images = load_demo_images()
    made = quantized(load_demo_model()[0], images.calibration[::every].clone())
    return Converted("resnet18", made, images.test[:_JUDGED:every].clone())


def resnet18_trained(every: int, steps: int) -> Converted:
    """The demonstration's network, trained with its roundings on images that are not judged."""
    images = load_demo_images()
    labelled = images.test[_JUDGED:], images.labels[_JUDGED:]
    made = quantized(load_demo_model()[0], images.calibration[::every].clone(), labelled, steps)
    return Converted(f"resnet18, {steps} steps", made, images.test[:_JUDGED:every].clone())


def quantized(
    model: nn.Module,
    calibration: Tensor,
    labelled: tuple[Tensor, Tensor] | None = None,
    steps: int = 0,
) -> GraphModule:
    """What torchao's PT2E makes of a model with the quantizer for x86.

    labelled: images and classes to train the roundings on; None quantizes after training.
    """
    pt2e = importlib.import_module("torchao.quantization.pt2e")
    tools = importlib.import_module("torchao.quantization.pt2e.quantize_pt2e")
    x86 = importlib.import_module("torchao.quantization.pt2e.quantizer.x86_inductor_quantizer")
    trained = labelled is not None
    batch = {0: torch.export.Dim("batch", min=1, max=1024)}
    example = (calibration[:2].clone(),)
    # Only this form is taken by the quantizer: others have partitions with two outputs for it.
    form = torch.export.export(model.eval(), example, dynamic_shapes=(batch,), strict=True)
    quantizer = x86.X86InductorQuantizer()
    quantizer.set_global(x86.get_default_x86_inductor_quantization_config(is_qat=trained))
    prepare = tools.prepare_qat_pt2e if trained else tools.prepare_pt2e
    prepared = prepare(form.module(), quantizer)
    if labelled is None:
        run(prepared, calibration)
    else:
        pt2e.move_exported_model_to_train(prepared)
        train(prepared, *labelled, steps)
    made: Any = tools.convert_pt2e(prepared)
    pt2e.move_exported_model_to_eval(made)
    result: GraphModule = made
    return result


def train(model: nn.Module, images: Tensor, labels: Tensor, steps: int) -> None:
    """Some steps of SGD, in place."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    generator = torch.Generator().manual_seed(0)
    for _ in range(steps):
        chosen = torch.randint(len(labels), (_TRAINED,), generator=generator)
        loss = nn.functional.cross_entropy(model(images[chosen]), labels[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def measure(subject: Converted) -> Iterator[str]:
    """Two lines of the table: the imported graph, and torchao's model computed in another way."""
    module, images = subject.module, subject.images
    traced = qpc.trace(module, images[:2].clone())
    integers = qpc.import_quantized(traced, ctx=PassContext(thorough=True))
    theirs, ours = run(module, images), run(integers, images)
    sizes = {len(part) for part in images.split(BATCH)}
    compiled = run(qpc.compile(integers, batch_sizes=tuple(sorted(sizes))), images)
    layers = sum(str(n.target).startswith(_LAYERS) for n in module.graph.nodes)
    equal, stored = same_weights(module, integers)
    counts = f"{integer_layers(integers)}/{layers}", f"{equal}/{stored}"
    differing = f"{int((compiled != ours).sum())} of {ours.numel()}"
    yield line(subject.name, counts, theirs, ours, differing)
    with torch.backends.mkldnn.flags(enabled=False):
        again = run(module, images)
    yield line("  torchao, another way", ("", ""), theirs, again, "")


def line(name: str, counts: tuple[str, str], theirs: Tensor, ours: Tensor, differing: str) -> str:
    """A line of the table about logits [n, classes]."""
    step = (theirs.max() - theirs.min()) / _LEVELS
    most = float((theirs - ours).abs().max() / step)
    equal = share(theirs.argmax(1) == ours.argmax(1))
    return (
        f"{name:<24}{counts[0]:>7}{counts[1]:>9}{equal:>9.2%} of {len(ours):<5}{most:>7.2f}"
        f"{sqnr_db(theirs, ours):>8.1f} dB{differing:>18}"
    )


def same_weights(module: GraphModule, integers: GraphModule) -> tuple[int, int]:
    """How many of a converted model's integer weights an integer graph has; how many there are."""
    read = {str(n.target) for n in module.graph.nodes if n.op == "get_attr"}
    given = [b for name, b in module.named_buffers() if name in read and b.dtype is torch.int8]
    ours = [b for b in integers.buffers() if b.dtype is torch.int8]
    return sum(any(torch.equal(a, b) for b in ours) for a in given), len(given)


SUBJECTS: Mapping[str, Callable[[int, int], Converted]] = {
    "mobilenet_v2": mobilenet_v2,
    "resnet18": resnet18,
    "resnet18-trained": resnet18_trained,
}
HEAD = (
    f"{'network':<24}{'layers':>7}{'weights':>9}{'top-1 equal':>18}{'steps':>7}{'':>11}"
    f"{'compiled differs':>18}"
)


def main(arguments: list[str]) -> None:
    """Measure what the command line asks for, and print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--network", choices=SUBJECTS, action="append")
    parser.add_argument("--every", type=int, default=1, help="every so-manieth image of all kinds")
    parser.add_argument("--steps", type=int, default=30, help="of training")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    print(HEAD)
    for name in options.network or SUBJECTS:
        for each in measure(SUBJECTS[name](options.every, options.steps)):
            print(each, flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
