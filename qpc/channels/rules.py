"""The rule of each operator: what it does to channel labels.

A rule gets the flow and a call and returns the labels of the call's value. Operators without a rule
pin the channels of their inputs, with the reason.
"""

from __future__ import annotations

import operator
from typing import Any

from torch._ops import OpOverload

from qpc.calls import aten, qpc_ops
from qpc.channels import layers as layers
from qpc.channels import moves as moves
from qpc.channels import products as products
from qpc.channels import values as values
from qpc.channels.flow import Rule


def _overloads(names: str) -> list[OpOverload]:
    found = []
    for name in names.split():
        packet, _, overload = name.partition(".")
        target: Any = getattr(getattr(aten, packet), overload or "default")
        found.append(target)
    return found


def _table() -> dict[object, Rule]:
    groups: list[tuple[Rule, str]] = [
        (
            layers.layer,
            "conv1d conv2d conv3d conv_transpose1d conv_transpose2d.input conv_transpose3d.input "
            "linear",
        ),
        (layers.batch_norm, "batch_norm instance_norm"),
        (layers.layer_norm, "layer_norm rms_norm"),
        (layers.group_norm, "group_norm"),
        (layers.embedding, "embedding"),
        (layers.prelu, "prelu"),
        (
            values.elementwise,
            "add.Tensor sub.Tensor mul.Tensor div.Tensor maximum minimum pow.Tensor_Scalar "
            "pow.Tensor_Tensor where.self where.ScalarOther where.ScalarSelf atan2 fmod.Tensor "
            "remainder.Tensor lerp.Scalar lerp.Tensor addcmul addcdiv "
            "eq.Tensor ne.Tensor gt.Tensor lt.Tensor ge.Tensor le.Tensor logical_and logical_or "
            "masked_fill.Scalar masked_fill.Tensor clamp.Tensor copy",
        ),
        (
            values.first_input,
            "relu clamp sigmoid tanh silu hardswish hardsigmoid gelu leaky_relu elu softplus mish "
            "exp log sqrt rsqrt abs neg celu selu dropout erf sin cos reciprocal square "
            "log_sigmoid eq.Scalar ne.Scalar gt.Scalar lt.Scalar ge.Scalar le.Scalar to.dtype "
            "logical_not zero fill.Scalar zeros_like ones_like full_like hardtanh threshold log1p "
            "expm1 floor ceil round sign exp2 log2 softmax.int log_softmax.int "
            "hardshrink softshrink tan asin acos atan sinh cosh asinh acosh atanh trunc frac erfc "
            "logit nan_to_num isnan isinf isfinite sgn",
        ),
        (moves.move, "permute pixel_unshuffle flip repeat tile"),
        (moves.pixel_shuffle, "pixel_shuffle"),
        (moves.repeat_each, "repeat_interleave.self_int"),
        (moves.channel_shuffle, "channel_shuffle"),
        (moves.reshape, "reshape"),
        (moves.slice_, "slice.Tensor"),
        (moves.select, "select.int"),
        (moves.slice_scatter, "slice_scatter"),
        (moves.cat, "cat"),
        (moves.expand, "expand"),
        (moves.factory, "zeros ones full new_zeros new_ones new_full"),
        (moves.pad, "constant_pad_nd"),
        (moves.roll, "roll"),
        (moves.index, "index.Tensor index_select"),
        (
            values.reduce,
            "mean.dim sum.dim_IntList amax amin linalg_vector_norm var.correction std.correction "
            "var.dim std.dim "
            "logsumexp norm.ScalarOpt_dim prod.dim_int any.dim all.dim sum",
        ),
        (values.scan, "cumsum cumprod"),
        (values.pad_by_values, "pad"),
        (values.gated_halves, "glu"),
        (values.best_along, "max.dim min.dim sort topk median.dim argmax argmin"),
        (values.sampled, "grid_sampler"),
        (
            values.windows_with_places,
            "adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d "
            "max_pool2d_with_indices max_pool3d_with_indices",
        ),
        (
            values.window,
            "max_pool1d max_pool2d max_pool3d avg_pool1d avg_pool2d avg_pool3d "
            "adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d "
            "reflection_pad1d reflection_pad2d reflection_pad3d replication_pad1d "
            "replication_pad2d replication_pad3d "
            "upsample_nearest1d upsample_nearest1d.vec upsample_nearest2d upsample_nearest2d.vec "
            "upsample_nearest3d upsample_nearest3d.vec upsample_linear1d upsample_linear1d.vec "
            "upsample_bilinear2d upsample_bilinear2d.vec upsample_bicubic2d "
            "upsample_bicubic2d.vec upsample_trilinear3d upsample_trilinear3d.vec "
            "_upsample_nearest_exact2d _upsample_nearest_exact2d.vec "
            "_upsample_bilinear2d_aa _upsample_bicubic2d_aa.vec",
        ),
        (products.matmul, "matmul bmm mm"),
        (products.added_matmul, "addmm baddbmm"),
        (products.einsum, "einsum"),
        (products.attention, "scaled_dot_product_attention"),
    ]
    table: dict[object, Rule] = {
        target: rule for rule, names in groups for target in _overloads(names)
    }
    for quantization in (qpc_ops.observe.default, qpc_ops.fake_quantize.default):
        table[quantization] = values.first_input
    table[operator.getitem] = values.item
    return table


RULES: dict[object, Rule] = _table()
"""The rule of each operator; packages may add their own."""
