from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from qpc.calls import aten
from qpc.capture.normalize import RULES, normalize
from qpc.capture.rules import (
    arithmetic,
    assignments,
    permutations,
    reductions,
    shapes,
    slices,
    windows,
)
from qpc.capture.rules import call as rewriting
from qpc.capture.trace import trace
from qpc.facts import CORE_FORM
from qpc.printer import format_graph
from qpc.shapes import infer_shapes
from qpc.testing import randomized
from tests.small_models import Call, graph_of, nodes_of, only

Function = Callable[[Tensor], Any]

KERNEL = torch.linspace(-1, 1, 4 * 3 * 3 * 3).reshape(4, 3, 3, 3)
EVEN = torch.linspace(-1, 1, 4 * 3 * 2 * 3).reshape(4, 3, 2, 3)
LINE = torch.linspace(-1, 1, 4 * 8 * 3).reshape(4, 8, 3)
CUBE = torch.linspace(-1, 1, 4 * 3 * 27).reshape(4, 3, 3, 3, 3)

# name: (function of x[N, 3, 8, 8], the operators of its core form)
CASES: dict[str, tuple[Function, list[str]]] = {
    # shapes
    "view": (lambda x: x.view(-1, 3, 4, 2, 8), ["aten.reshape(%x, [-1, 3, 4, 2, 8])"]),
    "flatten": (lambda x: x.flatten(1), ["aten.reshape(%x, [-1, 192])"]),
    "flatten with the batch": (lambda x: x.flatten(0, 1), ["aten.reshape(%x, [-1, 8, 8])"]),
    "unflatten": (lambda x: x.unflatten(1, (3, 1)), ["aten.reshape(%x, [-1, 3, 1, 8, 8])"]),
    "unsqueeze": (lambda x: x[..., None], ["aten.reshape(%x, [-1, 3, 8, 8, 1])"]),
    "view_as itself": (lambda x: x.view_as(x), []),
    "reshape_as itself": (lambda x: x.reshape_as(x), []),
    "reshape to the same": (lambda x: x.reshape(-1, 3, 8, 8), []),
    "squeeze": (
        lambda x: x[:, :1].squeeze(1),
        ["aten.slice.Tensor(%x, 1, 0, 1, 1)", "aten.reshape(%slice_tensor, [-1, 8, 8])"],
    ),
    "contiguous, clone, detach": (lambda x: x.contiguous().clone().detach(), []),
    "cast to its own dtype": (lambda x: x.to(torch.float32).type_as(x), []),
    "cast": (lambda x: x.double(), ["aten.to.dtype(%x, f64)"]),
    "expand to its own shape": (lambda x: x.expand(-1, 3, 8, 8), []),
    "expand_as": (
        lambda x: x[:, :1].expand_as(x),
        ["aten.slice.Tensor(%x, 1, 0, 1, 1)", "aten.expand(%slice_tensor, [-1, 3, -1, -1])"],
    ),
    "expand_as for an operator that broadcasts": (
        lambda x: x[:, :1].expand_as(x) * x,
        ["aten.slice.Tensor(%x, 1, 0, 1, 1)", "aten.mul.Tensor(%slice_tensor, %x)"],
    ),
    "repeat each": (
        lambda x: x.repeat_interleave(2, -1, output_size=16),
        [
            "aten.reshape(%x, [-1, 3, 8, 8, 1])",
            "aten.expand(%reshape_default, [-1, -1, -1, -1, 2])",
            "aten.reshape(%expand_default, [-1, 3, 8, 16])",
        ],
    ),
    "repeat each of a batch": (
        lambda x: x.repeat_interleave(3, 0),
        [
            "aten.reshape(%x, [-1, 1, 3, 8, 8])",
            "aten.expand(%reshape_default, [-1, 3, -1, -1, -1])",
            "aten.reshape(%expand_default, [-1, 3, 8, 8])",
        ],
    ),
    "expand that alone gives the size": (
        lambda x: x[:, :1].expand(-1, 3, -1, -1) * x[:, 1:2],
        [
            "aten.slice.Tensor(%x, 1, 0, 1, 1)",
            "aten.expand(%slice_tensor, [-1, 3, -1, -1])",
            "aten.slice.Tensor(%x, 1, 1, 2, 1)",
            "aten.mul.Tensor(%expand, %slice_tensor_1)",
        ],
    ),
    # sums of products
    "addcmul": (
        lambda x: torch.addcmul(x, x, x, value=2),
        [
            "aten.mul.Tensor(%x, %x)",
            "aten.mul.Tensor(%mul_tensor, 2)",
            "aten.add.Tensor(%mul_tensor_1, %x)",
        ],
    ),
    "addcdiv": (
        lambda x: torch.addcdiv(x, x, x.exp()),
        ["aten.exp(%x)", "aten.div.Tensor(%x, %exp)", "aten.add.Tensor(%div_tensor, %x)"],
    ),
    "glu": (
        lambda x: F.glu(x, -1),
        [
            "aten.slice.Tensor(%x, 3, 0, 4, 1)",
            "aten.slice.Tensor(%x, 3, 4, 8, 1)",
            "aten.sigmoid(%slice_tensor_1)",
            "aten.mul.Tensor(%slice_tensor, %sigmoid_default)",
        ],
    ),
    # permutations
    "transpose": (lambda x: x.transpose(1, -1), ["aten.permute(%x, [0, 3, 2, 1])"]),
    "swapaxes": (lambda x: x.swapaxes(1, 2), ["aten.permute(%x, [0, 2, 1, 3])"]),
    "mT": (lambda x: x.mT, ["aten.permute(%x, [0, 1, 3, 2])"]),
    "t": (
        lambda x: x.flatten(1).t(),
        ["aten.reshape(%x, [-1, 192])", "aten.permute(%reshape_default, [1, 0])"],
    ),
    "movedim": (lambda x: x.movedim(1, -1), ["aten.permute(%x, [0, 2, 3, 1])"]),
    "moveaxis of two": (lambda x: x.moveaxis((1, 2), (3, 1)), ["aten.permute(%x, [0, 2, 3, 1])"]),
    "permute from behind": (
        lambda x: x.permute(0, -2, -1, 1),
        ["aten.permute(%x, [0, 2, 3, 1])"],
    ),
    "permute of nothing": (lambda x: x.permute(0, 1, 2, 3), []),
    # pieces
    "chunk": (lambda x: x.chunk(2, 2)[1], ["aten.slice.Tensor(%x, 2, 4, 8, 1)"]),
    "split": (lambda x: x.split(3, 2)[2], ["aten.slice.Tensor(%x, 2, 6, 8, 1)"]),
    "split by sizes": (lambda x: x.split([1, 2], 1)[1], ["aten.slice.Tensor(%x, 1, 1, 3, 1)"]),
    "tensor_split": (lambda x: x.tensor_split(3, 1)[2], ["aten.slice.Tensor(%x, 1, 2, 3, 1)"]),
    "tensor_split at": (
        lambda x: x.tensor_split((1,), 1)[1],
        ["aten.slice.Tensor(%x, 1, 1, 3, 1)"],
    ),
    "unbind": (lambda x: x.unbind(1)[2], ["aten.select.int(%x, 1, 2)"]),
    "narrow": (lambda x: x.narrow(1, 1, 2), ["aten.slice.Tensor(%x, 1, 1, 3, 1)"]),
    "narrow from behind": (lambda x: x.narrow(1, -2, 1), ["aten.slice.Tensor(%x, 1, 1, 2, 1)"]),
    "slice to the end": (lambda x: x[:, :, -3:], ["aten.slice.Tensor(%x, 2, 5, 8, 1)"]),
    "slice past the end": (lambda x: x[:, :, 2:99:3], ["aten.slice.Tensor(%x, 2, 2, 8, 3)"]),
    "slice of everything": (lambda x: x[:, :, :8], []),
    "slice of the batch": (lambda x: x[:1], ["aten.slice.Tensor(%x, 0, 0, 1)"]),
    "narrow batch": (lambda x: x.narrow(0, 0, 1), ["aten.narrow(%x, 0, 0, 1)"]),
    "stack": (
        lambda x: torch.stack([x, x], -1),
        [
            "aten.reshape(%x, [-1, 3, 8, 8, 1])",
            "aten.reshape(%x, [-1, 3, 8, 8, 1])",
            "aten.cat([%reshape_default, %reshape_default_1], 4)",
        ],
    ),
    "cat from behind": (lambda x: torch.cat([x, x], -1), ["aten.cat([%x, %x], 3)"]),
    "cat with nothing": (
        lambda x: torch.cat([x[:, :0], x, torch.empty(0), x.flip(1)], 1),
        ["aten.flip(%x, [1])", "aten.cat([%x, %flip], 1)"],
    ),
    "cat of nothing but one": (lambda x: torch.cat([x, x[..., 3:3]], -1), []),
    "cat of one": (lambda x: torch.concat([x], 1), []),
    # pooling
    "rounding up that makes no difference": (
        lambda x: F.avg_pool2d(x, 2, ceil_mode=True, count_include_pad=False),
        ["aten.avg_pool2d(%x, [2, 2], [], [0, 0], False, True, None)"],
    ),
    "padding that is not counted": (
        lambda x: F.avg_pool2d(x, 2, padding=1, ceil_mode=True, count_include_pad=False),
        ["aten.avg_pool2d(%x, [2, 2], [], [1, 1], False, False, None)"],
    ),
    "rounding up": (
        lambda x: F.avg_pool2d(x, 3, ceil_mode=True),
        ["aten.avg_pool2d(%x, [3, 3], [], [0, 0], True)"],
    ),
    "an average over more than the image": (
        lambda x: F.avg_pool2d(x, (99, 3), padding=(0, 1), ceil_mode=True),
        ["aten.avg_pool2d(%x, [8, 3], [99, 3], [0, 1], False, True, None)"],
    ),
    "an average over more than all": (
        lambda x: F.avg_pool2d(x, 2560, ceil_mode=True),
        ["aten.avg_pool2d(%x, [8, 8], [2560, 2560], [0, 0], False, True, None)"],
    ),
    "the largest of more than the image": (
        lambda x: F.max_pool2d(x, 99, padding=3, ceil_mode=True),
        ["aten.max_pool2d(%x, [14, 14], [99, 99], [3, 3], [1, 1], False)"],
    ),
    "the largest of a wide window": (
        lambda x: F.max_pool2d(x, 5, 7, padding=1, dilation=2, ceil_mode=True),
        ["aten.max_pool2d(%x, [5, 5], [7, 7], [1, 1], [2, 2], True)"],
    ),
    "largest of an image": (
        lambda x: x.amax((-1, 2)),
        ["aten.max_pool2d(%x, [8, 8], [8, 8])", "aten.reshape(%max_pool2d_default, [-1, 3])"],
    ),
    "largest of an image, axes kept": (
        lambda x: x.amax((2, 3), keepdim=True),
        ["aten.max_pool2d(%x, [8, 8], [8, 8])"],
    ),
    "largest of the channels": (lambda x: x.amax(1), ["aten.amax(%x, [1])"]),
    "greatest values without their places": (
        lambda x: x.max(-1, keepdim=True)[0],
        ["aten.amax(%x, [3], True)"],
    ),
    "least values without their places": (
        lambda x: x.min(1).values,
        ["aten.amin(%x, [1], False)"],
    ),
    "greatest values and their places": (
        lambda x: x.max(1),
        ["aten.max.dim(%x, 1)", "getitem(%max_1, 0)", "getitem(%max_1, 1)"],
    ),
    "adaptive max-pooling": (
        lambda x: F.adaptive_max_pool2d(x, (2, 4)),
        ["aten.max_pool2d(%x, [4, 2], [4, 2])"],
    ),
    # resizing
    "upsampling by a factor": (
        lambda x: F.interpolate(x, scale_factor=2),
        ["aten.upsample_nearest2d(%x, [16, 16], 2.0, 2.0)"],
    ),
    "upsampling to a size": (
        lambda x: F.interpolate(x, (5, 9), mode="nearest-exact"),
        ["aten._upsample_nearest_exact2d(%x, [5, 9], None, None)"],
    ),
    "upsampling, sizes first": (
        lambda x: F.interpolate(x, scale_factor=1.2, mode="bilinear", recompute_scale_factor=True),
        ["aten.upsample_bilinear2d(%x, [9, 9], False, None, None)"],
    ),
    # arithmetic
    "relu6": (F.relu6, ["aten.clamp(%x, 0.0, 6.0)"]),
    "hardtanh": (lambda x: F.hardtanh(x, -2, 2), ["aten.clamp(%x, -2, 2)"]),
    "clamp_min": (lambda x: x.clamp_min(0.5), ["aten.clamp(%x, 0.5, None)"]),
    "clamp_max": (lambda x: x.clamp_max(0.5), ["aten.clamp(%x, None, 0.5)"]),
    "clip": (lambda x: x.clip(0, 1), ["aten.clamp(%x, 0, 1)"]),
    "alpha of add": (
        lambda x: torch.add(x, x, alpha=2),
        ["aten.mul.Tensor(%x, 2)", "aten.add.Tensor(%x, %mul_tensor)"],
    ),
    "alpha of sub": (lambda x: torch.sub(x, 3, alpha=2), ["aten.sub.Tensor(%x, 6)"]),
    "number minus tensor": (
        lambda x: 1.5 - x,
        ["aten.neg(%x)", "aten.add.Tensor(%neg_default, 1.5)"],
    ),
    "rsub": (lambda x: torch.rsub(x, x.relu()), ["aten.relu(%x)", "aten.sub.Tensor(%relu, %x)"]),
    "alpha of rsub": (
        lambda x: torch.rsub(x, 3, alpha=2),
        ["aten.mul.Tensor(%x, 2)", "aten.neg(%mul_tensor)", "aten.add.Tensor(%neg_default, 3)"],
    ),
    "true_divide": (lambda x: torch.true_divide(x, 4), ["aten.div.Tensor(%x, 4)"]),
    "multiply": (lambda x: torch.multiply(x, x), ["aten.mul.Tensor(%x, %x)"]),
    # reductions and pooling
    "mean of all": (lambda x: x.mean(), ["aten.mean.dim(%x, [0, 1, 2, 3], False)"]),
    "mean from behind": (lambda x: x.mean((-1, -2)), ["aten.mean.dim(%x, [2, 3], False)"]),
    "mean in float64": (
        lambda x: x.mean(-1, dtype=torch.float64),
        ["aten.mean.dim(%x, [3], False, dtype=f64)"],
    ),
    "adaptive pooling to 1": (
        lambda x: F.adaptive_avg_pool2d(x, 1),
        ["aten.mean.dim(%x, [2, 3], True)"],
    ),
    "adaptive pooling that divides": (
        lambda x: F.adaptive_avg_pool2d(x, (2, 4)),
        ["aten.avg_pool2d(%x, [4, 2], [4, 2])"],
    ),
    "adaptive pooling of one axis": (
        lambda x: F.adaptive_avg_pool1d(x.flatten(1, 2), 2),
        ["aten.reshape(%x, [-1, 24, 8])", "aten.avg_pool1d(%reshape_default, [4], [4])"],
    ),
    "adaptive pooling of one axis to 1": (
        lambda x: F.adaptive_avg_pool1d(x.flatten(1, 2), 1),
        ["aten.reshape(%x, [-1, 24, 8])", "aten.mean.dim(%reshape_default, [2], True)"],
    ),
    "adaptive pooling that does not": (
        lambda x: F.adaptive_avg_pool2d(x, 3),
        ["aten.adaptive_avg_pool2d(%x, [3, 3])"],
    ),
    "adaptive pooling to the same": (lambda x: F.adaptive_avg_pool2d(x, 8), []),
    # padding
    "pad": (lambda x: F.pad(x, (1, 2)), ["aten.constant_pad_nd(%x, [1, 2], 0.0)"]),
    "pad by a value": (
        lambda x: F.pad(x, (1, 2), value=3.0),
        ["aten.constant_pad_nd(%x, [1, 2], 3.0)"],
    ),
    "pad by nothing": (lambda x: F.pad(x, (0, 0)), []),
    "pad by reflection": (
        lambda x: F.pad(x, (1, 1, 1, 1), mode="reflect"),
        ["aten.pad(%x, [1, 1, 1, 1], 'reflect')"],
    ),
    "same padding": (
        lambda x: F.conv2d(x, KERNEL, padding="same", dilation=2),
        ["aten.conv2d(%x, @_constants.lifted_tensor_0, None, [1, 1], [2, 2], [2, 2], 1)"],
    ),
    "uneven same padding": (
        lambda x: F.conv2d(x, EVEN, padding="same", dilation=(3, 1)),
        [
            "aten.constant_pad_nd(%x, [1, 1, 1, 2], 0.0)",
            "aten.conv2d(%constant_pad_nd_default, @_constants.lifted_tensor_0, None, [1, 1], "
            "[0, 0], [3, 1], 1)",
        ],
    ),
    "valid padding": (
        lambda x: F.conv2d(x, KERNEL, padding="valid", stride=2),
        ["aten.conv2d(%x, @_constants.lifted_tensor_0, None, [2, 2], [0, 0], [1, 1], 1)"],
    ),
    "same padding in 1d": (
        lambda x: F.conv1d(x[:, 0], LINE, padding="same"),
        [
            "aten.select.int(%x, 1, 0)",
            "aten.conv1d(%select, @_constants.lifted_tensor_0, None, [1], [1], [1], 1)",
        ],
    ),
    "same padding in 3d": (
        lambda x: F.conv3d(x[:, :, None], CUBE, padding="same"),
        [
            "aten.reshape(%x, [-1, 3, 1, 8, 8])",
            "aten.conv3d(%reshape_default, @_constants.lifted_tensor_0, None, [1, 1, 1], "
            "[1, 1, 1], [1, 1, 1], 1)",
        ],
    ),
    # numbers that fill a tensor
    "a sum that begins with zeros": (
        lambda x: torch.zeros_like(x) + x,
        ["aten.add.Tensor(%x, 0)"],
    ),
    "a difference from ones": (
        lambda x: x.new_ones(x.shape) - x,
        ["aten.neg(%x)", "aten.add.Tensor(%neg_default, 1)"],
    ),
    "a product with a filled tensor": (
        lambda x: torch.rsub(torch.full_like(x, 0.5), x, alpha=3) * torch.full_like(x, 2.0),
        ["aten.sub.Tensor(%x, 1.5)", "aten.mul.Tensor(%sub_tensor, 2.0)"],
    ),
    "a quotient of ones": (
        lambda x: torch.ones_like(x) / x,
        ["aten.ones_like(%x, pin_memory=False)", "aten.div.Tensor(%ones_like, %x)"],
    ),
    "zeros that give the shape": (
        lambda x: torch.zeros(2, 1, 1, 1, 1) + x,
        ["aten.add.Tensor(@_constants.zeros, %x)"],
    ),
    "rrelu": (
        lambda x: F.rrelu(x, 0.125, 0.375),
        ["aten.leaky_relu(%x, 0.25)"],
    ),
    "one chunk of the batch": (
        lambda x: torch.cat([p + 1 for p in x.chunk(1, 0)]),
        ["aten.add.Tensor(%x, 1)"],
    ),
    "zeros beside channels": (
        lambda x: torch.cat([x.new_zeros(x.shape[0], 1, 8, 8), x, torch.zeros_like(x)], 1),
        ["aten.constant_pad_nd(%x, [0, 0, 0, 0, 1, 3], 0.0)"],
    ),
    "zeros beside zeros": (
        lambda x: torch.cat([torch.zeros_like(x)] * 2, 1),
        ["aten.zeros_like(%x, pin_memory=False)", "aten.cat([%zeros_like, %zeros_like], 1)"],
    ),
    # stacks in front of the batch
    "a mean of a stack": (
        lambda x: torch.stack([x, -x]).mean(0),
        [
            "aten.neg(%x)",
            "aten.reshape(%x, [-1, 1, 3, 8, 8])",
            "aten.reshape(%neg, [-1, 1, 3, 8, 8])",
            "aten.cat([%reshape_default_2, %reshape_default_3], 1)",
            "aten.mean.dim(%cat_default_1, [1], False)",
        ],
    ),
    "a sum of a stack": (
        lambda x: torch.stack([x, -x]).sum(0),
        [
            "aten.neg(%x)",
            "aten.reshape(%x, [-1, 1, 3, 8, 8])",
            "aten.reshape(%neg, [-1, 1, 3, 8, 8])",
            "aten.cat([%reshape_default_2, %reshape_default_3], 1)",
            "aten.sum.dim_IntList(%cat_default_1, [1], False)",
        ],
    ),
    "the largest of a stack": (
        lambda x: torch.stack([x, -x]).max(0)[0],
        [
            "aten.neg(%x)",
            "aten.reshape(%x, [-1, 1, 3, 8, 8])",
            "aten.reshape(%neg, [-1, 1, 3, 8, 8])",
            "aten.cat([%reshape_default_2, %reshape_default_3], 1)",
            "aten.amax(%cat_default_1, [1], False)",
        ],
    ),
    "the least of a stack": (
        lambda x: torch.stack([x, -x]).amin(0),
        [
            "aten.neg(%x)",
            "aten.reshape(%x, [-1, 1, 3, 8, 8])",
            "aten.reshape(%neg, [-1, 1, 3, 8, 8])",
            "aten.cat([%reshape_default_2, %reshape_default_3], 1)",
            "aten.amin(%cat_default_1, [1], False)",
        ],
    ),
    "a sum of a stack that keeps the axis": (
        lambda x: torch.stack([x, x]).sum(0, keepdim=True),
        [
            "aten.reshape(%x, [1, -1, 3, 8, 8])",
            "aten.reshape(%x, [1, -1, 3, 8, 8])",
            "aten.cat([%reshape_default, %reshape_default_1], 0)",
            "aten.sum.dim_IntList(%cat_default, [0], True)",
        ],
    ),
    "a sum of a batch": (lambda x: x.sum(0), ["aten.sum.dim_IntList(%x, [0])"]),
    "the larger of two": (
        lambda x: torch.max(x, x + 1),
        ["aten.add.Tensor(%x, 1)", "aten.maximum(%x, %add)"],
    ),
    "the smaller of two": (
        lambda x: torch.min(x, x + 1),
        ["aten.add.Tensor(%x, 1)", "aten.minimum(%x, %add)"],
    ),
    "larger than a number": (
        lambda x: torch.maximum(torch.zeros(1), x),
        ["aten.clamp(%x, 0.0, None)"],
    ),
    "smaller than a number": (
        lambda x: torch.min(x, torch.full_like(x, 2)),
        ["aten.clamp(%x, None, 2)"],
    ),
    "a number of one element where a mask says so": (
        lambda x: torch.where(x > 0, x, torch.tensor(0.5)),
        [
            "aten.gt.Scalar(%x, 0)",
            "aten.logical_not(%gt)",
            "aten.masked_fill.Scalar(%x, %logical_not_default, 0.5)",
        ],
    ),
    "the number first": (
        lambda x: torch.where(x > 0, torch.zeros_like(x), x),
        ["aten.gt.Scalar(%x, 0)", "aten.masked_fill.Scalar(%x, %gt, 0)"],
    ),
    "two values": (
        lambda x: torch.where(x > 0, x.exp(), x),
        ["aten.gt.Scalar(%x, 0)", "aten.exp(%x)", "aten.where.self(%gt, %exp, %x)"],
    ),
    "windows side by side": (
        lambda x: x.unfold(2, 3, 3),
        [
            "aten.slice.Tensor(%x, 2, 0, 6, 1)",
            "aten.reshape(%slice_tensor, [-1, 3, 2, 3, 8])",
            "aten.permute(%reshape_default, [0, 1, 2, 4, 3])",
        ],
    ),
    "windows that overlap": (lambda x: x.unfold(2, 3, 1), ["aten.unfold(%x, 2, 3, 1)"]),
    # weighted means of two
    "lerp": (
        lambda x: torch.lerp(x, x.relu(), 0.25),
        [
            "aten.relu(%x)",
            "aten.sub.Tensor(%relu, %x)",
            "aten.mul.Tensor(%sub_tensor, 0.25)",
            "aten.add.Tensor(%x, %mul_tensor)",
        ],
    ),
    "lerp nearer to the end": (
        lambda x: torch.lerp(x, x.relu(), 0.75),
        [
            "aten.relu(%x)",
            "aten.sub.Tensor(%relu, %x)",
            "aten.mul.Tensor(%sub_tensor, -0.25)",
            "aten.add.Tensor(%relu, %mul_tensor)",
        ],
    ),
    # turns and repetitions
    "a quarter turn": (
        lambda x: x.rot90(1, (2, 3)),
        ["aten.flip(%x, [3])", "aten.permute(%flip_default, [0, 1, 3, 2])"],
    ),
    "half a turn": (lambda x: x.rot90(2, (2, 3)), ["aten.flip(%x, [2, 3])"]),
    "three quarters": (
        lambda x: x.rot90(-1, (2, 3)),
        ["aten.flip(%x, [2])", "aten.permute(%flip_default, [0, 1, 3, 2])"],
    ),
    "a full turn": (lambda x: x.rot90(4, (2, 3)), []),
    "tile": (lambda x: x.tile(2, 1, 1), ["aten.repeat(%x, [1, 2, 1, 1])"]),
    # assignments
    "some channels": (
        lambda x: _assigned(x, (slice(None), slice(1, None)), x[:, :2]),
        [
            "aten.slice.Tensor(%x, 1, 0, 2, 1)",
            "aten.slice.Tensor(%x, 1, 0, 1, 1)",
            "aten.cat([%slice_tensor_2, %slice_tensor], 1)",
        ],
    ),
    "channel by channel": (
        lambda x: _assigned(_assigned(x, (slice(None), 0), x[:, 1]), (slice(None), 1), x[:, 0]),
        [
            "aten.select.int(%x, 1, 1)",
            "aten.reshape(%select, [-1, 1, 8, 8])",
            "aten.select.int(%x, 1, 0)",
            "aten.reshape(%select_3, [-1, 1, 8, 8])",
            "aten.slice.Tensor(%x, 1, 2, 3, 1)",
            "aten.cat([%reshape_default, %reshape_default_1, %slice_tensor_1], 1)",
        ],
    ),
    "zeros in between": (
        lambda x: _assigned(x, (Ellipsis, slice(2, -2)), 0),
        [
            "aten.slice.Tensor(%x, 3, 0, 2, 1)",
            "aten.slice.Tensor(%x, 3, 6, 8, 1)",
            "aten.constant_pad_nd(%slice_tensor_1, [0, 4], 0.0)",
            "aten.cat([%constant_pad_nd_default, %slice_tensor_2], 3)",
        ],
    ),
    "a frame of zeros": (
        lambda x: _assigned(
            x.new_zeros(x.shape[0], 3, 10, 9), (..., slice(1, -1), slice(None, -1)), x
        ),
        ["aten.constant_pad_nd(%x, [0, 1, 1, 1], 0.0)"],
    ),
    "a shift": (
        lambda x: _assigned(torch.zeros_like(x), (slice(None), slice(1, None)), x[:, :-1]),
        [
            "aten.slice.Tensor(%x, 1, 0, 2, 1)",
            "aten.constant_pad_nd(%slice_tensor, [0, 0, 0, 0, 1, 0], 0.0)",
        ],
    ),
    "places that are filled one after the other": (
        lambda x: _assigned(
            _assigned(torch.full_like(x, 2), (..., slice(0, 3)), x[..., :3]),
            (..., slice(2, 4)),
            x[..., 4:6],
        ),
        [
            "aten.slice.Tensor(%x, 3, 4, 6, 1)",
            "aten.slice.Tensor(%x, 3, 0, 2, 1)",
            "aten.constant_pad_nd(%slice_tensor_2, [0, 4], 2.0)",
            "aten.cat([%slice_tensor_4, %constant_pad_nd_default_1], 3)",
        ],
    ),
    "a value of another type": (
        lambda x: _assigned(torch.zeros_like(x), (slice(None), slice(0, 3)), x > 0),
        ["aten.gt.Scalar(%x, 0)", "aten.to.dtype(%gt, f32)"],
    ),
    "nothing but numbers": (
        lambda x: x + _assigned(torch.zeros_like(x), (slice(None), 1), 1),
        [
            "aten.zeros_like(%x, pin_memory=False)",
            "aten.select.int(%zeros_like, 1, 1)",
            "aten.fill.Tensor(%select, @_constants.clone_1)",
            "aten.select_scatter(%zeros_like, %fill, 1, 1)",
            "aten.add.Tensor(%x, %select_scatter)",
        ],
    ),
    "every other column": (
        lambda x: _assigned(x, (..., slice(None, None, 2)), x[..., 1::2]),
        [
            "aten.slice.Tensor(%x, 3, 1, 8, 2)",
            "aten.slice_scatter(%x, %slice_tensor, 3, 0, 9223372036854775807, 2)",
        ],
    ),
    "truth values": (
        lambda x: _assigned(x > 0, (slice(None), slice(0, 2)), x[:, 1:] > 1),
        [
            "aten.gt.Scalar(%x, 0)",
            "aten.slice.Tensor(%x, 1, 1, 3, 1)",
            "aten.gt.Scalar(%slice_tensor, 1)",
            "aten.slice_scatter(%gt, %gt_1, 1, 0, 2)",
        ],
    ),
    # dropout
    "dropout2d": (lambda x: F.dropout2d(x, 0.5, False), ["aten.dropout(%x, 0.5, False)"]),
    "feature_alpha_dropout": (
        lambda x: F.feature_alpha_dropout(x, 0.5),
        ["aten.dropout(%x, 0.5, False)"],
    ),
    "alpha_dropout": (lambda x: F.alpha_dropout(x, 0.5), ["aten.dropout(%x, 0.5, False)"]),
}


