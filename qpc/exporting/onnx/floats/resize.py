"""Resizing of float images."""

from __future__ import annotations

from torch.fx import Node

from qpc.calls import arguments, aten
from qpc.errors import UnsupportedOpError
from qpc.exporting.onnx.exporter import Exporter, Rule
from qpc.types import BatchDim

_NEAREST = {
    "mode": "nearest",
    "coordinate_transformation_mode": "asymmetric",
    "nearest_mode": "floor",
}
_NEAREST_EXACT = {
    "mode": "nearest",
    "coordinate_transformation_mode": "half_pixel",
    "nearest_mode": "round_prefer_ceil",
}


def _resize(interpolation: str, **attributes: str) -> Rule:
    """To a size; a scale that does not give that very size by itself moves the places."""

    def rule(to: Exporter, node: Node) -> str:
        given, source = arguments(node), node.all_input_nodes[0]
        ways = dict(attributes)
        if interpolation:
            aligned = bool(given.get("align_corners"))
            way = "align_corners" if aligned else "pytorch_half_pixel"
            ways |= {"mode": interpolation, "coordinate_transformation_mode": way}
        if interpolation == "cubic":
            ways |= {"cubic_coeff_a": -0.75}  # type: ignore[dict-item]  # a number
        scales = [v for k, v in given.items() if k.startswith("scales") and v is not None]
        scales = scales or list(given.get("scale_factors") or ())
        sizes = zip(to.shape(source)[2:], to.shape(node)[2:], strict=True)
        for (before, after), scale in zip(sizes, scales or [None] * 3, strict=False):
            known = not isinstance(before, BatchDim) and not isinstance(after, BatchDim)
            if scale is not None and (not known or before * scale != after):
                raise UnsupportedOpError("no ONNX form for this interpolation", node=node)
        return to.emit("Resize", [to.of(source), "", "", to.extents(to.shape(node))], **ways)

    return rule


def _grid_sample(to: Exporter, node: Node) -> str:
    """`aten.grid_sampler`."""
    given = arguments(node)
    modes = ("linear", "nearest", "cubic") if to.opset >= 20 else ("bilinear", "nearest", "bicubic")
    return to.emit(
        "GridSample",
        [to.value(node, "input"), to.value(node, "grid")],
        mode=modes[given["interpolation_mode"]],
        padding_mode=("zeros", "border", "reflection")[given["padding_mode"]],
        align_corners=int(given["align_corners"]),
    )


RULES: dict[object, Rule] = {
    **dict.fromkeys(
        (
            aten.upsample_nearest1d.default,
            aten.upsample_nearest1d.vec,
            aten.upsample_nearest2d.default,
            aten.upsample_nearest2d.vec,
            aten.upsample_nearest3d.default,
            aten.upsample_nearest3d.vec,
        ),
        _resize("", **_NEAREST),
    ),
    **dict.fromkeys(
        (aten._upsample_nearest_exact2d.default, aten._upsample_nearest_exact2d.vec),
        _resize("", **_NEAREST_EXACT),
    ),
    **dict.fromkeys(
        (
            aten.upsample_linear1d.default,
            aten.upsample_linear1d.vec,
            aten.upsample_bilinear2d.default,
            aten.upsample_bilinear2d.vec,
            aten.upsample_trilinear3d.default,
            aten.upsample_trilinear3d.vec,
        ),
        _resize("linear"),
    ),
    **dict.fromkeys(
        (aten.upsample_bicubic2d.default, aten.upsample_bicubic2d.vec), _resize("cubic")
    ),
    **dict.fromkeys((aten.grid_sampler.default, aten.grid_sampler_2d.default), _grid_sample),
}
