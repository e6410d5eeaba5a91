"""Every classifier of torchvision is captured, and computes what it computed."""

from __future__ import annotations

from types import ModuleType

import pytest
import torch
from torch import Tensor, nn

from qpc.capture.trace import batch_is_dynamic, trace
from qpc.facts import CORE_FORM

pytestmark = pytest.mark.models

QUICK = ("mobilenet_v3_small", "squeezenet1_1")
_SLOW = """
alexnet convnext_base convnext_large convnext_small convnext_tiny densenet121 densenet161
densenet169 densenet201 efficientnet_b0 efficientnet_b1 efficientnet_b2 efficientnet_b3
efficientnet_b4 efficientnet_b5 efficientnet_b6 efficientnet_b7 efficientnet_v2_l efficientnet_v2_m
efficientnet_v2_s googlenet inception_v3 maxvit_t mnasnet0_5 mnasnet0_75 mnasnet1_0 mnasnet1_3
mobilenet_v2 mobilenet_v3_large regnet_x_16gf regnet_x_1_6gf regnet_x_32gf regnet_x_3_2gf
regnet_x_400mf regnet_x_800mf regnet_x_8gf regnet_y_16gf regnet_y_1_6gf regnet_y_32gf regnet_y_3_2gf
regnet_y_400mf regnet_y_800mf regnet_y_8gf resnet101 resnet152 resnet18 resnet34 resnet50
resnext101_32x8d resnext101_64x4d resnext50_32x4d shufflenet_v2_x0_5 shufflenet_v2_x1_0
shufflenet_v2_x1_5 shufflenet_v2_x2_0 squeezenet1_0 swin_b swin_s swin_t swin_v2_b swin_v2_s
swin_v2_t vgg11 vgg11_bn vgg13 vgg13_bn vgg16 vgg16_bn vgg19 vgg19_bn vit_b_16 vit_b_32 vit_l_16
vit_l_32 wide_resnet101_2 wide_resnet50_2
"""
SLOW = _SLOW.split()
LEFT_OUT = {
    "regnet_y_128gf": "645 million parameters: 10 GB with the copies that tracing makes",
    "vit_h_14": "632 million parameters: 10 GB with the copies that tracing makes",
}

IMAGE_SIZE = {
    "inception_v3": 299,  # its auxiliary head, which runs in training, needs all of it
    "maxvit_t": 224,  # its windows of 7 must fit at stride 32
}
OPTIONS: dict[str, dict[str, object]] = {
    "googlenet": {"init_weights": False},  # the other way warns
    "inception_v3": {"init_weights": False},
    **{name: {"image_size": 64} for name in ("vit_b_16", "vit_b_32", "vit_l_16", "vit_l_32")},
}


@pytest.mark.thorough
@pytest.mark.parametrize(
    "name", [*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)]
)
def test_traced_network_computes_the_same_at_another_batch_size(
    name: str, torchvision: ModuleType
) -> None:
    size = IMAGE_SIZE.get(name, 64)
    model = network(torchvision, name, size)
    gm = trace(model, torch.randn(1, 3, size, size), check=False)

    assert CORE_FORM.check(gm) is None
    assert batch_is_dynamic(gm)
    assert gm.state_dict().keys() >= model.state_dict().keys()
    images = torch.randn(3, 3, size, size)
    with torch.no_grad():
        expected, got = model(images), gm(images)
    assert_close(got, expected)
    assert depends_on_the_image(expected)


def test_every_classifier_is_listed(torchvision: ModuleType) -> None:
    assert {*QUICK, *SLOW, *LEFT_OUT} == set(torchvision.list_models(torchvision))


def network(torchvision: ModuleType, name: str, size: int) -> nn.Module:
    """An untrained network that passes signals on as a trained one does.

    Weights that start next to 0 would hide whole branches, and batch norms with the statistics they
    start with let the signal die out within ten layers.
    """
    model: nn.Module = torchvision.get_model(name, weights=None, **OPTIONS.get(name, {}))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.abs().max() < 1e-3:
                parameter.normal_(std=0.1)
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = 1.0  # the statistics of the one batch that follows
        model.train()(torch.randn(4, 3, size, size))
    return model.eval()


def assert_close(got: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(got, expected, rtol=0.0, atol=1e-5 * float(expected.abs().max()))


def depends_on_the_image(logits: Tensor) -> bool:
    """Whether the logits of different images differ by more than rounding errors."""
    spread = (logits - logits.mean(0)).abs().max()
    return bool(spread > 1e-3 * logits.abs().max())