def _assigned(old: Tensor, place: Any, new: Any) -> Tensor:
    made = old.clone()
    made[place] = new
    return made


@pytest.mark.parametrize("name", CASES)
@pytest.mark.filterwarnings("ignore:Using padding='same'")
def test_each_spelling_has_one_core_form_that_computes_the_same(name: str) -> None:
    function, expected = CASES[name]
    gm = trace(Call(function), torch.randn(2, 3, 8, 8))
    lines = format_graph(gm).splitlines()[2:-1]
    assert [line.partition(" = ")[2] for line in lines] == expected
    assert CORE_FORM.check(gm) is None
    x = torch.randn(5, 3, 8, 8)
    torch.testing.assert_close(gm(x), function(x), rtol=1e-5, atol=1e-5)


def test_several_growing_dimensions_stay_as_the_model_wrote_them() -> None:
    gm = trace(Call(lambda x: (x @ x.t()).reshape(x.shape[0], 1, x.shape[0])), torch.randn(2, 3))
    assert "reshape" in format_graph(gm)
    x = torch.randn(4, 3)
    torch.testing.assert_close(gm(x), (x @ x.t())[:, None])


def test_a_squeeze_of_the_batch_keeps_the_output_for_the_traced_batch() -> None:
    gm = trace(Call(lambda x: x.squeeze()), torch.randn(2, 1, 4))
    assert gm(torch.randn(3, 1, 4)).shape == (3, 4)


