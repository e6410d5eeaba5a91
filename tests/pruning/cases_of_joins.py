"""Conformance set: residuals, concatenations, shuffles, gates, blocks of known networks."""

from __future__ import annotations

from collections.abc import Callable
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
    shuffled,
    weight,
)

# --- branches and residuals -----------------------------------------------------------------------


@case
def branch_with_two_heads() -> Built:
    return images(lambda m, x: (m.z(y := m.a(x)), m.y(y)), y=conv(8, 3))


@case
def branches_added() -> Built:
    return images(lambda m, x: m.z(m.a(x) + m.b(x) + m.c(x)), b=conv(3, 8, 1), c=conv(3, 8, 5))


@case
def residual() -> Built:
    return images(lambda m, x: m.z((y := m.a(x)) + m.b(y)), b=conv(8, 8))


@case
def residual_with_projection() -> Built:
    return images(
        lambda m, x: m.z(m.p(y := m.a(x)) + m.c(m.b(y))),
        b=conv_bn(8, 6),
        c=conv(6, 8),
        p=conv(8, 8, 1),
    )


@case
def residual_chain() -> Built:
    def forward(m: Any, x: Tensor) -> Any:
        y = m.a(x)
        for block in m.blocks:
            y = torch.relu(y + block(y))
        return m.z(y)

    blocks = nn.ModuleList(nn.Sequential(conv_bn(8, 4), conv(4, 8)) for _ in range(3))
    return images(forward, blocks=blocks)


@case
def residual_cycle() -> Built:
    def forward(m: Any, x: Tensor) -> Any:
        p, q, r = m.a(x), m.b(x), m.c(x)
        return m.z((p + q) * (q + r) - (r + p))

    return images(forward, b=conv(3, 8), c=conv(3, 8))


@case
def residual_to_the_input_stays() -> Built:
    return images(lambda m, x: m.z(m.b(m.a(x)) + x), b=conv(8, 3), z=conv(3, 2))


@case
def residual_before_activation() -> Built:
    def forward(m: Any, x: Tensor) -> Any:
        y = m.a(x)
        return m.z(y + m.c(m.n(m.b(m.m(y).relu())).relu()))

    return images(forward, m=nn.BatchNorm2d(8), b=conv(8, 6), n=nn.BatchNorm2d(6), c=conv(6, 8))


@case
def residual_of_pooled_skip() -> Built:
    return images(lambda m, x: m.z(F.avg_pool2d(y := m.a(x), 2) + m.b(y)), b=conv(8, 8, stride=2))


@case
def residual_dense() -> Built:
    return images(
        lambda m, x: m.z((y := m.a(x)) + (u := m.b(y)) + m.c(u)), b=conv(8, 8), c=conv(8, 8)
    )


# --- concatenation --------------------------------------------------------------------------------


@case
def concat_two() -> Built:
    return images(lambda m, x: m.z(torch.cat([m.a(x), m.b(x)], 1)), b=conv(3, 4), z=conv(12, 2))


@case
def concat_same_twice() -> Built:
    return images(lambda m, x: m.z(torch.cat([y := m.a(x), y], 1)), z=conv(16, 2))


@case
def concat_of_concat() -> Built:
    return images(
        lambda m, x: m.z(torch.cat([torch.cat([y := m.a(x), m.b(x)], 1), y], 1)),
        b=conv(3, 4),
        z=conv(20, 2),
    )


@case
def concat_along_height() -> Built:
    return images(lambda m, x: m.z(torch.cat([m.a(x), m.b(x)], 2)), b=conv(3, 8))


@case
def concat_along_batch() -> Built:
    return images(lambda m, x: m.z(torch.cat([m.a(x), m.b(x)], 0)), b=conv(3, 8))


@case
def concat_of_residuals() -> Built:
    return images(
        lambda m, x: m.z(torch.cat([(y := m.a(x)) + m.b(y), y + m.c(x)], 1)),
        b=conv(8, 8),
        c=conv(3, 8),
        z=conv(16, 2),
    )


@case
def concat_then_depthwise() -> Built:
    return images(
        lambda m, x: m.z(m.d(torch.cat([m.a(x), m.b(x)], 1))),
        b=conv(3, 4),
        d=conv(12, 12, groups=12),
        z=conv(12, 2),
    )


@case
def concat_then_batch_norm() -> Built:
    return images(
        lambda m, x: m.z(m.n(torch.cat([m.a(x), m.b(x)], 1)).relu()),
        b=conv(3, 4),
        n=nn.BatchNorm2d(12),
        z=conv(12, 2),
    )


