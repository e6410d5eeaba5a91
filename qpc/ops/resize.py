"""Resizing of images, in float and in integers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor
from torch.fx import Node
from torch.nn import functional as F

from qpc.calls import Arg, OpView, Pair, arguments, aten
from qpc.channels.atoms import Labels, spread
from qpc.channels.flow import describe
from qpc.errors import BackendError
from qpc.library import define
from qpc.meta import info
from qpc.ops.movement import refuse_parameters
from qpc.ops.pooling import window
from qpc.quant.arithmetic import require_sizes
from qpc.registry import OpSpec, Quantization, Role, overloads

if TYPE_CHECKING:
    from qpc.analysis.integer_proofs import IntegerProof
    from qpc.channels.flow import Flow
    from qpc.conversion import Conversion

POSITIONS = 2048
"""Places between two pixels that `qpc::resize2d` knows; a power of two."""
_IMAGES = "resizing was converted for images"


Interpolation = Literal["nearest", "bilinear", "bilinear aligned", "pixels"]
"""How an image is sampled; "pixels": each output is some input, by no rule that has a name."""


def interpolation(size: Sequence[int], rows: Tensor, columns: Tensor) -> Interpolation | None:
    """Which of those the places of a `qpc::resize2d` over an image of `size` are; None if none.

    It is found by making the places of all that have a name.
    """
    ways = _WAYS.items()
    places = (rows, columns)
    for name, way in ways:
        pairs = zip(size, places, strict=True)
        if all(torch.equal(_places(way, before, len(found)), found) for before, found in pairs):
            return name
    return None if any((found % POSITIONS).any() for found in places) else "pixels"


def _places(way: Callable[[Tensor, tuple[int, int]], Tensor], size: int, found: int) -> Tensor:
    """Where an axis of `size` is sampled, in the units of `qpc::resize2d`."""
    ramp = torch.arange(float(size)).reshape(1, 1, -1, 1)
    return (way(ramp, (found, 1)).flatten() * POSITIONS).round().to(torch.int32)


_WAYS: Mapping[Interpolation, Callable[[Tensor, tuple[int, int]], Tensor]] = {
    "nearest": lambda x, size: F.interpolate(x, size, mode="nearest"),
    "bilinear": lambda x, size: F.interpolate(x, size, mode="bilinear", align_corners=False),
    "bilinear aligned": lambda x, size: F.interpolate(x, size, mode="bilinear", align_corners=True),
}


class UpsampleNearest2d(
    OpView, of=(aten.upsample_nearest2d.default, aten._upsample_nearest_exact2d.default)
):
    """Every output is the input next to it, of the two kinds that torch has."""

    input = Arg[Node]("self")
    output_size = Pair()
    scales_h = Arg[float | None]()
    scales_w = Arg[float | None]()


class UpsampleBilinear2d(OpView, of=aten.upsample_bilinear2d.default):
    """Linear interpolation over rows and columns."""

    input = Arg[Node]("self")
    output_size = Pair()
    align_corners = Arg[bool]()
    scales_h = Arg[float | None]()
    scales_w = Arg[float | None]()


def _resize2d(q: Tensor, rows: Tensor, columns: Tensor, input_size: Sequence[int]) -> Tensor:
    """Sample at the given places, in units of `1 / POSITIONS` pixels: linear, rounded once.

    The places are right for images of `input_size` only.
    """
    require_sizes(q, [*[-1] * (q.dim() - 3), *input_size], _IMAGES)

    def sampled(x: Tensor, places: Tensor, axis: int) -> Tensor:
        shape = (-1, 1) if axis == -2 else (-1,)
        weight = (places % POSITIONS).reshape(shape)
        first = (places // POSITIONS).to(torch.int64)
        second = (first + 1).clamp(max=x.shape[axis] - 1)  # of weight 0 beyond the last
        low, high = x.index_select(axis, first), x.index_select(axis, second)
        return low * (POSITIONS - weight) + high * weight

    total = sampled(sampled(q.to(torch.int64), rows, -2), columns, -1)
    shift = 2 * (POSITIONS.bit_length() - 1)
    return ((total + (1 << (shift - 1))) >> shift).to(q.dtype)


def _fake_resize2d(q: Tensor, rows: Tensor, columns: Tensor, input_size: Sequence[int]) -> Tensor:
    require_sizes(q, [*[-1] * (q.dim() - 3), *input_size], _IMAGES)
    return q.new_empty((*q.shape[:-2], rows.shape[0], columns.shape[0]))


RESIZE2D = define(
    "resize2d(Tensor q, Tensor rows, Tensor columns, int[2] input_size) -> Tensor",
    _resize2d,
    _fake_resize2d,
)


def resample(conversion: Conversion) -> Node:
    """`qpc::resize2d`, at the places at which the operator itself finds the values of a ramp."""
    node = conversion.node
    (value,) = node.all_input_nodes
    sizes = [size for size in (info(value).shape or ())[2:] if isinstance(size, int)]
    ramp = torch.meshgrid(*(torch.arange(float(size)) for size in sizes), indexing="ij")
    rest = node.args[1:]
    samples = [node.target(x[None, None], *rest)[0, 0] for x in ramp]  # type: ignore[operator]  # it is an overload
    places = {"rows": samples[0][:, 0], "columns": samples[1][0]}
    name = conversion.editor.free_name(f"places.{node.name}")
    constants = [
        conversion.constant(f"{name}.{axis}", (place * POSITIONS).round().to(torch.int32))
        for axis, place in places.items()
    ]
    return conversion.call(RESIZE2D, conversion.integers[value], *constants, sizes)


# --- channels -------------------------------------------------------------------------------------


def _grid_sampled(flow: Flow, node: Node) -> Labels:
    """Every channel is read at the same places, which stay."""
    given = arguments(node)
    places = flow.of(given["grid"])
    flow.decline(node, places, f"{describe(node)} reads channels as places")
    return spread(flow.line(node, given["input"], 1), 1, flow.shape(node))


_NEAREST = Quantization(Role.MOVE, refuse_parameters, resample)
_LINEAR = Quantization(Role.INTERPOLATE, refuse_parameters, resample)

# --- proofs and sizes -----------------------------------------------------------------------------


def _check(proof: IntegerProof, node: Node) -> None:
    """`255 * POSITIONS**2 + POSITIONS**2 / 2` at the most."""
    given = arguments(node)
    size = proof.type(given["q"]).shape[-2:]
    if size != tuple(given["input_size"]):
        raise BackendError(
            f"it resizes images of {tuple(given['input_size'])} pixels, not of {size}"
        )
    for name, pixels in zip(("rows", "columns"), size, strict=True):
        places = proof.tensor(node, name, torch.int32)
        if places.numel() and not 0 <= int(places.min()) <= int(places.max()) <= (
            (pixels - 1) * POSITIONS
        ):
            raise BackendError(f"{name!r} has places outside the image")


def _keeps_size(node: Node, before: tuple[int, ...], now: tuple[int, ...]) -> bool:
    """The size of the result is written down."""
    return True


_OTHERS = (
    "upsample_nearest1d upsample_nearest1d.vec upsample_nearest2d.vec upsample_nearest3d "
    "upsample_nearest3d.vec upsample_linear1d upsample_linear1d.vec upsample_bilinear2d.vec "
    "upsample_bicubic2d upsample_bicubic2d.vec upsample_trilinear3d upsample_trilinear3d.vec "
    "_upsample_nearest_exact2d.vec _upsample_bilinear2d_aa _upsample_bicubic2d_aa.vec"
)
SPECS = (
    *(
        OpSpec(
            target,
            "upsample_nearest2d",
            _NEAREST,
            UpsampleNearest2d,
            exact=True,
            channels=window,
            keeps_size=_keeps_size,
        )
        for target in overloads("upsample_nearest2d _upsample_nearest_exact2d")
    ),
    OpSpec(
        aten.upsample_bilinear2d.default,
        quantization=_LINEAR,
        view=UpsampleBilinear2d,
        channels=window,
        keeps_size=_keeps_size,
    ),
    *(OpSpec(t, channels=window, keeps_size=_keeps_size) for t in overloads(_OTHERS)),
    OpSpec(aten.grid_sampler.default, channels=_grid_sampled),
    OpSpec(RESIZE2D, exact=True, picks=True, check=_check),
)
