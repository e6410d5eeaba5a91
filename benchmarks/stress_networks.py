"""Tiny trained networks on which rounding to nearest fails, for tests and measurements.

All are made and trained here, deterministically, in a second or two.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

CLASSES = 8
_FEATURES = 32
_STEPS = 150


@dataclass(frozen=True)
class Stress:
    """A trained network with data.

    calibration: inputs to calibrate and to learn from; images, labels: others, to be judged by.
    """

    model: nn.Sequential
    calibration: Tensor
    images: Tensor
    labels: Tensor

    def accuracy(self, model: nn.Module) -> float:
        """The share of the images that `model` gets right, in percent."""
        with torch.no_grad():
            return 100.0 * float((model(self.images).argmax(1) == self.labels).double().mean())


def loud_background() -> Stress:
    """Linear layers, whose inputs share one strong component that says nothing about the classes.

    Rounding to nearest makes errors that do not cancel along it; a rounding that looks at inputs
    makes them cancel.
    """
    layers = (nn.Linear(_FEATURES, 48), nn.ReLU(), nn.Linear(48, CLASSES))
    return _trained(nn.Sequential(*layers), (_FEATURES,), loud=80.0)


def loud_images() -> Stress:
    """The same for convolutions, one of them depthwise."""
    return _trained(_convolutions(), (2, 4, 4), loud=80.0)


def uneven_channels() -> Stress:
    """Convolutions of whose channels some are 1000 times others.

    The factors cancel from layer to layer, so that they change nothing in float.
    """
    stress = _trained(_convolutions(), (2, 4, 4), loud=0.0)
    with torch.no_grad():
        for before, after in ((0, 2), (2, 4)):
            first, second = stress.model[before], stress.model[after]
            assert isinstance(first, nn.Conv2d)
            assert isinstance(second, nn.Conv2d)
            assert first.bias is not None
            factors = torch.logspace(-2.0, 2.0, 16)[torch.randperm(16, generator=_generator(5))]
            first.weight.mul_(factors[:, None, None, None])
            first.bias.mul_(factors)
            shape = (-1, 1, 1, 1) if second.groups > 1 else (1, -1, 1, 1)
            second.weight.div_(factors.reshape(shape))
    return stress


def _convolutions() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(2, 16, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 16, 3, padding=1, groups=16),
        nn.ReLU(),
        nn.Conv2d(16, 16, 1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(256, CLASSES),
    )


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _trained(model: nn.Sequential, shape: tuple[int, ...], loud: float) -> Stress:
    generator = _generator(0)
    with torch.no_grad():
        for parameter in model.parameters():
            spread = parameter[0].numel() ** -0.5 if parameter.dim() > 1 else 0.0
            parameter.normal_(0.0, 1.4 * spread, generator=generator)
    prototypes = torch.randn(CLASSES, _FEATURES, generator=generator)
    background = torch.randn(_FEATURES, generator=generator)
    background /= background.norm()

    def draw(count: int) -> tuple[Tensor, Tensor]:
        labels = torch.randint(CLASSES, (count,), generator=generator)
        noise = torch.randn(count, _FEATURES, generator=generator)
        common = loud * torch.randn(count, 1, generator=generator) * background
        return (prototypes[labels] + 0.8 * noise + common).reshape(-1, *shape), labels

    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(_STEPS):
        images, labels = draw(128)
        loss = nn.functional.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    calibration, _ = draw(128)
    images, labels = draw(1000)
    return Stress(model.eval(), calibration, images, labels)