@case
def concat_then_grouped() -> Built:
    return images(
        lambda m, x: m.z(m.g(torch.cat([m.a(x), m.b(x)], 1))),
        b=conv(3, 4),
        g=conv(12, 6, groups=2),
        z=conv(6, 2),
    )


@case
def concat_with_the_input() -> Built:
    return images(lambda m, x: m.z(torch.cat([x, m.a(x)], 1)), z=conv(11, 2))


@case
def concat_then_split() -> Built:
    def forward(m: Any, x: Tensor) -> Any:
        p, q = torch.cat([m.a(x), m.b(x)], 1).split([5, 7], 1)
        return m.z(p) + m.y(q)

    return images(forward, b=conv(3, 4), z=conv(5, 2), y=conv(7, 2))


@case
def concat_then_flatten() -> Built:
    return images(
        lambda m, x: m.z(torch.cat([m.a(x), m.b(x)], 1).flatten(1)),
        b=conv(3, 4),
        z=nn.Linear(12 * 64, 2),
    )


@case
def concat_of_slices() -> Built:
    return images(lambda m, x: m.z(torch.cat([(y := m.a(x))[:, 4:], y[:, :4]], 1)))


@case
def concat_then_added_to_a_convolution() -> Built:
    return images(
        lambda m, x: m.z(torch.cat([m.a(x), m.b(x)], 1) + m.c(x)),
        b=conv(3, 4),
        c=conv(3, 12),
        z=conv(12, 2),
    )


@case
def concat_with_zeros() -> Built:
    def forward(m: Any, x: Tensor) -> Any:
        y = m.a(x)
        return m.z(torch.cat([y, torch.zeros_like(y[:, :4])], 1) + m.b(x))

    return images(forward, b=conv(3, 12), z=conv(12, 2))


@case
def concat_with_new_zeros() -> Built:
    def forward(m: Any, x: Tensor) -> Any:
        y = m.a(x)
        return m.z(torch.cat([y, y.new_zeros(y.shape[0], 4, 8, 8)], 1) + m.b(x))

    return images(forward, b=conv(3, 12), z=conv(12, 2))


@case
def concat_with_coordinates() -> Built:
    def forward(m: Any, x: Tensor) -> Any:
        y = m.a(x)
        grid = torch.linspace(0, 1, 8).reshape(1, 1, 8, 1).expand(y.shape[0], 1, 8, 8)
        return m.z(torch.cat([y, grid], 1))

    return images(forward, z=conv(9, 2))


@case
def dense_block() -> Built:
    def forward(m: Any, x: Tensor) -> Any:
        features = [m.a(x)]
        for block in m.blocks:
            features.append(block(torch.cat(features, 1)))
        return m.z(torch.cat(features, 1))

    blocks = nn.ModuleList(
        nn.Sequential(nn.BatchNorm2d(c), nn.ReLU(), conv(c, 4)) for c in (8, 12, 16)
    )
    return images(forward, blocks=blocks, z=conv(20, 2))


# --- channel shuffle ------------------------------------------------------------------------------


@cases({"2": 2, "4": 4})
def shuffle(groups: int) -> Built:
    return images(lambda m, x: m.z(shuffled(m.a(x), groups)))


@case
def shuffle_by_its_operator() -> Built:
    return images(lambda m, x: m.z(F.channel_shuffle(m.a(x), 2)))


@case
def shuffle_by_its_operator_in_many_groups() -> Built:
    return images(lambda m, x: m.z(F.channel_shuffle(m.a(x), 4)))


@case
def shuffle_by_index() -> Built:
    return images(
        lambda m, x: m.z(m.a(x)[:, m.order]), order=torch.tensor([3, 0, 7, 5, 1, 2, 6, 4])
    )


@case
def shuffle_by_index_select() -> Built:
    return images(
        lambda m, x: m.z(torch.index_select(m.a(x), 1, m.order)),
        order=torch.tensor([3, 0, 7, 5, 3]),
        z=conv(5, 2),
    )


@case
def shuffle_unit_with_groups() -> Built:
    def forward(m: Any, x: Tensor) -> Any:
        y = m.a(x)
        u = shuffled(m.p(y).relu(), 2)
        return m.z(torch.relu(y + m.q(m.d(u))))

    return images(
        forward, p=conv(8, 12, 1, groups=2), d=conv(12, 12, groups=12), q=conv(12, 8, 1, groups=2)
    )


