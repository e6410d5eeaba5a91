"""Conformance set: pieces, padding, reshapes, inputs and outputs, and operators that pin."""

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
    tokens,
)

# --- split, slice and select ----------------------------------------------------------------------


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
    return images(lambda m, x: torch.stack([y.mean((1, 2)) for y in m.z(m.a(x)).unbind(1)], 1))


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


# --- padding --------------------------------------------------------------------------------------


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


# --- shapes ---------------------------------------------------------------------------------------


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


# --- inputs and outputs ---------------------------------------------------------------------------


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
    return images(
        lambda m, x: (y := m.a(x))[:, :3] + m.z(y[:, 3:]).mean((1, 2, 3), keepdim=True),
        z=conv(5, 2),
    )


@case
def output_is_the_mean_over_channels() -> Built:
    return images(lambda m, x: m.b(m.a(x)).mean(1), b=conv(8, 8))


# --- written in place, and not understood ---------------------------------------------------------


@case
def in_place() -> Built:
    def forward(m: Any, x: Tensor) -> Any:
        y = m.a(x)
        y += m.b(x)
        y.relu_()
        y.mul_(0.5).clamp_(0, 3)
        return m.z(F.relu(y, inplace=True))

    return images(forward, b=conv(3, 8))


@cases(
    {
        "sort": lambda y: y.sort(1).values,
        "cumsum": lambda y: y.cumsum(1),
        "fft": lambda y: torch.fft.rfft(y, dim=1).abs(),
        "topk": lambda y: y.topk(3, 1).values,
        "unfold": lambda y: F.unfold(y, 3).unsqueeze(1),
        "gather": lambda y: y.gather(1, y.argsort(1)),
        "median": lambda y: y.median(1, keepdim=True).values,
    }
)
def not_understood(function: Callable[[Tensor], Tensor]) -> Built:
    def forward(m: Any, x: Tensor) -> Any:
        return m.z(m.b(m.a(x))) + function(m.c(x)).mean((1, 2, 3), keepdim=True)

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