def test_a_stack_of_values_that_grow_twice_stays() -> None:
    gm = trace(Call(lambda x: torch.stack([x @ x.t(), x @ x.t()])), torch.randn(2, 3))
    assert "aten.stack(" in format_graph(gm)
    x = torch.randn(4, 3)
    torch.testing.assert_close(gm(x), torch.stack([x @ x.t(), x @ x.t()]))


def test_bounds_that_are_left_out_are_filled_in() -> None:
    gm = graph_of(lambda g, x: g.call_function(aten.slice.Tensor, (x, 1, 2)), 5)
    normalize(gm)
    assert only(gm, aten.slice.Tensor).args[1:] == (1, 2, 5, 1)


def test_axes_from_behind_are_counted_from_the_front() -> None:
    gm = graph_of(lambda g, x: g.call_function(aten.permute.default, (x, [0, -1, -2])), 5, 3)
    normalize(gm)
    assert only(gm, aten.permute.default).args[1] == [0, 2, 1]


def test_samples_of_the_batch_are_assigned_as_they_stand() -> None:
    gm = trace(Call(lambda x: _assigned(x, 0, x[1] + 1)), torch.randn(2, 3))
    assert "aten.select_scatter(" in format_graph(gm)
    x = torch.randn(2, 3)
    assert torch.equal(gm(x), torch.stack([x[1] + 1, x[1]]))


