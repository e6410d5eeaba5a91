"""Convolutions of float32 in logical order, over any number of axes, as products of matrices.

What is said of images and pixels holds for rows and volumes. An image is copied into a frame of
padding. Then the inputs of some vectors of pixels are packed as panels, as the right operand of a
product is, and multiply all outputs: so that none of it is ever larger than a near cache. A pixel
is computed by one thread, in one order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from math import ceil, prod
from typing import Any

import numpy as np
import numpy.typing as npt
from tvm.tirx import Expr, PrimFunc
from tvm.tirx.script import builder as T

from qpc.backends.tvm.kernels.emit import (
    Flat,
    Index,
    bind,
    copy,
    fill,
    integer,
    loop,
    prim_func,
    scratch,
    shuffle,
    splat,
    split,
    tasks,
)
from qpc.backends.tvm.kernels.floats.panels import Matrix, Panels, zero
from qpc.backends.tvm.kernels.floats.product import tile_sums, worthwhile
from qpc.backends.tvm.kernels.isa.base import Isa
from qpc.backends.tvm.kernels.kernel import Kernel, TensorType, kernel_name
from qpc.backends.tvm.kernels.loops import contiguous_strides
from qpc.backends.tvm.kernels.stored.tiles import Block, Tiles

Sizes = tuple[int, ...]
"""One number for each axis behind batch and channels."""


@dataclass(frozen=True)
class ConvDesc:
    """x[n, channels, *size] by weight[outputs, channels / groups, *kernel].

    padding: before and after the elements of each axis; negative numbers crop. bias: whether there
    is one.
    """

    n: int
    channels: int
    size: Sizes
    outputs: int
    kernel: Sizes
    stride: Sizes
    padding: tuple[tuple[int, int], ...]
    dilation: Sizes
    groups: int
    bias: bool

    @property
    def framed(self) -> Sizes:
        """The size of an image with its padding."""
        return tuple(s + sum(p) for s, p in zip(self.size, self.padding, strict=True))

    @property
    def out(self) -> Sizes:
        """The size of the results."""
        reach = [d * (k - 1) for d, k in zip(self.dilation, self.kernel, strict=True)]
        return tuple(
            (s - r - 1) // t + 1 for s, r, t in zip(self.framed, reach, self.stride, strict=True)
        )

    @property
    def terms(self) -> int:
        """Of each sum."""
        return self.channels // self.groups * prod(self.kernel)

    @property
    def is_framed(self) -> bool:
        """Whether anything is added to images, or cropped from them."""
        return any(map(any, self.padding))

    def kept(self, axis: int) -> tuple[int, int, int]:
        """The first element of an axis that is kept, how many are, how many zeros precede."""
        size, (before, after) = self.size[axis], self.padding[axis]
        count = max(0, size + min(before, 0) + min(after, 0))
        return max(-before, 0), count, min(max(before, 0), self.framed[axis] - count)


def conv(
    isa: Isa,
    desc: ConvDesc,
    weight: npt.NDArray[np.float32] | None,
    bias: npt.NDArray[np.float32] | None,
    threads: int = 1,
) -> Kernel:
    """The kernel of a convolution; its result is in logical order, too.

    Weights that are None are a second input of [outputs * terms] elements.
    """
    macs = desc.n * desc.outputs * prod(desc.out) * desc.terms
    threads = worthwhile(isa, threads, macs)
    params: list[npt.NDArray[Any]] = [_places(desc, isa.lanes), _offsets(desc)]
    inputs = [TensorType((desc.n, desc.channels, *desc.size), "float32")]
    if weight is None:
        inputs.append(TensorType((desc.outputs * desc.terms,), "float32"))
    else:
        params.insert(0, weight.reshape(-1))
    if bias is not None:
        params.append(bias)
    name, func = _function(isa, desc, threads)
    out = TensorType((desc.n, desc.outputs, *desc.out), "float32")
    return Kernel(name, func, tuple(inputs), tuple(params), out, macs=macs)


def _places(desc: ConvDesc, lanes: int) -> npt.NDArray[np.int32]:
    """Where the first input of every pixel lies in a frame.

    Those beyond the last repeat the first of its vector, so that these never lie side by side.
    """
    starts = [np.arange(size) * s for size, s in zip(desc.out, desc.stride, strict=True)]
    places = _within(desc.framed, starts)
    beyond, first = -len(places) % lanes, len(places) // lanes * lanes
    return np.pad(places, (0, beyond), constant_values=places[first % len(places)]).astype(np.int32)


def _offsets(desc: ConvDesc) -> npt.NDArray[np.int32]:
    """Where the input of every term lies, from that of the first one on."""
    channel = np.arange(desc.channels // desc.groups)
    taps = [np.arange(k) * d for k, d in zip(desc.kernel, desc.dilation, strict=True)]
    return _within((desc.channels, *desc.framed), [channel, *taps]).astype(np.int32)


def _within(shape: Sizes, places: Sequence[npt.NDArray[np.int64]]) -> npt.NDArray[np.int64]:
    """The offsets of all combinations of places along the axes of a tensor."""
    found = np.zeros(1, np.int64)
    for stride, each in zip(contiguous_strides(shape), places, strict=True):
        found = (found[:, None] + each * stride).reshape(-1)
    return found


@cache
def _function(isa: Isa, desc: ConvDesc, threads: int) -> tuple[str, PrimFunc]:
    pixels, outputs = prod(desc.out), desc.outputs // desc.groups
    tiles = Tiles.of(isa, outputs, pixels)
    room_size = tiles.vectors * isa.lanes * desc.terms

    def body(x: Flat, weight: Flat, places: Flat, offsets: Flat, *rest: Flat) -> None:
        *bias, out = rest
        frame = scratch(desc.channels * prod(desc.framed), "float32") if desc.is_framed else None
        rooms = scratch(threads * room_size, "float32")
        with loop(desc.n) as image:
            start = bind(image * (desc.channels * prod(desc.size)))
            source = x.part(start)
            if frame is not None:
                _copy_into(frame, source, desc, threads)
                source = frame
            result = out.part(bind(image * (desc.outputs * pixels)))
            code = _Code(desc, tiles, source, weight, places, offsets, (*bias,), result, rooms)
            code.emit(threads)

    shapes = [
        (desc.n, desc.channels, *desc.size),
        (desc.outputs * desc.terms,),
        (ceil(pixels / isa.lanes) * isa.lanes,),
        (desc.terms,),
    ]
    kinds = ["float32", "float32", "int32", "int32"]
    types = [TensorType(shape, kind) for shape, kind in zip(shapes, kinds, strict=True)]
    types += [TensorType((desc.outputs,), "float32")] * desc.bias
    types.append(TensorType((desc.n, desc.outputs, *desc.out), "float32"))
    name = kernel_name("float_conv", isa, desc, threads)
    return name, prim_func(name, types, body)


def _copy_into(frame: Flat, image: Flat, desc: ConvDesc, threads: int) -> None:
    """Copy what is kept of an image into its frame, and fill what is around it with zeros."""
    with tasks(desc.channels, threads) as (_, channel):
        to, come = channel * prod(desc.framed), channel * prod(desc.size)
        _copy_axis(frame, bind(to), image, bind(come), desc, 0)


def _copy_axis(frame: Flat, to: Index, image: Flat, come: Index, desc: ConvDesc, axis: int) -> None:
    """Copy what is kept along an axis, and around it."""
    first, count, before = desc.kept(axis)
    inside, outside = prod(desc.size[axis + 1 :]), prod(desc.framed[axis + 1 :])

    def nothing(at: Index, places: int) -> None:
        if places:
            fill(frame, bind(at), T.FloatImm("float32", 0.0), places * outside)

    nothing(to, before)
    nothing(to + (before + count) * outside, desc.framed[axis] - before - count)
    to, come = bind(to + before * outside), bind(come + first * inside)
    if axis + 1 == len(desc.size):
        if count:
            copy(frame, to, image, come, count)
    elif count:
        with loop(count) as i:
            at, source = bind(to + i * outside), bind(come + i * inside)
            _copy_axis(frame, at, image, source, desc, axis + 1)


@dataclass(frozen=True)
class _Code:
    """Emits the convolution of one image."""

    desc: ConvDesc
    tiles: Tiles
    image: Flat
    weight: Flat
    places: Flat
    offsets: Flat
    bias: tuple[Flat, ...]
    out: Flat
    rooms: Flat

    def emit(self, threads: int) -> None:
        desc, tiles = self.desc, self.tiles
        size = tiles.vectors * tiles.lanes * desc.terms
        for count, block in tiles.kinds():
            with tasks(desc.groups * count, min(threads, desc.groups * count)) as (worker, task):
                group, number = split(task, desc.groups, count)
                panels = Panels(self.rooms, bind(worker * size), desc.terms, tiles.lanes)
                self._block(bind(group), block(number), panels)

    def _block(self, group: Index, block: Block, panels: Panels) -> None:
        """Some vectors of pixels of all outputs of a group."""
        desc, tiles = self.desc, self.tiles
        first = bind(group * (desc.channels // desc.groups * prod(desc.framed)))
        for vector in range(block.vectors):
            self._pack(panels, vector, first, bind(block.output + vector * tiles.lanes))
        with loop(ceil(tiles.m / tiles.rows)) as number:
            row = bind(tiles.first_row(number))
            output = bind(group * tiles.m + row)
            left = Matrix(
                self.weight, bind(output * desc.terms), tiles.rows, desc.terms, desc.terms
            )
            here = replace(block, before=0)
            values = tile_sums(tiles, here, left, panels, lambda i, _: self._first(output + i))
            for i in range(tiles.rows):
                tiles.store(self.out, output + i, block, values[i])

    def _first(self, output: Index) -> Expr:
        lanes = self.tiles.lanes
        return splat(self.bias[0].load(output), lanes) if self.bias else zero(lanes)

    def _pack(self, panels: Panels, vector: int, first: Index, pixel: Index) -> None:
        """The inputs of one vector of pixels, side by side in memory or not."""
        lanes = self.tiles.lanes
        start, last = bind(self.places.load(pixel)), self.places.load(pixel + lanes - 1)

        def beside() -> None:
            with loop(self.desc.terms) as term:
                at = bind(first + start + self.offsets.load(term))
                panels.store(vector, term, self.image.load(at, lanes))

        def apart() -> None:
            each = [bind(first + self.places.load(pixel + lane)) for lane in range(lanes)]
            with loop(self.desc.terms) as term:
                offset = bind(self.offsets.load(term))
                values = [self.image.load(place + offset) for place in each]
                panels.store(vector, term, shuffle(values, range(lanes)))

        with T.If(T.EQ(last - start, integer(lanes - 1))):  # so what is between lies side by side
            with T.Then():
                beside()
            with T.Else():
                apart()
