"""Conformance set: chains of layers, shared layers, norms, grouped convolutions, linear layers."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.pruning.cases import (
    Built,
    Net,
    case,
    cases,
    conv,
    conv_bn,
    images,
    tokens,
    weight,
)

# --- chains ---------------------------------------------------------------------------------------


@case
def chain_of_convolutions() -> Built:
    return images(lambda m, x: m.z(m.b(m.a(x).relu()).relu()), b=conv(8, 8))


@case
def chain_with_batch_norm() -> Built:
    return images(lambda m, x: m.z(m.b(m.a(x))), a=conv_bn(3, 8), b=conv_bn(8, 8))


@case
def chain_without_bias() -> Built:
    return images(lambda m, x: m.z(m.a(x)), a=conv(3, 8, bias=False))


@case
def chain_of_linear_layers() -> Built:
    return Net(
        lambda m, x: m.z(m.b(m.a(x).relu()).relu()),
        a=nn.Linear(5, 8),
        b=nn.Linear(8, 6),
        z=nn.Linear(6, 2),
    ), ((5,),)


@case
def strides_and_dilation() -> Built:
    return images(
        lambda m, x: m.z(m.b(m.a(x))), a=conv(3, 8, stride=2), b=conv(8, 8, dilation=2, padding=2)
    )


@case
def one_channel_is_not_depthwise() -> Built:
    return Net(lambda m, x: m.z(m.b(m.a(x))), a=conv(1, 8), b=conv(8, 1), z=conv(1, 4)), (
        (1, 8, 8),
    )


@case
def one_channel_between() -> Built:
    return images(lambda m, x: m.z(m.c(m.b(m.a(x)))), b=conv(8, 1), c=conv(1, 8))


@cases({"1": 1, "3": 3})
def convolutions_of_dimension(dim: int) -> Built:
    kinds: dict[int, Any] = {1: nn.Conv1d, 3: nn.Conv3d}
    norms: dict[int, Any] = {1: nn.BatchNorm1d, 3: nn.BatchNorm3d}
    layers = nn.Sequential(
        kinds[dim](3, 8, 3, padding=1),
        norms[dim](8),
        nn.ReLU(),
        kinds[dim](8, 8, 3, groups=2),
        kinds[dim](8, 2, 1),
    )
    return layers, ((3, *[5] * dim),)


@cases({"1d": nn.ConvTranspose1d, "2d": nn.ConvTranspose2d, "3d": nn.ConvTranspose3d})
def transposed(kind: Any) -> Built:
    dim = int(kind.__name__[-2])
    layers = nn.Sequential(
        kind(3, 8, 2, stride=2), nn.ReLU(), kind(8, 6, 3), kind(6, 2, 1, bias=False)
    )
    return layers, ((3, *[3] * dim),)


@cases(
    {
        "2": (2, 8, 8),
        "4_wider": (4, 8, 16),
        "2_narrower": (2, 8, 4),
        "depthwise": (8, 8, 8),
        "multiplier": (8, 8, 16),
        "one_output_each": (4, 8, 4),
    }
)
def transposed_in_groups(sizes: tuple[int, int, int]) -> Built:
    groups, inputs, outputs = sizes
    return images(
        lambda m, x: m.z(m.t(m.a(x))),
        a=conv(3, inputs),
        t=nn.ConvTranspose2d(inputs, outputs, 2, stride=2, groups=groups),
        z=conv(outputs, 2),
    )


@cases({"reflect": "reflect", "replicate": "replicate", "circular": "circular"})
def padding_mode(mode: Any) -> Built:
    return images(lambda m, x: m.z(m.b(m.a(x))), b=nn.Conv2d(8, 8, 3, padding=1, padding_mode=mode))


@case
def padding_same() -> Built:
    return images(lambda m, x: m.z(m.b(m.a(x))), b=nn.Conv2d(8, 8, 4, padding="same"))


_ACTIVATIONS = [
    nn.ReLU6(),
    nn.LeakyReLU(),
    nn.ELU(),
    nn.GELU(),
    nn.SiLU(),
    nn.Hardswish(),
    nn.Hardsigmoid(),
    nn.Sigmoid(),
    nn.Tanh(),
    nn.Softplus(),
    nn.Mish(),
    nn.SELU(),
    nn.CELU(),
    nn.PReLU(),
    nn.PReLU(8),
    nn.Hardtanh(-2, 2),
    nn.Softsign(),
    nn.LogSigmoid(),
    nn.Dropout(),
]


@case
def activations() -> Built:
    return images(lambda m, x: m.z(m.acts(m.a(x))), acts=nn.Sequential(*_ACTIVATIONS))


@cases(
    {
        "max": nn.MaxPool2d(2),
        "max_ceil": nn.MaxPool2d(3, 2, 1, ceil_mode=True),
        "avg": nn.AvgPool2d(2),
        "adaptive_avg": nn.AdaptiveAvgPool2d(3),
        "adaptive_one": nn.AdaptiveAvgPool2d(1),
        "adaptive_max": nn.AdaptiveMaxPool2d(2),
        "lp": nn.LPPool2d(2, 2),
    }
)
def pooling(pool: nn.Module) -> Built:
    return images(lambda m, x: m.z(m.pool(m.a(x))), pool=pool)


@cases({"nearest": "nearest", "bilinear": "bilinear", "bicubic": "bicubic"})
def upsampling(mode: str) -> Built:
    return images(lambda m, x: m.z(F.interpolate(m.a(x), scale_factor=2.0, mode=mode)))


# --- modules and parameters used again ------------------------------------------------------------


@case
def module_called_twice_in_a_row() -> Built:
    return images(lambda m, x: m.z(m.b(m.b(m.a(x)).relu())), b=conv(8, 8))


@case
def module_called_on_two_branches() -> Built:
    return images(
        lambda m, x: m.z(m.b(m.a(x)) + m.b(m.c(x))), b=conv(8, 6), c=conv(3, 8), z=conv(6, 2)
    )


@case
def module_called_on_the_input_too() -> Built:
    return images(lambda m, x: m.z(m.b(m.a(x)) + m.b(x)), a=conv(3, 3), b=conv(3, 8))


@case
def head_shared_by_scales() -> Built:
    return images(
        lambda m, x: (m.z(y := m.a(x)), m.z(m.b(y)), m.z(m.c(y))),
        b=conv(8, 8, stride=2),
        c=conv(8, 8, stride=2),
    )


@case
def norm_called_twice() -> Built:
    return images(lambda m, x: m.z(m.n(m.b(m.n(m.a(x)).relu()))), b=conv(8, 8), n=nn.BatchNorm2d(8))


@case
def parameter_of_two_modules() -> Built:
    first, second = conv(8, 8), conv(8, 8)
    second.weight = first.weight
    return images(lambda m, x: m.z(m.c(m.b(m.a(x)).relu())), b=first, c=second)


@case
def parameter_used_transposed() -> Built:
    return tokens(lambda m, x: m.z(F.linear(torch.relu(m.a(x)) @ m.w, m.w)), w=weight(8, 6))


@case
def bias_used_as_a_value_too() -> Built:
    return images(lambda m, x: m.z(m.a(x) * m.a.bias[:, None, None]))


@case
def weight_used_as_a_value_too() -> Built:
    return tokens(
        lambda m, x: m.z(m.b(m.a(x))) + m.b.weight.sum(), b=nn.Linear(8, 6), z=nn.Linear(6, 2)
    )


@case
def embedding_tied_to_the_classifier() -> Built:
    def forward(m: Any, x: Tensor) -> Any:
        y = m.e(x)
        return F.linear(m.n(y + m.b(F.gelu(m.a(y)))), m.e.weight)

    return Net(
        forward, e=nn.Embedding(7, 8), a=nn.Linear(8, 12), b=nn.Linear(12, 8), n=nn.LayerNorm(8)
    ), ((5,),)


@case
def embedding_tied_by_a_matrix_product() -> Built:
    return Net(
        lambda m, x: m.a(m.e(x)) @ m.e.weight.t(), e=nn.Embedding(7, 8), a=nn.Linear(8, 8)
    ), ((5,),)


@case
def embedding_with_positions() -> Built:
    def forward(m: Any, x: Tensor) -> Any:
        return m.z(m.n(m.e(x) + m.p(torch.arange(5, device=x.device))).mean(1))

    return Net(
        forward, e=nn.Embedding(7, 8), p=nn.Embedding(5, 8), n=nn.LayerNorm(8), z=nn.Linear(8, 2)
    ), ((5,),)


# --- norms ----------------------------------------------------------------------------------------


@cases(
    {
        "group_2": nn.GroupNorm(2, 8),
        "group_1": nn.GroupNorm(1, 8),
        "group_each": nn.GroupNorm(8, 8),
        "group_many": nn.GroupNorm(4, 8),
        "group_plain": nn.GroupNorm(2, 8, affine=False),
        "instance": nn.InstanceNorm2d(8),
        "instance_affine": nn.InstanceNorm2d(8, affine=True),
        "instance_tracking": nn.InstanceNorm2d(8, affine=True, track_running_stats=True),
        "batch_plain": nn.BatchNorm2d(8, affine=False),
        "layer_all": nn.LayerNorm([8, 8, 8]),
        "layer_all_plain": nn.LayerNorm([8, 8, 8], elementwise_affine=False),
        "layer_width": nn.LayerNorm(8),
        "layer_image": nn.LayerNorm([8, 8]),
        "local_response": nn.LocalResponseNorm(3),
    }
)
def norm(module: nn.Module) -> Built:
    return images(lambda m, x: m.z(m.n(m.a(x)).relu()), n=module)


@cases(
    {
        "layer": nn.LayerNorm(8),
        "layer_plain": nn.LayerNorm(8, elementwise_affine=False),
        "rms": nn.RMSNorm(8),
        "layer_without_bias": nn.LayerNorm(8, bias=False),
    }
)
def norm_of_tokens(module: nn.Module) -> Built:
    return tokens(lambda m, x: m.z(m.n(m.a(x)).relu()), n=module)


@case
def norm_of_features() -> Built:
    return Net(
        lambda m, x: m.z(m.n(m.a(x)).relu()),
        a=nn.Linear(5, 8),
        n=nn.BatchNorm1d(8),
        z=nn.Linear(8, 2),
    ), ((5,),)


@case
def norm_with_channels_moved_last() -> Built:
    return images(
        lambda m, x: m.z(m.n(m.a(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)), n=nn.LayerNorm(8)
    )


@case
def norm_written_out() -> Built:
    def forward(m: Any, x: Tensor) -> Any:
        y = m.a(x)
        y = (y - y.mean(1, keepdim=True)) / torch.sqrt(
            y.var(1, keepdim=True, unbiased=False) + 1e-3
        )
        return m.z(y * m.g[:, None, None] + m.b[:, None, None])

    return images(forward, g=weight(8), b=weight(8))


@case
def norm_of_half_the_channels() -> Built:
    def forward(m: Any, x: Tensor) -> Any:
        p, q = m.a(x).chunk(2, 1)
        return m.z(torch.cat([m.n(p), q], 1))

    return images(forward, n=nn.InstanceNorm2d(4, affine=True))


@case
def norm_to_unit_length() -> Built:
    return images(lambda m, x: m.z(F.normalize(m.a(x), dim=1)))


@case
def global_response_norm() -> Built:
    def forward(m: Any, x: Tensor) -> Any:
        y = m.a(x).permute(0, 2, 3, 1)
        g = torch.linalg.vector_norm(y, dim=(1, 2), keepdim=True)
        y = m.g * (y * (g / (g.mean(-1, keepdim=True) + 1e-3))) + m.b + y
        return m.z(y.permute(0, 3, 1, 2))

    return images(forward, g=weight(1, 1, 1, 8), b=weight(1, 1, 1, 8))


# --- grouped and depthwise convolutions -----------------------------------------------------------


@cases(
    {
        "2": (2, 8, 8),
        "4": (4, 8, 8),
        "8_of_2": (8, 16, 16),
        "2_wider": (2, 8, 12),
        "4_narrower": (4, 16, 8),
        "4_of_1_wider": (4, 4, 12),
        "8_to_1": (8, 16, 8),
    }
)
def grouped(sizes: tuple[int, int, int]) -> Built:
    groups, inputs, outputs = sizes
    return images(
        lambda m, x: m.z(m.g(m.a(x)).relu()),
        a=conv(3, inputs),
        g=conv(inputs, outputs, groups=groups),
        z=conv(outputs, 2),
    )


@case
def grouped_twice_differently() -> Built:
    return images(
        lambda m, x: m.z(m.h(m.g(m.a(x)))),
        a=conv(3, 12),
        g=conv(12, 12, groups=2),
        h=conv(12, 12, groups=3),
        z=conv(12, 2),
    )


@case
def grouped_on_the_input() -> Built:
    return Net(lambda m, x: m.z(m.a(x)), a=conv(4, 8, groups=2), z=conv(8, 2)), ((4, 8, 8),)


@case
def grouped_in_a_residual() -> Built:
    return images(
        lambda m, x: m.z((y := m.a(x)) + m.c(m.b(m.e(y)))),
        e=conv_bn(8, 12, 1),
        b=conv_bn(12, 12, groups=3),
        c=conv(12, 8, 1),
    )


@case
def grouped_called_twice() -> Built:
    return images(lambda m, x: m.z(m.b(m.b(m.a(x)).relu())), b=conv(8, 8, groups=2))


@case
def grouped_to_the_output() -> Built:
    return images(lambda m, x: m.z(m.a(x)), z=conv(8, 4, groups=2))


@case
def depthwise() -> Built:
    return images(lambda m, x: m.z(m.d(m.a(x))), d=conv(8, 8, groups=8))


@case
def depthwise_on_the_input() -> Built:
    return images(lambda m, x: m.z(m.b(m.a(x))), a=conv(3, 3, groups=3), b=conv(3, 8))


@case
def depthwise_with_multiplier() -> Built:
    return images(lambda m, x: m.z(m.d(m.a(x))), d=conv(8, 24, groups=8), z=conv(24, 2))


@case
def depthwise_with_multiplier_then_depthwise() -> Built:
    return images(
        lambda m, x: m.z(m.e(m.d(m.a(x)))),
        d=conv(8, 16, groups=8),
        e=conv(16, 16, groups=16),
        z=conv(16, 2),
    )


@case
def depthwise_separable_chain() -> Built:
    layers = [nn.Sequential(conv_bn(8, 8, groups=8), conv_bn(8, 8, 1)) for _ in range(3)]
    return images(lambda m, x: m.z(m.b(m.a(x))), b=nn.Sequential(*layers))


@case
def depthwise_residual() -> Built:
    return images(
        lambda m, x: m.z(m.p((y := m.a(x)) + m.d(y))), d=conv(8, 8, 5, groups=8), p=conv(8, 8, 1)
    )


# --- linear layers --------------------------------------------------------------------------------


@case
def linear_after_flatten() -> Built:
    return images(
        lambda m, x: m.z(m.b(m.a(x).flatten(1)).relu()), b=nn.Linear(8 * 64, 6), z=nn.Linear(6, 2)
    )


@case
def linear_after_pool_and_view() -> Built:
    return images(
        lambda m, x: m.z(F.adaptive_avg_pool2d(m.a(x), (2, 2)).view(x.shape[0], -1)),
        z=nn.Linear(8 * 4, 2),
    )


@case
def linear_after_channels_last_flatten() -> Built:
    return images(
        lambda m, x: m.z(m.a(x).permute(0, 2, 3, 1).reshape(x.shape[0], -1)), z=nn.Linear(8 * 64, 2)
    )


@case
def linear_on_tokens() -> Built:
    return tokens(
        lambda m, x: m.z(m.b(m.a(x)).relu()), b=nn.Linear(8, 12, bias=False), z=nn.Linear(12, 2)
    )


@case
def linear_on_channels_last() -> Built:
    return images(
        lambda m, x: m.z(m.b(m.a(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)), b=nn.Linear(8, 8)
    )


@case
def linear_over_width() -> Built:
    return images(lambda m, x: m.z(m.b(m.a(x))), b=nn.Linear(8, 5))


@case
def linear_unflattened_to_an_image() -> Built:
    return images(
        lambda m, x: m.z(m.b(m.a(x).mean((2, 3))).reshape(-1, 4, 3, 3)),
        b=nn.Linear(8, 36),
        z=conv(4, 2),
    )


@case
def mixer_block() -> Built:
    def forward(m: Any, x: Tensor) -> Any:
        y = m.a(x)
        y = y + m.t2(F.gelu(m.t1(m.n(y).transpose(1, 2)))).transpose(1, 2)
        return m.z((y + m.c2(F.gelu(m.c1(m.n2(y))))).mean(1))

    return tokens(
        forward,
        n=nn.LayerNorm(8),
        t1=nn.Linear(6, 5),
        t2=nn.Linear(5, 6),
        n2=nn.LayerNorm(8),
        c1=nn.Linear(8, 12),
        c2=nn.Linear(12, 8),
    )


@case
def spatial_gating_unit() -> Built:
    def forward(m: Any, x: Tensor) -> Any:
        u, v = m.a(x).chunk(2, -1)
        return m.z(u * m.s(m.n(v).transpose(1, 2)).transpose(1, 2))

    return tokens(forward, a=nn.Linear(8, 16), n=nn.LayerNorm(8), s=nn.Linear(6, 6))


@case
def product_with_a_parameter() -> Built:
    return tokens(lambda m, x: m.z(torch.relu(m.a(x) @ m.w)), w=weight(8, 12), z=nn.Linear(12, 2))


@case
def product_of_a_parameter_and_channels() -> Built:
    return Net(
        lambda m, x: m.z((m.w @ m.a(x)).transpose(1, 2)),
        a=nn.Conv1d(3, 8, 1),
        w=weight(6, 8),
        z=nn.Linear(6, 2),
    ), ((3, 5),)


@case
def einsum_with_a_parameter() -> Built:
    return tokens(
        lambda m, x: m.z(torch.einsum("ntc,dc->ntd", m.a(x), m.w).relu()),
        w=weight(12, 8),
        z=nn.Linear(12, 2),
    )


@case
def bilinear_is_not_understood() -> Built:
    return tokens(lambda m, x: m.z(m.b(y := m.a(x), y)), b=nn.Bilinear(8, 8, 8))