@case
def shuffle_unit_of_halves() -> Built:
    def forward(m: Any, x: Tensor) -> Any:
        y = m.a(x)
        for block in m.blocks:
            p, q = y.chunk(2, 1)
            y = shuffled(torch.cat([p, block(q)], 1), 2)
        return m.z(y)

    def block() -> nn.Module:
        return nn.Sequential(conv_bn(4, 4, 1), conv(4, 4, groups=4), conv_bn(4, 4, 1))

    return images(forward, blocks=nn.ModuleList([block(), block()]))


@case
def shuffle_unit_downsampling() -> Built:
    def forward(m: Any, x: Tensor) -> Any:
        y = m.a(x)
        return m.z(shuffled(torch.cat([m.left(y), m.right(y)], 1), 2))

    return images(
        forward,
        left=nn.Sequential(conv(8, 8, stride=2, groups=8), conv_bn(8, 8, 1)),
        right=nn.Sequential(conv_bn(8, 8, 1), conv(8, 8, stride=2, groups=8), conv_bn(8, 8, 1)),
        z=conv(16, 2),
    )


# --- gates ----------------------------------------------------------------------------------------


@case
def squeeze_and_excite_with_convolutions() -> Built:
    return images(
        lambda m, x: m.z((y := m.a(x)) * m.g(F.adaptive_avg_pool2d(y, 1))),
        g=nn.Sequential(conv(8, 4, 1), nn.ReLU(), conv(4, 8, 1), nn.Hardsigmoid()),
    )


@case
def squeeze_and_excite_with_linear_layers() -> Built:
    def forward(m: Any, x: Tensor) -> Any:
        y = m.a(x)
        gate = m.g(y.mean((2, 3))).view(-1, 8, 1, 1)
        return m.z(y * gate)

    return images(
        forward, g=nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 8), nn.Sigmoid())
    )


@case
def squeeze_and_excite_expanded() -> Built:
    def forward(m: Any, x: Tensor) -> Any:
        y = m.a(x)
        return m.z(y * m.g(y.flatten(2).mean(-1))[..., None, None].expand_as(y))

    return images(
        forward, g=nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 8), nn.Sigmoid())
    )


@case
def gate_of_one_channel() -> Built:
    return images(lambda m, x: m.z((y := m.a(x)) * torch.sigmoid(m.g(y))), g=conv(8, 1))


@case
def gate_of_one_number() -> Built:
    return images(lambda m, x: m.z(m.a(x) * m.g), g=weight(1))


@case
def gate_by_an_input() -> Built:
    return Net(lambda m, x, g: m.z(m.a(x) * g), a=conv(3, 8), z=conv(8, 2)), ((3, 8, 8), (8, 1, 1))


@case
def gate_by_a_spatial_parameter() -> Built:
    return images(lambda m, x: m.z(m.a(x) * m.g), g=weight(1, 1, 8, 8))


@case
def gate_by_an_image_parameter() -> Built:
    return images(lambda m, x: m.z(m.a(x) * m.g), g=weight(8, 8, 8))


@case
def spatial_attention() -> Built:
    def forward(m: Any, x: Tensor) -> Any:
        y = m.a(x)
        pooled = torch.cat([y.mean(1, keepdim=True), y.amax(1, keepdim=True)], 1)
        return m.z(y * torch.sigmoid(m.g(pooled)))

    return images(forward, g=conv(2, 1, 5))


@case
def channel_attention_by_a_convolution_stays() -> Built:
    def forward(m: Any, x: Tensor) -> Any:
        y = m.a(x)
        gate = m.g(y.mean((2, 3)).unsqueeze(1)).squeeze(1)
        return m.z(y * torch.sigmoid(gate)[:, :, None, None])

    return images(forward, g=nn.Conv1d(1, 1, 3, padding=1))


@case
def selective_kernels() -> Built:
    def forward(m: Any, x: Tensor) -> Any:
        p, q = m.a(x), m.b(x)
        scores = m.s((p + q).mean((2, 3))).reshape(-1, 2, 8, 1, 1).softmax(1)
        return m.z(p * scores[:, 0] + q * scores[:, 1])

    return images(forward, b=conv(3, 8, 5), s=nn.Linear(8, 16))


@case
def softmax_over_channels() -> Built:
    return images(lambda m, x: m.z(m.a(x).softmax(1) + m.b(x).log_softmax(1)), b=conv(3, 8))


