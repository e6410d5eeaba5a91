"""The conformance set of channel pruning: small networks, one for each way in which channels are tied.

A case is a function that returns a network and its inputs' shapes; its name says what it shows. Inputs are
given without the batch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Shapes = tuple[tuple[int, ...], ...]
Built = tuple[nn.Module, Shapes]
IMAGE: Shapes = ((3, 8, 8),)
TOKENS: Shapes = ((6, 8),)


@dataclass(frozen=True)
class Case:
    """One network: build makes it anew; heads is passed on to the analysis."""

    name: str
    build: Callable[[], Built]
    heads: tuple[str, ...] = ()


CASES: list[Case] = []


def case(build: Callable[[], Built]) -> Callable[[], Built]:
    """Add a network under the name of its function."""
    CASES.append(Case(build.__name__, build))
    return build


def cases(
    variants: dict[str, Any], *, heads: bool = False
) -> Callable[[Callable[[Any], Built]], None]:
    """Add one network for each variant, named after the function and the variant."""

    def add(build: Callable[[Any], Built]) -> None:
        for name, variant in variants.items():
            full = f"{build.__name__}_{name}"
            CASES.append(Case(full, partial(build, variant), ("*",) if heads else ()))

    return add


class Net(nn.Module):
    """Layers and parameters by name, and a forward method given as a function of them."""

    def __init__(self, function: Callable[..., Any], **parts: nn.Module | Tensor | None) -> None:
        super().__init__()
        self.function = function
        for name, part in parts.items():
            if isinstance(part, nn.Parameter):
                self.register_parameter(name, part)
            elif isinstance(part, Tensor):
                self.register_buffer(name, part)
            else:
                self.add_module(name, part)

    def forward(self, *inputs: Tensor) -> Any:
        return self.function(self, *inputs)


def conv(i: int, o: int, k: int = 3, **options: Any) -> nn.Conv2d:
    return nn.Conv2d(i, o, k, padding=options.pop("padding", k // 2), **options)


def conv_bn(i: int, o: int, k: int = 3, **options: Any) -> nn.Sequential:
    return nn.Sequential(conv(i, o, k, bias=False, **options), nn.BatchNorm2d(o), nn.ReLU())


def weight(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(shape))


def images(function: Callable[..., Any], **parts: nn.Module | Tensor | None) -> Built:
    """A network on one image, whose layers `a` (3 to 8 channels) and `z` (8 to 2) need not be given."""
    parts = {"a": conv(3, 8), "z": conv(8, 2)} | parts
    return Net(function, **parts), IMAGE


def tokens(function: Callable[..., Any], **parts: nn.Module | Tensor | None) -> Built:
    """A network on 6 tokens of 8 features; layers `a` (8 to 8) and `z` (8 to 2) need not be given."""
    parts = {"a": nn.Linear(8, 8), "z": nn.Linear(8, 2)} | parts
    return Net(function, **parts), TOKENS


# --- chains -------------------------------------------------------------------------------------------------


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
def padding_mode(mode: str) -> Built:
    return images(lambda m, x: m.z(m.b(m.a(x))), b=nn.Conv2d(8, 8, 3, padding=1, padding_mode=mode))


@case
def padding_same() -> Built:
    return images(lambda m, x: m.z(m.b(m.a(x))), b=nn.Conv2d(8, 8, 4, padding="same"))


_ACTIVATIONS = [nn.ReLU6(), nn.LeakyReLU(), nn.ELU(), nn.GELU(), nn.SiLU(), nn.Hardswish(), nn.Hardsigmoid(), nn.Sigmoid(),
                nn.Tanh(), nn.Softplus(), nn.Mish(), nn.SELU(), nn.CELU(), nn.PReLU(), nn.PReLU(8), nn.Hardtanh(-2, 2),
                nn.Softsign(), nn.LogSigmoid(), nn.Dropout()]  # fmt: skip


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


# --- branches and residuals ---------------------------------------------------------------------------------


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


# --- concatenation ------------------------------------------------------------------------------------------


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


# --- channel shuffle ----------------------------------------------------------------------------------------


def shuffled(x: Tensor, groups: int) -> Tensor:
    n, c, h, w = x.shape
    return x.view(n, groups, c // groups, h, w).transpose(1, 2).reshape(n, c, h, w)


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


# --- modules and parameters used again ----------------------------------------------------------------------


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


# --- norms --------------------------------------------------------------------------------------------------


@cases({
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
})  # fmt: skip
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


# --- grouped and depthwise convolutions ---------------------------------------------------------------------


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


# --- linear layers ------------------------------------------------------------------------------------------


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


# --- split, slice and select --------------------------------------------------------------------------------


@cases({"2": 2, "3_uneven": 3, "4": 4})
def chunk(count: int) -> Built:
    sizes = [t.shape[0] for t in torch.arange(8).chunk(count)]
    heads = nn.ModuleList(conv(size, 2) for size in sizes)
    return images(
        lambda m, x: [h(p) for h, p in zip(m.heads, m.a(x).chunk(count, 1), strict=True)],
        heads=heads,
    )


@case
def split_unevenly() -> Built:
    def forward(m: Any, x: Tensor) -> Any:
        p, q, r = m.a(x).split([1, 2, 5], 1)
        return m.z(torch.cat([m.b(p), q, r], 1))

    return images(forward, b=conv(1, 3), z=conv(10, 2))


@case
def tensor_split() -> Built:
    def forward(m: Any, x: Tensor) -> Any:
        p, q, r = torch.tensor_split(m.a(x), (2, 5), dim=1)
        return m.z(p) + m.y(q) + m.w(r)

    return images(forward, z=conv(2, 2), y=conv(3, 2), w=conv(3, 2))


@case
def halves_swapped_and_added() -> Built:
    def forward(m: Any, x: Tensor) -> Any:
        p, q = m.a(x).chunk(2, 1)
        return m.z(torch.cat([q, p], 1) + m.b(x))

    return images(forward, b=conv(3, 8))


@case
def halves_multiplied() -> Built:
    def forward(m: Any, x: Tensor) -> Any:
        p, q = m.a(x).chunk(2, 1)
        return m.z(p * q)

    return images(forward, z=conv(4, 2))


@case
def gated_linear_unit() -> Built:
    return images(lambda m, x: m.z(F.glu(m.a(x), 1)), z=conv(4, 2))


@cases(
    {
        "front": slice(0, 5),
        "tail": slice(3, None),
        "middle": slice(2, 6),
        "negative": slice(-3, None),
        "steps_of_2": slice(None, None, 2),
        "steps_of_3": slice(1, None, 3),
        "steps_inside": slice(1, 7, 2),
    }
)
def slice_of_channels(piece: slice) -> Built:
    size = len(range(8)[piece])
    return images(lambda m, x: m.z(m.a(x)[:, piece]) + m.y(m.a(x)), z=conv(size, 2), y=conv(8, 2))


@case
def slices_that_overlap() -> Built:
    return images(lambda m, x: m.z((y := m.a(x))[:, :5] + y[:, 3:]), z=conv(5, 2))


@case
def slices_of_space() -> Built:
    def forward(m: Any, x: Tensor) -> Any:
        y = m.a(x)
        return m.z(
            torch.cat(
                [y[..., ::2, ::2], y[..., 1::2, ::2], y[..., ::2, 1::2], y[..., 1::2, 1::2]], 1
            )
        )

    return images(forward, z=conv(32, 2))


@case
def select_one_channel() -> Built:
    return images(lambda m, x: m.z(m.a(x)) * m.a(x)[:, 3].unsqueeze(1))


@case
def select_a_row() -> Built:
    return images(lambda m, x: m.z(m.a(x)[:, :, 2].transpose(1, 2)), z=nn.Linear(8, 2))


@case
def unbind_space() -> Built:
    return images(lambda m, x: m.z(sum(m.a(x).unbind(-1)).transpose(1, 2)), z=nn.Linear(8, 2))


@case
def unbind_channels() -> Built:
    return images(lambda m, x: torch.stack([y.mean() for y in m.z(m.a(x)).unbind(1)]))


@case
def write_into_a_slice() -> Built:
    def forward(m: Any, x: Tensor) -> Any:
        y = m.a(x).clone()
        y[:, 2:6] = m.b(x)
        return m.z(y)

    return images(forward, b=conv(3, 4))


@case
def shift_of_channels_in_space() -> Built:
    def forward(m: Any, x: Tensor) -> Any:
        p, q = m.a(x).chunk(2, 1)
        return m.z(torch.cat([torch.roll(p, 1, 2), torch.roll(q, -1, 3)], 1))

    return images(forward)


@cases(
    {
        "roll": lambda y: torch.roll(y, 3, 1),
        "roll_back": lambda y: torch.roll(y, (-2, 1), (1, 2)),
        "flip": lambda y: y.flip(1),
        "flip_space": lambda y: y.flip(2, 3),
    }
)
def channels_moved_by(function: Callable[[Tensor], Tensor]) -> Built:
    return images(lambda m, x: m.z(function(m.a(x)) + m.b(x)), b=conv(3, 8))


# --- padding ------------------------------------------------------------------------------------------------


@cases(
    {
        "space": (1, 2, 0, 1),
        "channels": (0, 0, 0, 0, 2, 1),
        "channels_in_front": (0, 0, 0, 0, 3, 0),
        "crop_channels": (0, 0, 0, 0, -2, -1),
        "crop_and_pad": (-1, 0, 0, 0, -2, 3),
        "crop_space": (-1, -1),
    }
)
def pad(amounts: tuple[int, ...]) -> Built:
    grown = 8 + sum(amounts[4:6])
    return images(lambda m, x: m.z(F.pad(m.a(x), amounts, value=0.5)), z=conv(grown, 2))


@case
def pad_as_in_resnet_option_a() -> Built:
    def forward(m: Any, x: Tensor) -> Any:
        y = m.a(x)
        return m.z(torch.relu(m.c(m.b(y)) + F.pad(y[:, :, ::2, ::2], (0, 0, 0, 0, 4, 4))))

    return images(forward, b=conv_bn(8, 16, stride=2), c=conv(16, 16), z=conv(16, 2))


# --- gates --------------------------------------------------------------------------------------------------


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


@cases({
    "mean": lambda y: y.mean(1, keepdim=True), "sum": lambda y: y.sum(1, keepdim=True), "amax": lambda y: y.amax(1, keepdim=True),
    "amin": lambda y: y.amin(1, keepdim=True), "logsumexp": lambda y: y.logsumexp(1, keepdim=True), "norm": lambda y: y.norm(dim=1, keepdim=True),
    "std": lambda y: y.std(1, correction=0, keepdim=True),
})  # fmt: skip
def reduced_over_channels_by(function: Callable[[Tensor], Tensor]) -> Built:
    return images(lambda m, x: m.z(function(m.a(x))), z=conv(1, 2))


@case
def reduced_over_everything() -> Built:
    return images(lambda m, x: m.z(y := m.a(x)) * y.sum((1, 2, 3), keepdim=True))


# --- networks' blocks ---------------------------------------------------------------------------------------


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


# --- attention ----------------------------------------------------------------------------------------------


def heads_of(x: Tensor, heads: int) -> Tensor:
    return x.reshape(x.shape[0], x.shape[1], heads, -1).transpose(1, 2)


def merged(x: Tensor) -> Tensor:
    return x.transpose(1, 2).reshape(x.shape[0], x.shape[2], -1)


def separate(m: Any, x: Tensor) -> Any:
    y = m.a(x)
    out = F.scaled_dot_product_attention(
        heads_of(m.q(y), 2), heads_of(m.k(y), 2), heads_of(m.v(y), 2)
    )
    return m.z(y + m.o(merged(out)))


def written_out(m: Any, x: Tensor) -> Any:
    y = m.a(x)
    q, k, v = (heads_of(part(y), 2) for part in (m.q, m.k, m.v))
    return m.z(y + m.o(merged((q @ k.transpose(-2, -1) * 0.5).softmax(-1) @ v)))


def with_bias(m: Any, x: Tensor) -> Any:
    y = m.a(x)
    q, k, v = (heads_of(part(y), 2) for part in (m.q, m.k, m.v))
    return m.z(y + m.o(merged((q @ k.transpose(-2, -1) + m.bias).softmax(-1) @ v)))


def with_bias_as_mask(m: Any, x: Tensor) -> Any:
    y = m.a(x)
    q, k, v = (heads_of(part(y), 2) for part in (m.q, m.k, m.v))
    return m.z(y + m.o(merged(F.scaled_dot_product_attention(q, k, v, attn_mask=m.bias))))


def with_causal_mask(m: Any, x: Tensor) -> Any:
    y = m.a(x)
    q, k, v = (heads_of(part(y), 2) for part in (m.q, m.k, m.v))
    return m.z(y + m.o(merged(F.scaled_dot_product_attention(q, k, v, is_causal=True))))


def with_masked_scores(m: Any, x: Tensor) -> Any:
    y = m.a(x)
    q, k, v = (heads_of(part(y), 2) for part in (m.q, m.k, m.v))
    scores = (q @ k.transpose(-2, -1)).masked_fill(m.future, float("-inf"))
    return m.z(y + m.o(merged(scores.softmax(-1) @ v)))


def with_batched_products(m: Any, x: Tensor) -> Any:
    y = m.a(x)
    q, k, v = (heads_of(part(y), 2).reshape(-1, 6, 4) for part in (m.q, m.k, m.v))
    out = torch.bmm(torch.bmm(q, k.transpose(1, 2)).softmax(-1), v)
    return m.z(y + m.o(merged(out.reshape(-1, 2, 6, 4))))


def with_einsum(m: Any, x: Tensor) -> Any:
    y = m.a(x)
    q, k, v = (part(y).reshape(-1, 6, 2, 4) for part in (m.q, m.k, m.v))
    scores = torch.einsum("bihd,bjhd->bhij", q, k).softmax(-1)
    return m.z(y + m.o(torch.einsum("bhij,bjhd->bihd", scores, v).reshape(-1, 6, 8)))


def linear_attention(m: Any, x: Tensor) -> Any:
    y = m.a(x)
    q, k, v = (heads_of(part(y), 2) for part in (m.q, m.k, m.v))
    return m.z(y + m.o(merged(q.softmax(-1) @ (k.softmax(-2).transpose(-2, -1) @ v))))


def cosine_attention(m: Any, x: Tensor) -> Any:
    y = m.a(x)
    q, k, v = (heads_of(part(y), 2) for part in (m.q, m.k, m.v))
    scores = F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).transpose(-2, -1)
    return m.z(y + m.o(merged((scores * m.temperature.exp()).softmax(-1) @ v)))


def rotary_attention(m: Any, x: Tensor) -> Any:
    def rotated(t: Tensor) -> Tensor:
        p, q = t.chunk(2, -1)
        return t * m.cos + torch.cat([-q, p], -1) * m.sin

    y = m.a(x)
    q, k, v = (heads_of(part(y), 2) for part in (m.q, m.k, m.v))
    return m.z(y + m.o(merged(F.scaled_dot_product_attention(rotated(q), rotated(k), v))))


def talking_heads(m: Any, x: Tensor) -> Any:
    y = m.a(x)
    q, k, v = (heads_of(part(y), 2) for part in (m.q, m.k, m.v))
    scores = m.talk((q @ k.transpose(-2, -1)).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    return m.z(y + m.o(merged(scores.softmax(-1) @ v)))


_ATTENTIONS = {
    f.__name__: f
    for f in (
        separate, written_out, with_bias, with_bias_as_mask, with_causal_mask, with_masked_scores, with_batched_products,
        with_einsum, linear_attention, cosine_attention, rotary_attention, talking_heads,
    )
}  # fmt: skip


def _attention(function: Callable[..., Any]) -> Built:
    return tokens(
        function,
        q=nn.Linear(8, 8),
        k=nn.Linear(8, 8),
        v=nn.Linear(8, 8),
        o=nn.Linear(8, 8),
        bias=weight(2, 6, 6),
        temperature=weight(2, 1, 1),
        cos=torch.randn(6, 4),
        sin=torch.randn(6, 4),
        future=torch.ones(6, 6).triu(1).bool(),
        talk=nn.Linear(2, 2),
    )


@cases(_ATTENTIONS)
def attention(function: Callable[..., Any]) -> Built:
    return _attention(function)


@cases(_ATTENTIONS, heads=True)
def attention_heads(function: Callable[..., Any]) -> Built:
    return _attention(function)


def fused_in_front(m: Any, x: Tensor) -> Any:
    y = m.a(x)
    q, k, v = m.qkv(y).reshape(-1, 6, 3, 2, 4).permute(2, 0, 3, 1, 4).unbind(0)
    return m.z(y + m.o(merged(F.scaled_dot_product_attention(q, k, v))))


def fused_then_chunked(m: Any, x: Tensor) -> Any:
    y = m.a(x)
    q, k, v = (heads_of(t, 2) for t in m.qkv(y).chunk(3, -1))
    return m.z(y + m.o(merged(F.scaled_dot_product_attention(q, k, v))))


def fused_inside_heads(m: Any, x: Tensor) -> Any:
    y = m.a(x)
    q, k, v = m.qkv(y).reshape(-1, 6, 2, 12).transpose(1, 2).chunk(3, -1)
    return m.z(y + m.o(merged(F.scaled_dot_product_attention(q, k, v))))


_FUSED = {f.__name__: f for f in (fused_in_front, fused_then_chunked, fused_inside_heads)}


@cases(_FUSED)
def attention_fused(function: Callable[..., Any]) -> Built:
    return tokens(function, qkv=nn.Linear(8, 24), o=nn.Linear(8, 8))


@cases(_FUSED, heads=True)
def attention_fused_heads(function: Callable[..., Any]) -> Built:
    return tokens(function, qkv=nn.Linear(8, 24), o=nn.Linear(8, 8))


def torch_attention(m: Any, x: Tensor) -> Any:
    y = m.a(x)
    return m.z(y + m.m(y, y, y, need_weights=False)[0])


@cases({"batch_first": True, "sequence_first": False})
def attention_of_torch(batch_first: bool) -> Built:
    return tokens(torch_attention, m=nn.MultiheadAttention(8, 2, batch_first=batch_first))


@cases({"batch_first": True}, heads=True)
def attention_of_torch_heads(batch_first: bool) -> Built:
    return tokens(torch_attention, m=nn.MultiheadAttention(8, 2, batch_first=batch_first))


@case
def attention_across_two_inputs() -> Built:
    def forward(m: Any, x: Tensor, memory: Tensor) -> Any:
        y = m.a(x)
        return m.z(y + m.m(y, memory, memory, need_weights=False)[0])

    parts = {
        "a": nn.Linear(8, 8),
        "z": nn.Linear(8, 2),
        "m": nn.MultiheadAttention(8, 2, kdim=5, vdim=5, batch_first=True),
    }
    return Net(forward, **parts), ((6, 8), (4, 5))


@cases({"encoder": nn.TransformerEncoderLayer, "decoder": nn.TransformerDecoderLayer})
def transformer_layer(kind: Any) -> Built:
    layer = kind(8, 2, 12, batch_first=True, norm_first=True)
    if kind is nn.TransformerDecoderLayer:
        return tokens(lambda m, x: m.z(m.m(y := m.a(x), y)), m=layer)
    return tokens(lambda m, x: m.z(m.m(m.a(x))), m=layer)


@cases({"1": 1, "2": 2})
def attention_with_grouped_queries(kv_heads: int) -> Built:
    def forward(m: Any, x: Tensor) -> Any:
        y = m.a(x)
        q, k, v = heads_of(m.q(y), 4), heads_of(m.k(y), kv_heads), heads_of(m.v(y), kv_heads)
        k, v = (
            t[:, :, None].expand(-1, -1, 4 // kv_heads, -1, -1).reshape(-1, 4, 6, 2) for t in (k, v)
        )
        return m.z(y + m.o(merged(F.scaled_dot_product_attention(q, k, v))))

    return tokens(
        forward,
        q=nn.Linear(8, 8),
        k=nn.Linear(8, 2 * kv_heads),
        v=nn.Linear(8, 2 * kv_heads),
        o=nn.Linear(8, 8),
    )


def _grouped_queries(heads: int) -> Built:
    def forward(m: Any, x: Tensor) -> Any:
        y = m.a(x)
        q, k, v = heads_of(m.q(y), 4), heads_of(m.k(y), 2), heads_of(m.v(y), 2)
        return m.z(y + m.o(merged(F.scaled_dot_product_attention(q, k, v, enable_gqa=True))))

    return tokens(
        forward, q=nn.Linear(8, 8), k=nn.Linear(8, 4), v=nn.Linear(8, 4), o=nn.Linear(8, 8)
    )


@cases({"native": 2})
def attention_grouped_queries(heads: int) -> Built:
    return _grouped_queries(heads)


@cases({"native": 2}, heads=True)
def attention_grouped_queries_heads(heads: int) -> Built:
    return _grouped_queries(heads)


@case
def attention_on_an_image() -> Built:
    def forward(m: Any, x: Tensor) -> Any:
        y = m.a(x)
        q, k, v = m.qkv(y).reshape(-1, 3, 2, 4, 64).unbind(1)
        out = v @ (q.transpose(-2, -1) @ k).softmax(-1).transpose(-2, -1)
        return m.z(y + m.o(out.reshape(-1, 8, 8, 8)))

    return images(forward, qkv=conv(8, 24, 1), o=conv(8, 8, 1))


@case
def attention_over_channels() -> Built:
    def forward(m: Any, x: Tensor) -> Any:
        y = m.a(x)
        q, k, v = (t.flatten(2) for t in m.qkv(y).chunk(3, 1))
        return m.z(y + ((q @ k.transpose(1, 2)).softmax(-1) @ v).reshape(-1, 8, 8, 8))

    return images(forward, qkv=conv(8, 24, 1))


@case
def attention_pooling() -> Built:
    def forward(m: Any, x: Tensor) -> Any:
        y = m.a(x)
        return m.z((torch.softmax(y @ m.q, 1).transpose(1, 2) @ m.v(y)).mean(1))

    return tokens(forward, q=weight(8, 3), v=nn.Linear(8, 8))


@case
def attention_by_learned_queries() -> Built:
    def forward(m: Any, x: Tensor) -> Any:
        y = m.a(x)
        q = m.q(m.queries.expand(x.shape[0], -1, -1))
        return m.z(F.scaled_dot_product_attention(q, m.k(y), m.v(y)))

    return tokens(
        forward, queries=weight(1, 3, 8), q=nn.Linear(8, 8), k=nn.Linear(8, 8), v=nn.Linear(8, 8)
    )


@case
def vision_transformer() -> Built:
    def forward(m: Any, x: Tensor) -> Any:
        y = m.p(x).flatten(2).transpose(1, 2)
        y = torch.cat([m.cls.expand(x.shape[0], -1, -1), y], 1) + m.pos
        for block in m.blocks:
            y = block(y)
        return m.z(m.n(y)[:, 0])

    def block() -> nn.Module:
        def run(m: Any, y: Tensor) -> Any:
            q, k, v = m.qkv(m.n1(y)).reshape(-1, 5, 3, 2, 4).permute(2, 0, 3, 1, 4).unbind(0)
            y = y + m.g * m.o(merged(F.scaled_dot_product_attention(q, k, v)))
            return y + m.w2(F.gelu(m.w1(m.n2(y))))

        return Net(
            run, n1=nn.LayerNorm(8), qkv=nn.Linear(8, 24), o=nn.Linear(8, 8), g=weight(8), n2=nn.LayerNorm(8),
            w1=nn.Linear(8, 12), w2=nn.Linear(12, 8),
        )  # fmt: skip

    return images(
        forward,
        a=None,
        p=nn.Conv2d(3, 8, 4, stride=4),
        cls=weight(1, 1, 8),
        pos=weight(1, 5, 8),
        blocks=nn.ModuleList([block(), block()]),
        n=nn.LayerNorm(8),
        z=nn.Linear(8, 2),
    )


@case
def register_tokens() -> Built:
    def forward(m: Any, x: Tensor) -> Any:
        y = m.a(x)
        y = torch.cat([m.registers.expand(x.shape[0], -1, -1), y], 1)
        return m.z(m.b(y)[:, 2:])

    return tokens(forward, registers=weight(1, 2, 8), b=nn.Linear(8, 8))


@case
def position_embedding_is_sliced() -> Built:
    return tokens(lambda m, x: m.z(m.a(x) + m.pos[:, :6]), pos=weight(1, 9, 8))


@case
def position_embedding_as_an_image() -> Built:
    def forward(m: Any, x: Tensor) -> Any:
        return m.z(m.a(x).flatten(2).transpose(1, 2) + m.pos.permute(1, 2, 0).reshape(1, 64, 8))

    return images(forward, pos=weight(8, 8, 8), z=nn.Linear(8, 2))


@case
def position_embedding_resized() -> Built:
    return images(
        lambda m, x: m.z(m.a(x) + F.interpolate(m.pos, size=(8, 8), mode="bilinear")),
        pos=weight(1, 8, 4, 4),
    )


@case
def positions_by_axis() -> Built:
    def forward(m: Any, x: Tensor) -> Any:
        return m.z(m.a(x) + m.rows[None, :, :, None] + m.columns[None, :, None, :])

    return images(forward, rows=weight(8, 8), columns=weight(8, 8))


# --- Swin ---------------------------------------------------------------------------------------------------


def windows(x: Tensor, size: int) -> Tensor:
    n, h, w, c = x.shape
    x = x.view(n, h // size, size, w // size, size, c)
    return x.permute(0, 1, 3, 2, 4, 5).reshape(-1, size * size, c)


def unwindowed(x: Tensor, size: int, n: int) -> Tensor:
    x = x.view(n, 8 // size, 8 // size, size, size, -1)
    return x.permute(0, 1, 3, 2, 4, 5).reshape(n, 8, 8, -1)


def _swin(m: Any, x: Tensor) -> Any:
    y = m.a(x).permute(0, 2, 3, 1)
    shifted = torch.roll(y, (-2, -2), (1, 2))
    t = windows(shifted, 4)
    q, k, v = m.qkv(t).reshape(-1, 16, 3, 2, 4).permute(2, 0, 3, 1, 4).unbind(0)
    bias = m.table[m.places].view(16, 16, 2).permute(2, 0, 1).unsqueeze(0)
    scores = (q * 0.5) @ k.transpose(-2, -1) + bias
    scores = scores.view(x.shape[0], 4, 2, 16, 16) + m.mask[:, None]
    out = merged(scores.view(-1, 2, 16, 16).softmax(-1) @ v)
    y = y + torch.roll(unwindowed(m.o(out), 4, x.shape[0]), (2, 2), (1, 2))
    merged_patches = torch.cat(
        [y[:, ::2, ::2], y[:, 1::2, ::2], y[:, ::2, 1::2], y[:, 1::2, 1::2]], -1
    )
    return m.z(m.r(m.n(merged_patches)).mean((1, 2)))


def _swin_block(_: Any) -> Built:
    return images(
        _swin,
        qkv=nn.Linear(8, 24),
        o=nn.Linear(8, 8),
        table=weight(49, 2),
        places=torch.randint(0, 49, (256,)),
        mask=torch.where(torch.rand(4, 16, 16) < 0.2, -100.0, 0.0),
        n=nn.LayerNorm(32),
        r=nn.Linear(32, 12, bias=False),
        z=nn.Linear(12, 2),
    )


@cases({"shifted_windows": None})
def swin(_: Any) -> Built:
    return _swin_block(_)


@cases({"shifted_windows": None}, heads=True)
def swin_heads(_: Any) -> Built:
    return _swin_block(_)


@case
def window_partition() -> Built:
    def forward(m: Any, x: Tensor) -> Any:
        y = m.a(x).permute(0, 2, 3, 1)
        return m.z(unwindowed(m.b(windows(y, 4)), 4, x.shape[0]))

    return images(forward, b=nn.Linear(8, 8), z=nn.Linear(8, 2))


@case
def grid_partition() -> Built:
    def forward(m: Any, x: Tensor) -> Any:
        n = x.shape[0]
        y = m.a(x).reshape(n, 8, 2, 4, 2, 4).permute(0, 3, 5, 2, 4, 1).reshape(n * 16, 4, 8)
        y = m.b(y).reshape(n, 4, 4, 2, 2, 8).permute(0, 5, 3, 1, 4, 2).reshape(n, 8, 8, 8)
        return m.z(y)

    return images(forward, b=nn.Linear(8, 8))


# --- shapes -------------------------------------------------------------------------------------------------


@case
def pixel_shuffle() -> Built:
    return images(lambda m, x: m.z(F.pixel_shuffle(m.b(m.a(x)), 2)), b=conv(8, 16), z=conv(4, 2))


@case
def pixel_unshuffle() -> Built:
    return images(lambda m, x: m.z(F.pixel_unshuffle(m.a(x), 2)), z=conv(32, 2))


@case
def pixels_shuffled_by_reshapes() -> Built:
    def forward(m: Any, x: Tensor) -> Any:
        y = m.b(m.a(x)).reshape(-1, 8, 2, 2, 8, 8).permute(0, 1, 4, 2, 5, 3)
        return m.z(y.reshape(-1, 8, 16, 16))

    return images(forward, b=conv(8, 32))


@case
def space_moved_into_channels() -> Built:
    def forward(m: Any, x: Tensor) -> Any:
        y = m.a(x).reshape(-1, 8, 4, 2, 4, 2).permute(0, 3, 5, 1, 2, 4)
        return m.z(y.reshape(-1, 32, 4, 4))

    return images(forward, z=conv(32, 2))


@case
def channels_reshaped_across_borders() -> Built:
    return tokens(lambda m, x: m.z(m.a(x).reshape(-1, 12, 4)), z=nn.Linear(4, 2))


@case
def channels_flattened_with_space_and_split_again() -> Built:
    return images(
        lambda m, x: m.z(m.a(x).flatten(1).reshape(-1, 8, 64).transpose(1, 2)), z=nn.Linear(8, 2)
    )


@case
def groups_moved_into_the_batch() -> Built:
    def forward(m: Any, x: Tensor) -> Any:
        y = m.a(x).reshape(-1, 4, 8, 8)
        return m.z(m.b(y).reshape(-1, 8, 8, 8))

    return images(forward, b=conv(4, 4))


@case
def expand_one_channel() -> Built:
    return images(lambda m, x: m.z(m.a(x) + m.b(x).expand(-1, 8, -1, -1)), b=conv(3, 1))


@case
def expand_a_mean_over_channels() -> Built:
    return images(lambda m, x: m.z((y := m.a(x)) - y.mean(1, keepdim=True).expand_as(y)))


@case
def expand_grey_images() -> Built:
    return Net(lambda m, x: m.z(m.a(x.expand(-1, 3, -1, -1))), a=conv(3, 8), z=conv(8, 2)), (
        (1, 8, 8),
    )


@case
def repeat_channels() -> Built:
    return images(lambda m, x: m.z(m.a(x).repeat(1, 2, 1, 1)), z=conv(16, 2))


@case
def repeat_each_channel() -> Built:
    return images(lambda m, x: m.z(m.a(x).repeat_interleave(2, 1)), z=conv(16, 2))


@case
def stacked_and_averaged() -> Built:
    return images(lambda m, x: m.z(torch.stack([m.a(x), m.b(x)], 1).mean(1)), b=conv(3, 8))


@case
def stacked_as_depth() -> Built:
    return images(
        lambda m, x: m.z(torch.stack([m.a(x), m.b(x)], 2)), b=conv(3, 8), z=nn.Conv3d(8, 2, 2)
    )


@case
def outer_product() -> Built:
    return Net(
        lambda m, x: m.z(torch.einsum("ni,nj->nij", m.a(x), m.b(x)).flatten(1)),
        a=nn.Linear(5, 8),
        b=nn.Linear(5, 6),
        z=nn.Linear(48, 2),
    ), ((5,),)


@case
def outer_product_by_broadcasting() -> Built:
    return Net(
        lambda m, x: m.z((m.a(x)[:, :, None] * m.b(x)[:, None]).mean(1)),
        a=nn.Linear(5, 8),
        b=nn.Linear(5, 6),
        z=nn.Linear(6, 2),
    ), ((5,),)


@case
def gram_matrix() -> Built:
    return images(lambda m, x: m.z((y := m.a(x).flatten(2)) @ y.transpose(1, 2)), z=nn.Linear(8, 2))


@case
def inner_product() -> Built:
    return tokens(lambda m, x: torch.einsum("ntc,nsc->nts", m.a(x), m.b(x)), b=nn.Linear(8, 8))


@case
def non_local_block() -> Built:
    def forward(m: Any, x: Tensor) -> Any:
        y = m.a(x)
        q, k, v = (part(y).flatten(2) for part in (m.q, m.k, m.v))
        out = torch.einsum("nij,ncj->nci", torch.einsum("nci,ncj->nij", q, k).softmax(-1), v)
        return m.z(y + m.o(out.reshape(-1, 4, 8, 8)))

    return images(forward, q=conv(8, 4, 1), k=conv(8, 4, 1), v=conv(8, 4, 1), o=conv(4, 8, 1))


# --- inputs and outputs -------------------------------------------------------------------------------------


@case
def several_inputs() -> Built:
    return Net(
        lambda m, x, y: m.z(m.a(x) + m.b(y).mean((2, 3), keepdim=True)),
        a=conv(3, 8),
        b=conv(2, 8),
        z=conv(8, 2),
    ), ((3, 8, 8), (2, 4, 4))


@case
def input_added_to_channels() -> Built:
    return Net(lambda m, x, y: m.z(m.a(x) + y), a=conv(3, 8), z=conv(8, 2)), ((3, 8, 8), (8, 8, 8))


@case
def several_outputs() -> Built:
    return images(lambda m, x: {"map": (y := m.b(m.a(x))), "logits": m.z(y)}, b=conv(8, 8))


@case
def output_inside_a_residual() -> Built:
    return images(lambda m, x: (y := m.a(x), m.z(y + m.b(y))), b=conv(8, 8))


@case
def output_of_one_slice() -> Built:
    return images(lambda m, x: (y := m.a(x))[:, :3] + m.z(y[:, 3:]).mean(), z=conv(5, 2))


@case
def output_is_the_mean_over_channels() -> Built:
    return images(lambda m, x: m.b(m.a(x)).mean(1), b=conv(8, 8))


# --- written in place, and not understood -------------------------------------------------------------------


@case
def in_place() -> Built:
    def forward(m: Any, x: Tensor) -> Any:
        y = m.a(x)
        y += m.b(x)
        y.relu_()
        y.mul_(0.5).clamp_(0, 3)
        return m.z(F.relu(y, inplace=True))

    return images(forward, b=conv(3, 8))


@cases({
    "sort": lambda y: y.sort(1).values, "cumsum": lambda y: y.cumsum(1), "fft": lambda y: torch.fft.rfft(y, dim=1).abs(),
    "topk": lambda y: y.topk(3, 1).values, "unfold": lambda y: F.unfold(y, 3).unsqueeze(1), "gather": lambda y: y.gather(1, y.argsort(1)),
    "median": lambda y: y.median(1, keepdim=True).values,
})  # fmt: skip
def not_understood(function: Callable[[Tensor], Tensor]) -> Built:
    def forward(m: Any, x: Tensor) -> Any:
        return m.z(m.b(m.a(x))) + function(m.c(x)).mean()

    return images(forward, b=conv(8, 8), c=conv(3, 8))


@case
def cumulative_sum_over_space() -> Built:
    return images(lambda m, x: m.z(m.a(x).cumsum(2)))


@case
def largest_with_its_place() -> Built:
    return images(lambda m, x: m.z(m.a(x).max(3, keepdim=True).values + m.a(x).sort(2).values))


@case
def largest_of_windows_with_places() -> Built:
    return images(lambda m, x: m.z(F.max_pool2d(m.a(x), 2, return_indices=True)[0]))


@case
def computed_weight_is_not_understood() -> Built:
    def forward(m: Any, x: Tensor) -> Any:
        y = m.a(x)
        w = m.b.weight
        return m.z(
            F.conv2d(
                y,
                (w - w.mean((1, 2, 3), keepdim=True)) / (w.std((1, 2, 3), keepdim=True) + 1e-3),
                padding=1,
            )
        )

    return images(forward, b=conv(8, 8))


@case
def computed_bias() -> Built:
    return images(
        lambda m, x: m.z(F.conv2d(m.a(x), m.b.weight, m.b.bias * 2, padding=1)), b=conv(8, 8)
    )
