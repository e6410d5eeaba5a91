"""The networks of the benchmark suite, ready to be quantized."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.fx import GraphModule

import qpc
from benchmarks import real_models
from qpc.models import resnet18
from qpc.pruning.allocation import Uniform
from qpc.pruning.magnitude import L1

_SAMPLES = 4  # images to calibrate on: enough for speed, which grids do not change


@dataclass(frozen=True)
class Network:
    """A network, the size of its square images, and how it is measured.

    make: the model; its weights are random unless `trained` names their source.
    pruned: the share of the channels that every layer loses before quantization.
    """

    make: Callable[[], nn.Module]
    size: int = 224
    batch: int = 1
    pruned: float = 0.0
    trained: str | None = None

    def images(self) -> Tensor:
        """Images [4, 3, size, size] to calibrate on and to run."""
        if self.trained is None:
            return torch.randn(_SAMPLES, 3, self.size, self.size)
        pixels = real_models.calibration_images()[:: 40 // _SAMPLES]
        return real_models.NETWORKS[self.trained].normalise(pixels)

    def prepare(self, images: Tensor) -> GraphModule:
        """The traced model, pruned if it is to be."""
        model = self.make()
        if self.trained is None:
            settle(model, images)
        gm = qpc.trace(model, images[:1])
        if self.pruned:
            gm = qpc.prune(gm, L1(), Uniform(self.pruned))
        return gm


def settle(model: nn.Module, images: Tensor) -> None:
    """Give batch norms the statistics of their inputs, or values fade from layer to layer."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # the average of all batches seen, which is one
            module.train()
    with torch.no_grad():
        model(images)
    model.eval()


def torchvision(name: str) -> Callable[[], nn.Module]:
    """A network of torchvision with random weights."""

    def make() -> nn.Module:
        model: nn.Module = getattr(real_models.torchvision_models(), name)(weights=None)
        return model.eval()

    return make


NETWORKS: Mapping[str, Network] = {
    "resnet18": Network(resnet18),
    "resnet50": Network(torchvision("resnet50")),
    "mobilenet_v2": Network(real_models.mobilenet_v2, trained="mobilenet_v2"),
    "efficientnet_lite0": Network(real_models.efficientnet_lite0, trained="efficientnet_lite0"),
    "resnet18-cifar": Network(lambda: resnet18(stem="cifar", classes=10), size=32),
    "resnet18-half": Network(resnet18, pruned=0.5),
    # 64, 128, 256, 512 become 39, 77, 154, 308 channels or so: no multiples of a vector
    "resnet18-irregular": Network(resnet18, pruned=0.4),
    "shufflenet_v2": Network(torchvision("shufflenet_v2_x1_0")),
    "mobilenet_v3_small": Network(torchvision("mobilenet_v3_small")),
    "squeezenet": Network(torchvision("squeezenet1_1")),
    "densenet121": Network(torchvision("densenet121")),
    "resnet18-batch16": Network(resnet18, batch=16),
}
