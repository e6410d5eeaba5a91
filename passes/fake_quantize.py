"""Fix the grids from what the observers saw, and round to them in float.

Before:  x -> observe -> conv2d(W) -> relu -> observe -> y
After:   x -> fake_quantize -> conv2d(fake_quantize(W)) -> relu -> fake_quantize -> y
Keeps:   the output, up to the rounding error that the integer graph will have
Leaves:  operators that stay in float
Cost:    one walk over the graph, and the observers' search for ranges

The grids are written into node info, where conversion to integers reads them. Weight scales are
raised where a bias would not fit 32 bits, and where a channel's weights are all zero. A grid on
which 99.99 % of the values share a tenth of the range, because of outliers, is warned of.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from qpc.analysis.joint_grids import Observed, joint_groups
from qpc.analysis.origins import bytes_behind, maker
from qpc.base import Pass, PassContext
from qpc.calls import qpc_ops
from qpc.edit import Editor
from qpc.errors import QPCError
from qpc.facts import CALIBRATED, FAKE_QUANTIZED, OBSERVED, observer_state
from qpc.layers import Weighted, float_layer, outputs_first
from qpc.meta import attribute, info, update_info, value_name
from qpc.ops.affine import BatchNorm, ChannelAffine
from qpc.passes.fold_batch_norm import norm_beside
from qpc.quant.fixedpoint import floor_scales_for_bias, weight_limit, weight_scales
from qpc.quant.grid import LARGEST_SCALE, SMALLEST_SCALE, Grid, QParams
from qpc.registry import Role, role_of
from qpc.settings import require_kind, require_number


@dataclass(frozen=True)
class FakeQuantize(
    Pass,
    name="fake-quantize",
    requires={CALIBRATED},
    establishes={FAKE_QUANTIZED},
    invalidates={OBSERVED, CALIBRATED},
):
    """Replace observers by fake quantization, and fake-quantize the weights of integer layers.

    signed: use int8 grids for activations instead of uint8; the real values they stand for are the
    same.
    narrowest: values that meet in concats get one grid, so that concats only move bytes, if the
    range of each is at least this share of the range of all; above 1.0 none do.
    """

    signed: bool = False
    narrowest: float = 0.25

    def __post_init__(self) -> None:
        require_kind("signed", self.signed, bool, "True or False")
        require_number("narrowest", self.narrowest, 0, above=True)

    def apply(self, gm: GraphModule, ctx: PassContext) -> bool:
        editor = Editor(gm, self.name)
        observers = [n for n in gm.graph.nodes if n.target is qpc_ops.observe.default]
        if not observers:
            return False
        grids, first, joined = self._grids(gm, observers)
        _warn_of_outliers(gm, observers, grids, ctx)
        for node in gm.graph.nodes:
            if (name := info(node).observer) is not None:
                update_info(node, qparams=grids[name], observer=first.get(name, name))
        for node in observers:
            _replace_observer(editor, node, grids[str(node.args[1])])
        layers = [n for n in gm.graph.nodes if info(n).integer]
        for node in layers:
            layer = float_layer(node)
            if layer is not None and layer.weight.target is not qpc_ops.fake_quantize.default:
                _quantize_weight(editor, layer)
            if role_of(node) is Role.INTERPOLATE:
                _round_interpolated(editor, node)
        editor.drop_unused()
        text = f", {joined} of them joined with others by concats" if joined else ""
        ctx.summarize(f"{len(observers)} grids fixed{text}")
        return True

    def _grids(
        self, gm: GraphModule, observers: list[Node]
    ) -> tuple[dict[str, QParams], dict[str, str], int]:
        """The grid of each observer, the first of those that share it with others, by name.

        And how many of them concats have made wider. Grids that were given stay.
        """
        grids = {str(n.args[1]): grid for n in observers if (grid := info(n).qparams) is not None}
        observed = {
            name: _observed(gm, n, signed=self.signed)
            for n in observers
            if (name := str(n.args[1])) not in grids
        }
        ranges = {name: found.range for name, found in observed.items()}
        first: dict[str, str] = {}
        for group, whole in joint_groups(gm, observed, self.narrowest):
            first |= dict.fromkeys(group, group[0])
            ranges |= dict.fromkeys(group, whole)
        for name, found in observed.items():
            points = Grid(found.settings.bits, signed=self.signed)
            symmetric = found.settings.symmetric
            grids[name] = QParams.from_range(*ranges[name], points, symmetric=symmetric)
        wider = sum(ranges[name] != found.range for name, found in observed.items())
        return grids, first, wider


def _observed(gm: GraphModule, node: Node, *, signed: bool) -> Observed:
    config = info(node).config
    assert config is not None
    settings = config.activation
    grid = Grid(settings.bits, signed=signed)
    if bytes_behind(node.all_input_nodes[0]) is not None:
        return Observed((0.0, 255.0), settings)
    try:
        range_ = settings.observer.range(observer_state(gm, node), grid, settings.symmetric)
    except QPCError as e:
        raise type(e)(e.what, node=node, fix=e.fix) from e
    return Observed(range_, settings)


def _warn_of_outliers(
    gm: GraphModule, observers: list[Node], grids: dict[str, QParams], ctx: PassContext
) -> None:
    """Name the first value whose grid is so wide that nearly all of its values share few points."""
    found = [
        (node, text)
        for node in observers
        if info(node).qparams is None  # its grid is what the data said
        and (text := _outliers(gm, node, grids[str(node.args[1])])) is not None
    ]
    if not found:
        return
    node, text = found[0]
    (value,) = node.all_input_nodes
    others = len(found) - 1
    after = f" (as {others} after it)" if others else ""
    ctx.warn(maker(value), f"{text}{after}; {_REMEDY}")


def _outliers(gm: GraphModule, node: Node, grid: QParams) -> str | None:
    config = info(node).config
    assert config is not None
    central = config.activation.observer.central(observer_state(gm, node), _NEARLY_ALL)
    if central is None or central == (0.0, 0.0):
        return None
    lo, hi = grid.real_range
    share = (central[1] - central[0]) / (hi - lo)
    if share >= _LEAST_SHARE:
        return None
    return (
        f"{_NEARLY_ALL:.2%} of its values other than 0 lie from {central[0]:.4g} to "
        f"{central[1]:.4g}, which is {share:.2%} of the range of its grid, {lo:.4g} to {hi:.4g}: "
        "it is rounded coarsely for the sake of outliers"
    )


_NEARLY_ALL = 0.9999
_LEAST_SHARE = 0.1  # 25 of the 255 steps of a grid; MobileNetV2 has 0.24 and more everywhere
_REMEDY = (
    "check the calibration data, or cut outliers off with "
    "ActivationConfig(observer=Percentile(percent=99.9))"
)


def _replace_observer(editor: Editor, node: Node, grid: QParams) -> None:
    source, about = node.args[0], info(node)
    assert isinstance(source, Node)
    made = _rounded(editor, source, grid, _quantizer(node), like=node, before=node)
    update_info(made, observer=about.observer, config=about.config, qparams=grid)
    update_info(made, value=value_name(source) or "")
    editor.replace(node, made)


def _quantizer(node: Node) -> str:
    """The name of the grid of a value; values with one observer share it, while they train too."""
    return f"quantizers.{str(info(node).observer).removeprefix('observers.')}"


def _rounded(
    editor: Editor, value: Node, grid: QParams, name: str, *, like: Node, before: Node
) -> Node:
    """A call that rounds `value` to a grid."""
    tensors = {"scale": grid.scale, "zero_point": grid.zero_point}
    return editor.call(
        qpc_ops.fake_quantize.default,
        value,
        *[
            editor.buffer(f"{name}.{k}", torch.tensor([v]), before=before)
            for k, v in tensors.items()
        ],
        grid.lo,
        grid.hi,
        like=like,
        before=before,
    )


def _round_interpolated(editor: Editor, node: Node) -> None:
    """Interpolations round to the grid of their input, for which there is no observer of theirs."""
    about, readers = info(node), list(node.users)
    assert about.qparams is not None
    made = _rounded(editor, node, about.qparams, _quantizer(node), like=node, before=node.next)
    update_info(
        made,
        observer=about.observer,
        config=about.config,
        qparams=about.qparams,
        value=value_name(node) or "",
    )
    for reader in readers:
        reader.replace_input_with(node, made)


def _quantize_weight(editor: Editor, layer: Weighted) -> None:
    node, gm = layer.node, editor.gm
    config, groups, norm = info(node).config, layer.groups, norm_beside(node)
    assert config is not None
    name = f"quantizers.{node.name}_weight"
    scales = _weight_steps(gm, layer, norm)
    outputs = len(scales)
    step = editor.buffer(f"{name}.scale", scales, before=node)
    if norm is not None and norm.running_var is not None and not config.weight.per_channel:
        outputs = attribute(gm, str(norm.running_var.target)).numel()
        read = [
            n and editor.get(str(n.target), before=node) for n in (norm.weight, norm.running_var)
        ]
        step = editor.call(qpc_ops.unfold_step.default, step, *read, norm.eps, like=node)
    zero_point = torch.zeros(outputs, dtype=torch.int64)
    limit = weight_limit(config.weight.bits)
    safe: dict[str, Any] = {"safe_pairs": True} if config.weight.safe_pairs else {}
    layer.weight = editor.call(
        qpc_ops.fake_quantize.default,
        layer.weight,
        step,
        editor.buffer(f"{name}.zero_point", zero_point, before=node),
        -limit,
        limit,
        layer.output_axis,
        *([groups] if layer.output_axis and groups > 1 else []),
        like=node,
        **safe,
    )


def _weight_steps(gm: GraphModule, layer: Weighted, norm: BatchNorm | None) -> Tensor:
    """The steps of a weight: float32[out], or float32[1] of the folded weight.

    norm: the batch norm that is to be folded into the layer.
    """
    config, source = info(layer.node).config, info(layer.input).qparams
    assert config is not None
    assert source is not None
    weight = attribute(gm, str(layer.weight.target)).detach()
    weight = outputs_first(weight, layer.output_axis, layer.groups)
    bias = torch.zeros(weight.shape[0])
    if layer.bias is not None:
        bias = attribute(gm, str(layer.bias.target)).detach()
    if norm is None:
        return floor_scales_for_bias(weight_scales(weight, config.weight), bias, source.scale)
    affine = ChannelAffine.of(norm.node)
    assert affine is not None
    factor, offset = affine.coefficients(gm)
    folded = (weight * factor.reshape(-1, *[1] * (weight.dim() - 1))).float()
    scales = weight_scales(folded, config.weight)
    scales = floor_scales_for_bias(scales, (bias * factor + offset).float(), source.scale)
    if not config.weight.per_channel:
        return scales
    steps = (scales / factor.abs()).clamp(SMALLEST_SCALE, LARGEST_SCALE).float()
    # where nothing is left of a channel, its batch norm may bring it back
    return torch.where(factor == 0.0, weight_scales(weight, config.weight), steps)