@case
def layer_scale() -> Built:
    return images(lambda m, x: m.z((y := m.a(x)) + m.g * m.b(y)), b=conv(8, 8), g=weight(8, 1, 1))


@case
def where_and_masked_fill() -> Built:
    def forward(m: Any, x: Tensor) -> Any:
        y, u = m.a(x), m.b(x)
        return m.z(torch.where(y > u, y, u.masked_fill(u < 0, 1.0)).clamp(-1, 1))

    return images(forward, b=conv(3, 8))


@case
def maximum_and_division() -> Built:
    return images(
        lambda m, x: m.z(torch.maximum(m.a(x), m.b(x)) / (m.c(x) ** 2 + 1)),
        b=conv(3, 8),
        c=conv(3, 8),
    )


@cases(
    {
        "mean": lambda y: y.mean(1, keepdim=True),
        "sum": lambda y: y.sum(1, keepdim=True),
        "amax": lambda y: y.amax(1, keepdim=True),
        "amin": lambda y: y.amin(1, keepdim=True),
        "logsumexp": lambda y: y.logsumexp(1, keepdim=True),
        "norm": lambda y: y.norm(dim=1, keepdim=True),
        "std": lambda y: y.std(1, correction=0, keepdim=True),
    }
)
def reduced_over_channels_by(function: Callable[[Tensor], Tensor]) -> Built:
    return images(lambda m, x: m.z(function(m.a(x))), z=conv(1, 2))


@case
def reduced_over_everything() -> Built:
    return images(lambda m, x: m.z(y := m.a(x)) * y.sum((1, 2, 3), keepdim=True))


# --- networks' blocks -----------------------------------------------------------------------------


@case
def inverted_residual() -> Built:
    block = nn.Sequential(
        conv_bn(8, 16, 1), conv_bn(16, 16, groups=16), conv(16, 8, 1), nn.BatchNorm2d(8)
    )
    return images(lambda m, x: m.z((y := m.a(x)) + m.b(y)), b=block)


@case
def mobilenet_v3_block() -> Built:
    def forward(m: Any, x: Tensor) -> Any:
        y = m.a(x)
        u = F.hardswish(m.d(F.hardswish(m.e(y))))
        u = u * F.hardsigmoid(m.s2(F.relu(m.s1(F.adaptive_avg_pool2d(u, 1)))))
        return m.z(y + m.p(u))

    return images(
        forward,
        e=conv(8, 16, 1),
        d=conv(16, 16, 5, groups=16),
        s1=conv(16, 4, 1),
        s2=conv(4, 16, 1),
        p=conv(16, 8, 1),
    )


@case
def ghost_module() -> Built:
    def forward(m: Any, x: Tensor) -> Any:
        y = m.p(m.a(x)).relu()
        return m.z(torch.cat([y, m.d(y)], 1)[:, :7])

    return images(forward, p=conv(8, 4, 1), d=conv(4, 4, groups=4), z=conv(7, 2))


@case
def nasnet_cell() -> Built:
    def forward(m: Any, x: Tensor) -> Any:
        h = m.a(x)
        p = m.b(h)
        u = m.s3(h) + m.s5(p)
        v = F.avg_pool2d(h, 3, 1, 1) + p
        w = F.max_pool2d(p, 3, 1, 1) + m.s3b(u)
        return m.z(torch.cat([u, v, w], 1))

    def separable(k: int) -> nn.Module:
        return nn.Sequential(conv(8, 8, k, groups=8), conv(8, 8, 1), nn.BatchNorm2d(8))

    return images(
        forward, b=conv(8, 8), s3=separable(3), s5=separable(5), s3b=separable(3), z=conv(24, 2)
    )


@case
def hrnet_fusion() -> Built:
    def forward(m: Any, x: Tensor) -> Any:
        high, low = m.a(x), m.b(x)
        u = high + F.interpolate(m.up(low), scale_factor=2.0, mode="nearest")
        v = low + m.down(high)
        return m.z(torch.cat([u, F.interpolate(v, size=(8, 8), mode="bilinear")], 1))

    return images(
        forward,
        b=conv(3, 12, stride=2),
        up=conv_bn(12, 8, 1),
        down=conv(8, 12, stride=2),
        z=conv(20, 2),
    )


