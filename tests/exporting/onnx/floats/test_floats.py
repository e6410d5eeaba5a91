"""Float operators: a graph of each one in ONNX Runtime gives what PyTorch gives, at two opsets."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import qpc
from qpc.errors import UnsupportedOpError
from tests.exporting.nets import as_onnx, ran, read
from tests.small_models import Call, Recurrent

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

Function = Callable[..., Any]

OF_ONE_VALUE: tuple[Function, ...] = (
    *(torch.sigmoid, torch.tanh, torch.exp, torch.erf, torch.floor, torch.ceil, torch.round),
    *(torch.sin, torch.cos, torch.tan, torch.atan, torch.sinh, torch.cosh, torch.asinh),
    *(torch.abs, torch.neg, torch.sign, torch.square, torch.trunc, torch.expm1, torch.exp2),
    *(F.silu, F.hardswish, F.hardsigmoid, F.mish, F.gelu, F.selu, F.logsigmoid, F.softplus),
    *(F.elu, F.celu, F.leaky_relu, F.relu, F.relu6, F.hardshrink, F.softshrink, F.hardtanh),
    partial(F.gelu, approximate="tanh"),
    partial(F.elu, alpha=0.5),
    partial(F.celu, alpha=0.5),
    partial(F.softplus, beta=2, threshold=3),
    partial(F.threshold, threshold=0.25, value=-1.0),
    partial(torch.clamp, max=0.5),
    partial(torch.clamp, min=-0.25, max=0.5),
)
OF_POSITIVE_VALUES: tuple[Function, ...] = (
    *(torch.log, torch.log1p, torch.log2, torch.sqrt, torch.rsqrt, torch.reciprocal),
)


def all_of(x: Tensor) -> Tensor:
    return torch.cat([function(x) for function in OF_ONE_VALUE], 1)


def all_of_positive(x: Tensor) -> Tensor:
    y = x.abs() + 0.1
    small = torch.tanh(x)
    return torch.cat(
        [
            *(function(y) for function in OF_POSITIVE_VALUES),
            *(torch.asin(small), torch.acos(small), torch.atanh(small), torch.acosh(y + 1)),
        ],
        1,
    )


def arithmetic(x: Tensor) -> Tensor:
    a, b = x[:, :2], x[:, 2:]
    parts = [a + b, a - b, a * b, a / (b.abs() + 1), 1 - a, a + 2, a / 4, a.abs() ** 1.5, 2**a]
    parts += [torch.maximum(a, b), torch.minimum(a, b), torch.remainder(a, 0.75), a.clamp(b, b + 1)]
    parts += [torch.div(a, 0.3, rounding_mode="floor"), torch.div(a, 0.3, rounding_mode="trunc")]
    parts += [torch.where(a > b, a, b), a.masked_fill(b <= 0, -3.0), torch.where(a == b, a, 1.0)]
    parts += [((a > 0) & (b >= 0) | ~(a < b)).float(), (a != b).to(torch.float32)]
    parts += [a.isfinite() * a, torch.isnan(a).float(), torch.full_like(a, 2.5)]
    return torch.cat(parts, 1)


def reductions(x: Tensor) -> Tensor:
    parts = [x.mean(2), x.sum((2, 3)), x.amax(1), x.amin((1, 2)), x.mean((2, 3), keepdim=True)]
    parts += [x.var(2), x.std((2, 3), unbiased=False), torch.var_mean(x, 3)[1], x.logsumexp(1)]
    parts += [x.argmax(1).float(), x.argmin(2, keepdim=True).float(), x.max(1)[0], x.cumsum(2)]
    parts += [x.topk(2, 3)[0], (x > 1).any(1).float(), (x > -2).all(2).float(), x.norm(dim=1)]
    return torch.cat([part.flatten(1) for part in parts], 1)


def movement(x: Tensor) -> Tensor:
    parts = [x[:, 1:3], x[:, -1], x[:, :, ::2], x.transpose(1, 3), x.permute(0, 2, 3, 1)]
    parts += [x.flip(1, 3), x.roll(1, 2), x.repeat(1, 2, 1, 1), torch.stack([x, -x], 2)]
    parts += [x[:, :1].expand(-1, 3, -1, -1), *x.chunk(2, 1), x.unfold(3, 2, 1), x.unsqueeze(2)]
    parts += [F.pad(x, (1, 0, 0, 2), value=0.5), F.pad(x, (-1, 0)), x.tril(), x.triu(1)]
    parts += [F.pixel_shuffle(x, 2), F.channel_shuffle(x, 2), F.pixel_unshuffle(x, 2)]
    index = torch.tensor([2, 0])
    parts += [x[:, index], x.index_select(2, index), torch.gather(x, 3, x.long().clamp(0, 3))]
    return torch.cat([part.flatten(1) for part in parts], 1)


def windows(x: Tensor) -> Tensor:
    parts = [F.max_pool2d(x, 2), F.max_pool2d(x, 3, 2, 1, ceil_mode=True), F.avg_pool2d(x, 2)]
    parts += [F.avg_pool2d(x, 3, 2, 1, count_include_pad=False), F.adaptive_avg_pool2d(x, 2)]
    parts += [F.avg_pool2d(x, 2, divisor_override=3), F.adaptive_avg_pool2d(x, 1)]
    parts += [F.max_pool1d(x.flatten(2), 2), F.avg_pool1d(x.flatten(2), 4)]
    parts += [F.interpolate(x, scale_factor=2), F.interpolate(x, (5, 7), mode="nearest")]
    parts += [F.interpolate(x, (5, 7), mode=mode) for mode in ("bilinear", "bicubic")]
    parts += [F.interpolate(x, (5, 7), mode="bilinear", align_corners=True)]
    parts += [F.interpolate(x, (5, 7), mode="nearest-exact")]
    return torch.cat([part.flatten(1) for part in parts], 1)


def products(x: Tensor) -> Tensor:
    rows = x.flatten(2)
    square = rows @ rows.transpose(1, 2)
    heads = rows.reshape(-1, 2, 2, 16)
    mask = torch.tensor([[True, False], [True, True]])
    parts = [square, torch.bmm(square, rows), torch.softmax(rows, 1), torch.log_softmax(rows, 2)]
    parts += [F.scaled_dot_product_attention(heads, heads, heads)]
    parts += [F.scaled_dot_product_attention(heads, heads, heads, attn_mask=mask)]
    parts += [F.scaled_dot_product_attention(heads, heads, heads, is_causal=True, scale=0.3)]
    return torch.cat([part.flatten(1) for part in parts], 1)


class Layers(nn.Module):
    """Layers and norms with weights."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.line = nn.Conv2d(4, 4, 3, 2, 1, groups=2), nn.Conv1d(4, 4, 3, dilation=2)
        self.wide = nn.ConvTranspose2d(4, 4, 3, 2, 1, output_padding=1)
        self.space = nn.Conv3d(4, 2, 1)
        self.linear, self.bare = nn.Linear(4, 3), nn.Linear(4, 3, bias=False)
        self.norms = nn.ModuleList(
            [nn.BatchNorm2d(4), nn.GroupNorm(2, 4), nn.InstanceNorm2d(4, affine=True)]
        )
        self.layer = nn.LayerNorm(4)
        self.plain = nn.LayerNorm((4, 4), elementwise_affine=False)
        self.root = nn.RMSNorm(4)
        self.slopes, self.words = nn.PReLU(4), nn.Embedding(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        parts = [self.conv(x), self.line(x.flatten(2)), self.wide(x), self.space(x[:, :, None])]
        parts += [self.linear(x), self.bare(x[:, :, 0]), self.linear(x[:, 0, 0])]
        parts += [norm(x) for norm in (*self.norms, self.layer, self.plain, self.root)]
        parts += [self.slopes(x), self.words(x.long().clamp(0, 4))]
        return torch.cat([part.flatten(1) for part in parts], 1)


MODELS: dict[str, Callable[[], nn.Module]] = {
    "layers": Layers,
    **{
        function.__name__: partial(Call, function)
        for function in (
            *(all_of, windows, reductions, arithmetic, all_of_positive, movement, products),
        )
    },
}


@pytest.mark.parametrize("name", MODELS)
def test_what_onnx_computes_is_what_pytorch_computes(name: str) -> None:
    torch.manual_seed(0)
    x = torch.randn(5, 4, 4, 4)
    gm = qpc.trace(MODELS[name]().eval(), x[:2])
    (expected,) = read(gm, x)
    for opset in (17, 20):
        (found,) = ran(as_onnx(gm, "float", opset=opset), x)
        assert found.shape == expected.shape
        # Sums are in another order than PyTorch's.
        assert torch.allclose(found, expected, rtol=1e-4, atol=2e-5), opset


def test_opset_12_spells_out_what_it_does_not_have() -> None:
    """Norms and newer functions, for tools that stayed there; a softmax is another from 13 on."""
    torch.manual_seed(0)
    x = torch.randn(3, 4, 4, 4)

    def function(x: Tensor) -> Tensor:
        return torch.softmax(F.hardswish(F.layer_norm(x, (4,))), 1).mean((1, 2))

    gm = qpc.trace(Call(function), x)
    for opset in (12, 13):
        (found,) = ran(as_onnx(gm, "float", opset=opset), x)
        assert torch.allclose(found, read(gm, x)[0], atol=1e-5), opset


def test_sizes_that_depend_on_the_batch_are_computed() -> None:
    """As a class token does, which is there once for each sample."""
    x = torch.randn(2, 3, 4)

    def function(x: Tensor, token: Tensor) -> Tensor:
        tokens = token.expand(x.shape[0], -1, -1)
        windows = torch.cat([tokens, x], 1).reshape(x.shape[0] * 2, 2, 4)
        pairs = (token * 2).expand(x.shape[0] * 2, -1, -1).reshape(x.shape[0], 8)
        others = (token * 3).expand(x.shape[0] + 2, -1, -1).sum((0, 1))
        return windows.mean(1).reshape(x.shape[0], 8) * x.shape[0] + pairs + others.repeat(2)

    gm = qpc.trace(Call(function, token=torch.randn(1, 1, 4)), x)
    model = as_onnx(gm, "float")
    for count in (1, 5):
        y = torch.randn(count, 3, 4)
        assert torch.allclose(ran(model, y)[0], read(gm, y)[0], atol=1e-6)


REFUSED: dict[str, tuple[Callable[[Tensor], Any], str]] = {
    "roll": (lambda x: x.roll(3), "aten.roll over all axes at once"),
    "scales": (
        lambda x: F.interpolate(x, scale_factor=1.7, mode="bilinear"),
        "no ONNX form for this interpolation",
    ),
    "norm": (lambda x: x.norm(p=3, dim=1), "no ONNX form for a norm of order 3"),
    "index": (lambda x: x[:, [0, 1], [1, 0]], "an index of axes behind the first"),
    "pool": (lambda x: F.avg_pool2d(x, 3, 2, 1, ceil_mode=True), "means with ceil_mode"),
    "windows": (lambda x: F.adaptive_avg_pool2d(x, 3), "no ONNX form for"),
    "integers": (lambda x: torch.div(x.long(), 2, rounding_mode="floor"), "of torch.int64"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_onnx_cannot_say_is_refused(name: str) -> None:
    function, wrong = REFUSED[name]
    gm = qpc.trace(Call(function), torch.randn(2, 4, 4, 4))
    with pytest.raises(UnsupportedOpError, match=wrong):
        as_onnx(gm, "float")


def test_recurrent_layers_are_named() -> None:
    gm = qpc.trace(Recurrent(), torch.randn(2, 3, 8))
    with pytest.raises(UnsupportedOpError, match=r"no ONNX form for aten\.lstm\.input"):
        as_onnx(gm, "float")
