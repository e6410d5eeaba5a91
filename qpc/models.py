"""ResNet-18 in plain PyTorch, with torchvision's parameter names but without torchvision.

Weights trained elsewhere for torchvision's `resnet18` load unchanged; the narrow form with the
small stem is the model of the demonstration.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from qpc.errors import ConfigError
from qpc.settings import require_count

Stem = Literal["imagenet", "cifar"]


def resnet18(
    *,
    width: int = 64,
    stem: Stem = "imagenet",
    in_channels: int = 3,
    classes: int = 1000,
) -> ResNet:
    """Return an untrained ResNet-18 whose four stages have 1, 2, 4 and 8 times `width` channels.

    The defaults give torchvision's network. The "imagenet" stem (7x7, stride 2, then max-pool)
    divides the image's sides by 4; the "cifar" stem (3x3, stride 1) keeps them, for images of
    about 32x32.
    """
    return ResNet(width=width, stem=stem, in_channels=in_channels, classes=classes)


class ResNet(nn.Module):
    """The residual network of He et al. (2015, arXiv 1512.03385) with two basic blocks a stage."""

    def __init__(self, *, width: int, stem: Stem, in_channels: int, classes: int) -> None:
        super().__init__()
        for name, value in {"width": width, "in_channels": in_channels, "classes": classes}.items():
            require_count(name, value)
        self.maxpool: nn.Module
        if stem == "imagenet":
            self.conv1 = nn.Conv2d(in_channels, width, 7, stride=2, padding=3, bias=False)
            self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        elif stem == "cifar":
            self.conv1 = nn.Conv2d(in_channels, width, 3, stride=1, padding=1, bias=False)
            self.maxpool = nn.Identity()
        else:
            raise ConfigError(f"stem must be 'imagenet' or 'cifar', got {stem!r}")
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.layer1 = _stage(width, width, stride=1)
        self.layer2 = _stage(width, 2 * width, stride=2)
        self.layer3 = _stage(2 * width, 4 * width, stride=2)
        self.layer4 = _stage(4 * width, 8 * width, stride=2)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(8 * width, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> Tensor:
        """Return logits[n, classes] of images[n, in_channels, height, width]."""
        features = self.maxpool(self.relu(self.bn1(self.conv1(images))))
        features = self.layer4(self.layer3(self.layer2(self.layer1(features))))
        logits: Tensor = self.fc(torch.flatten(self.avgpool(features), 1))
        return logits


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut, which is projected where the shape changes."""

    def __init__(self, in_channels: int, out_channels: int, *, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.downsample: nn.Sequential | None = None
        if stride != 1 or in_channels != out_channels:
            self.downsample = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False),
                nn.BatchNorm2d(out_channels),
            )

    def forward(self, features: Tensor) -> Tensor:
        """Return features[n, out_channels, height / stride, width / stride]."""
        shortcut = features if self.downsample is None else self.downsample(features)
        inner = self.relu(self.bn1(self.conv1(features)))
        joined: Tensor = self.relu(self.bn2(self.conv2(inner)) + shortcut)
        return joined


def _stage(in_channels: int, out_channels: int, *, stride: int) -> nn.Sequential:
    return nn.Sequential(
        BasicBlock(in_channels, out_channels, stride=stride),
        BasicBlock(out_channels, out_channels, stride=1),
    )