@case
def unet() -> Built:
    def forward(m: Any, x: Tensor) -> Any:
        y = m.a(x)
        deep = m.c(m.b(F.max_pool2d(y, 2)))
        return m.z(m.d(torch.cat([y, m.up(deep)], 1)))

    return images(
        forward,
        b=conv_bn(8, 12),
        c=conv(12, 12),
        up=nn.ConvTranspose2d(12, 6, 2, stride=2),
        d=conv_bn(14, 8),
    )


@case
def feature_pyramid() -> Built:
    def forward(m: Any, x: Tensor) -> Any:
        c1 = m.a(x)
        c2 = m.b(c1)
        p2 = m.l2(c2)
        p1 = m.l1(c1) + F.interpolate(p2, scale_factor=2.0)
        return m.z(p1), m.z(p2)

    return images(
        forward, b=conv(8, 12, stride=2), l1=conv(8, 6, 1), l2=conv(12, 6, 1), z=conv(6, 2)
    )


@case
def atrous_pyramid() -> Built:
    def forward(m: Any, x: Tensor) -> Any:
        y = m.a(x)
        pooled = m.p(y.mean((2, 3), keepdim=True)).expand(-1, -1, 8, 8)
        return m.z(torch.cat([m.b(y), m.c(y), pooled], 1))

    return images(
        forward,
        b=conv(8, 4, 1),
        c=conv(8, 4, dilation=2, padding=2),
        p=conv(8, 4, 1),
        z=conv(12, 2),
    )


@case
def inception_block() -> Built:
    def forward(m: Any, x: Tensor) -> Any:
        y = m.a(x)
        return m.z(torch.cat([m.b1(y), m.b3(y), m.b5(y), m.bp(F.max_pool2d(y, 3, 1, 1))], 1))

    return images(
        forward,
        b1=conv_bn(8, 4, 1),
        b3=nn.Sequential(conv_bn(8, 3, 1), conv_bn(3, 5)),
        b5=nn.Sequential(conv_bn(8, 2, 1), conv_bn(2, 3, 5)),
        bp=conv_bn(8, 3, 1),
        z=conv(15, 2),
    )


@case
def res2net_block() -> Built:
    def forward(m: Any, x: Tensor) -> Any:
        y = m.a(x)
        p, q, r, s = m.e(y).chunk(4, 1)
        q = m.c1(q)
        r = m.c2(r + q)
        s = m.c3(s + r)
        return m.z(y + m.p(torch.cat([p, q, r, s], 1)))

    return images(
        forward, e=conv(8, 16, 1), c1=conv(4, 4), c2=conv(4, 4), c3=conv(4, 4), p=conv(16, 8, 1)
    )


@case
def cross_stage_partial_block() -> Built:
    def forward(m: Any, x: Tensor) -> Any:
        pieces = list(m.e(m.a(x)).chunk(2, 1))
        for block in m.blocks:
            pieces.append(pieces[-1] + block(pieces[-1]))
        return m.z(torch.cat(pieces, 1))

    return images(
        forward,
        e=conv_bn(8, 12, 1),
        blocks=nn.ModuleList(conv_bn(6, 6) for _ in range(2)),
        z=conv(24, 2),
    )


@case
def repvgg_block() -> Built:
    return images(
        lambda m, x: m.z(torch.relu(m.b(y := m.a(x)) + m.c(y) + m.n(y))),
        b=conv(8, 8),
        c=conv(8, 8, 1),
        n=nn.BatchNorm2d(8),
    )


@case
def convnext_block() -> Built:
    def forward(m: Any, x: Tensor) -> Any:
        y = m.a(x)
        u = m.p(F.gelu(m.e(m.n(m.d(y).permute(0, 2, 3, 1))))).permute(0, 3, 1, 2)
        return m.z(y + m.g * u)

    return images(
        forward,
        d=conv(8, 8, 5, groups=8),
        n=nn.LayerNorm(8),
        e=nn.Linear(8, 16),
        p=nn.Linear(16, 8),
        g=weight(8, 1, 1),
    )


@case
def regnet_block() -> Built:
    def forward(m: Any, x: Tensor) -> Any:
        y = m.a(x)
        u = m.g(m.e(y))
        u = u * torch.sigmoid(m.s2(F.relu(m.s1(u.mean((2, 3), keepdim=True)))))
        return m.z(torch.relu(y + m.p(u)))

    return images(
        forward,
        e=conv_bn(8, 12, 1),
        g=conv_bn(12, 12, groups=3),
        s1=conv(12, 4, 1),
        s2=conv(4, 12, 1),
        p=conv(12, 8, 1),
    )
