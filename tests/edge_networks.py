"""Networks as they run on small machines, with random weights and statistics of real ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.fx import GraphModule

import qpc
from benchmarks.real_models import torchvision_models
from qpc.assets import load_demo_images, load_demo_model


def quantized(model: nn.Module, *shape: int, batches: int = 4) -> GraphModule:
    """An integer graph, calibrated with random inputs of a shape without the batch."""
    torch.manual_seed(0)
    data = [torch.randn(4, *shape) for _ in range(batches)]
    with torch.no_grad():
        model.train()
        for batch in data:  # so that batch norms know their statistics
            model(batch)
    return qpc.quantize(qpc.trace(model.eval(), (data[0],)), data)


class Keywords(nn.Module):
    """Depthwise separable convolutions on 49 x 10 features of sound (Zhang et al. 2017, small)."""

    def __init__(self, channels: int = 64, classes: int = 12) -> None:
        super().__init__()
        self.first = _conv(1, channels, (10, 4), stride=(2, 2), padding=(5, 1))
        self.blocks = nn.Sequential(
            *(
                layer
                for _ in range(4)
                for layer in (
                    _conv(channels, channels, (3, 3), padding=(1, 1), groups=channels),
                    _conv(channels, channels, (1, 1)),
                )
            )
        )
        self.classify = nn.Linear(channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        """x: sound[n, 1, 49, 10]; returns scores[n, classes]."""
        found: Tensor = self.classify(self.blocks(self.first(x)).mean((2, 3)))
        return found


class SmallUNet(nn.Module):
    """Down by pooling and up by transposed convolutions, with concatenations on the way."""

    def __init__(self, channels: int = 8) -> None:
        super().__init__()
        self.down1 = _conv(3, channels, (3, 3), padding=(1, 1))
        self.down2 = _conv(channels, 2 * channels, (3, 3), padding=(1, 1))
        self.bottom = _conv(2 * channels, 4 * channels, (3, 3), padding=(1, 1))
        self.up2 = nn.ConvTranspose2d(4 * channels, 2 * channels, 2, stride=2)
        self.join2 = _conv(4 * channels, 2 * channels, (3, 3), padding=(1, 1))
        self.up1 = nn.ConvTranspose2d(2 * channels, channels, 2, stride=2)
        self.join1 = _conv(2 * channels, channels, (3, 3), padding=(1, 1))
        self.last = nn.Conv2d(channels, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        """x: images[n, 3, h, w]; returns scores[n, 2, h, w]."""
        first = self.down1(x)
        second = self.down2(nn.functional.max_pool2d(first, 2))
        bottom = self.bottom(nn.functional.max_pool2d(second, 2))
        up = self.join2(torch.cat((self.up2(bottom), second), 1))
        up = self.join1(torch.cat((self.up1(up), first), 1))
        found: Tensor = self.last(up)
        return found


class Mixed(nn.Module):
    """Concatenation, squeeze and excitation, tables (hardswish, sigmoid), resizing, additions."""

    def __init__(self, channels: int = 12) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, channels, 3, 2, 1), nn.Hardswish())
        self.left = nn.Sequential(nn.Conv2d(channels, channels, 1), nn.SiLU())
        self.right = nn.Sequential(nn.Conv2d(channels, channels, 5, 1, 2, groups=channels))
        self.squeeze = nn.Conv2d(2 * channels, 4, 1)
        self.excite = nn.Conv2d(4, 2 * channels, 1)
        self.last = nn.Conv2d(2 * channels, channels, 1)
        self.classify = nn.Linear(channels, 10)

    def forward(self, x: Tensor) -> Tensor:
        """x: images[n, 3, h, w]; returns scores[n, 10]."""
        first = self.first(x)
        joined = torch.cat((self.left(first), self.right(first)), 1)
        squeezed = torch.relu(self.squeeze(joined.mean((2, 3), keepdim=True)))
        joined = joined * torch.sigmoid(self.excite(squeezed))
        small = nn.functional.avg_pool2d(self.last(joined), 2)
        up = nn.functional.interpolate(small, scale_factor=2, mode="nearest")
        found: Tensor = self.classify((up + first).mean((2, 3)))
        return found


def _conv(
    inputs: int,
    outputs: int,
    kernel: tuple[int, int],
    *,
    stride: tuple[int, int] = (1, 1),
    padding: tuple[int, int] = (0, 0),
    groups: int = 1,
) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU())


def keywords() -> GraphModule:
    """The keyword network."""
    return quantized(_seeded(Keywords), 1, 49, 10)


def small_unet() -> GraphModule:
    """The U-Net, on images of 32 x 32."""
    return quantized(_seeded(SmallUNet), 3, 32, 32)


def mixed() -> GraphModule:
    """The network with a little of everything, on images of 24 x 24."""
    return quantized(_seeded(Mixed), 3, 24, 24)


def demo_resnet() -> GraphModule:
    """The ResNet-18 of the demonstration, trained, on its own images."""
    model, _ = load_demo_model()
    images = load_demo_images().calibration[:64]
    return qpc.quantize(qpc.trace(model, (images[:1],)), images.split(32))


def mobilenet_v2() -> GraphModule:
    """MobileNetV2 of torchvision on images of 96 x 96, with random weights."""
    network = torchvision_models().mobilenet_v2
    return quantized(_seeded(lambda: network(weights=None)), 3, 96, 96, batches=2)


def _seeded(make: Callable[[], nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    return make()


NETWORKS: Mapping[str, Callable[[], GraphModule]] = {
    "keywords": keywords,
    "small_unet": small_unet,
    "mixed": mixed,
    "demo_resnet": demo_resnet,
    "mobilenet_v2": mobilenet_v2,
}