class WritesToAView(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.bn(x)
        y[:, 0] = 1.0
        return y


def test_decomposed_batch_norms_become_whole_again() -> None:
    model = randomized(WritesToAView()).eval()
    gm = trace(model, torch.randn(2, 3, 4, 4))
    assert len(nodes_of(gm, aten.batch_norm.default)) == 1
    x = torch.randn(3, 3, 4, 4)
    torch.testing.assert_close(gm(x), model(x))


def test_pieces_of_the_batch_stay_pieces() -> None:
    gm = trace(Call(lambda x: x.unbind(0)[0] + x.chunk(2, 0)[1]), torch.randn(2, 3))
    x = torch.randn(2, 3)
    assert torch.equal(gm(x), (x[0] + x[1])[None])


def test_an_expansion_over_the_batch_reads_the_batch_size() -> None:
    token = torch.randn(1, 1, 4)
    gm = trace(
        Call(lambda x, token: torch.cat([token.expand_as(x[:, :1]), x], 1), token=token),
        torch.randn(2, 3, 4),
    )
    assert "= aten.sym_size.int(%slice_tensor, 0)" in format_graph(gm)
    assert gm(torch.randn(5, 3, 4)).shape == (5, 4, 4)


def test_every_node_of_the_core_form_knows_its_type() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4 * 36, 2))
    gm = trace(model, torch.randn(2, 3, 8, 8))
    before = format_graph(gm)
    infer_shapes(gm)
    assert format_graph(gm) == before
    assert "?" not in before


def test_every_operator_has_one_rule() -> None:
    families = (shapes, permutations, slices, assignments, arithmetic, reductions, windows)
    assert len(RULES) == sum(len(family.RULES) for family in families)


def test_a_rule_is_found_by_the_names_of_its_operators() -> None:
    def rule(call: rewriting.Call) -> None:
        return None

    assert rewriting.table((rule, "view.default t.default")) == {
        aten.view.default: rule,
        aten.t.default: rule,
    }
