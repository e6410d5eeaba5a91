from __future__ import annotations

import re
from typing import cast

import pytest
import torch

from qpc.models import Stem, resnet18

# A sample of the names and shapes in torchvision's resnet18, whose weights must load.
TORCHVISION = {
    "conv1.weight": (64, 3, 7, 7),
    "bn1.running_mean": (64,),
    "bn1.num_batches_tracked": (),
    "layer1.0.conv1.weight": (64, 64, 3, 3),
    "layer1.1.bn2.weight": (64,),
    "layer2.0.conv1.weight": (128, 64, 3, 3),
    "layer2.0.downsample.0.weight": (128, 64, 1, 1),
    "layer2.0.downsample.1.running_var": (128,),
    "layer3.0.downsample.0.weight": (256, 128, 1, 1),
    "layer4.1.conv2.weight": (512, 512, 3, 3),
    "fc.weight": (1000, 512),
    "fc.bias": (1000,),
}


def test_the_parameters_are_named_and_shaped_as_in_torchvision() -> None:
    state = resnet18().state_dict()
    assert len(state) == 122
    assert {name: tuple(state[name].shape) for name in TORCHVISION} == TORCHVISION
    assert "layer1.0.downsample.0.weight" not in state


def test_the_default_has_as_many_parameters_as_torchvision_s() -> None:
    assert sum(p.numel() for p in resnet18().parameters()) == 11_689_512


@pytest.mark.parametrize(
    ("stem", "size", "inner"), [("imagenet", 224, 56), ("imagenet", 64, 16), ("cifar", 28, 28)]
)
def test_only_the_imagenet_stem_shrinks_the_image(stem: Stem, size: int, inner: int) -> None:
    model = resnet18(width=4, stem=stem, in_channels=1, classes=10).eval()
    sizes: list[torch.Size] = []
    model.layer1.register_forward_pre_hook(lambda module, args: sizes.append(args[0].shape))
    with torch.no_grad():
        logits = model(torch.zeros(2, 1, size, size))
    assert logits.shape == (2, 10)
    assert sizes == [(2, 4, inner, inner)]


def test_the_width_is_that_of_the_first_stage_and_doubles_three_times() -> None:
    model = resnet18(width=16, stem="cifar", in_channels=1, classes=10)
    widths = [model.get_parameter(f"layer{stage}.0.conv1.weight").shape[0] for stage in range(1, 5)]
    assert widths == [16, 32, 64, 128]


def test_an_unknown_stem_is_refused() -> None:
    with pytest.raises(ValueError, match="stem must be 'imagenet' or 'cifar', got 'cifar10'"):
        resnet18(stem=cast(Stem, "cifar10"))


@pytest.mark.parametrize("name", ["width", "in_channels", "classes"])
def test_a_size_below_one_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=re.escape(f"{name} must be at least 1, got 0")):
        resnet18(**{name: 0})  # type: ignore[arg-type]  # mypy takes 0 for a stem
