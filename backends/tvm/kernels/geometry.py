"""Shapes of sliding windows, and the arithmetic that all kernels with windows share."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from math import prod
from typing import Self

from qpc.backends.common.channel_slice import ChannelSlice
from qpc.backends.tvm.kernels.conv.sums import Join
from qpc.backends.tvm.kernels.emit import Index, smaller
from qpc.backends.tvm.kernels.epilogue import Reals
from qpc.backends.tvm.kernels.kernel import TensorType
from qpc.backends.tvm.kernels.loops import contiguous_strides


@dataclass(frozen=True)
class Places:
    """Where outputs go in a tensor that holds others too; all numbers count its elements.

    first: where the first output goes; image, row, column: how far apart neighbours are.
    """

    first: int
    image: int
    row: int
    column: int

    def follow(self, oh: int, ow: int) -> bool:
        """Whether all pixels of images of that size are equally far apart."""
        return self.row == ow * self.column and self.image == oh * self.row


@dataclass(frozen=True)
class View:
    """Elements of `shape`, as a tensor of their own or a share of one with a longer last axis."""

    shape: tuple[int, ...]
    share: ChannelSlice | None = None
    dtype: str = "uint8"

    @property
    def type(self) -> TensorType:
        """The tensor that they lie in."""
        return TensorType((*self.shape[:-1], self.step) if self.share else self.shape, self.dtype)

    @property
    def step(self) -> int:
        """Distance between neighbours along the last axis but one, in elements."""
        return self.share.channels if self.share else self.shape[-1]

    @property
    def first(self) -> int:
        """Where the first of them is, in elements."""
        return self.share.first if self.share else 0

    @property
    def others(self) -> int:
        """How many elements of the tensor are not theirs."""
        return self.type.size - prod(self.shape)

    @property
    def strides(self) -> tuple[int, ...]:
        """The distance between neighbours along each axis, in elements."""
        return contiguous_strides(self.type.shape)

    def offset(self, image: Index, row: Index, column: Index = 0) -> Index:
        """Where a pixel of images [n, h, w, c] begins, in elements."""
        _, h, w, _ = self.shape
        return ((image * h + row) * w + column) * self.step + self.first


@dataclass(frozen=True)
class ConvShape:
    """What the code of a convolution depends on.

    Padding is (top, left, bottom, right); negative padding crops. Without `places`, outputs follow
    one another, as in `output`. `source` says which channels of larger images the inputs are, if
    they are a part of these.
    """

    n: int
    h: int
    w: int
    c: int
    o: int
    kernel: tuple[int, int]
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1
    places: Places | None = None
    source: ChannelSlice | None = None
    dtype: str = "uint8"
    """Of inputs, and of outputs that are on a grid."""

    def __post_init__(self) -> None:
        if self.c % self.groups or self.o % self.groups:
            raise ValueError(
                f"{self.c} input and {self.o} output channels do not form {self.groups} groups"
            )
        if min(self.oh, self.ow) < 1:
            raise ValueError(f"the kernel {self.kernel} is larger than the padded input")

    @property
    def oh(self) -> int:
        """Rows of the output."""
        top, _, bottom, _ = self.padding
        return (self.h + top + bottom - self.reach[0]) // self.stride[0] + 1

    @property
    def ow(self) -> int:
        """Columns of the output."""
        _, left, _, right = self.padding
        return (self.w + left + right - self.reach[1]) // self.stride[1] + 1

    @property
    def reach(self) -> tuple[int, int]:
        """Rows and columns of input that one output sees."""
        (kh, kw), (dh, dw) = self.kernel, self.dilation
        return (kh - 1) * dh + 1, (kw - 1) * dw + 1

    @property
    def input(self) -> TensorType:
        """The tensor that the inputs lie in."""
        return self.images.type

    @property
    def images(self) -> View:
        """Where the inputs lie."""
        return View((self.n, self.h, self.w, self.c), self.source, self.dtype)

    @property
    def output(self) -> TensorType:
        """The output tensor."""
        return TensorType((self.n, self.oh, self.ow, self.o), self.dtype)

    def output_offset(self, image: Index, row: Index) -> Index:
        """Where a row of the output begins, in elements."""
        if self.places is None:
            return (image * self.oh + row) * (self.ow * self.o)
        return image * self.places.image + row * self.places.row + self.places.first

    @property
    def output_step(self) -> int:
        """Distance between neighbouring outputs of a row, in elements."""
        return self.places.column if self.places else self.o

    def input_rows(self, rows: int) -> int:
        """Rows of input that `rows` rows of output see."""
        return (rows - 1) * self.stride[0] + self.reach[0]

    def input_columns(self, columns: int) -> int:
        """Columns of input that `columns` columns of output see."""
        return (columns - 1) * self.stride[1] + self.reach[1]


@dataclass(frozen=True)
class Conv2dDesc(ConvShape):
    """A convolution with the numbers of `qpc::conv2d`."""

    input_zero_point: int = 0
    output_zero_point: int = 0
    lo: int = 0
    hi: int = 255
    channels: int | None = None
    """Channels of the tensor that the outputs are a part of, if it has more than they."""
    reals: Reals | None = None
    """How the outputs end, if they are float32; then there is no grid for them."""
    join: Join | None = None
    """What joins the accumulators, if anything."""

    def placed(self, share: ChannelSlice) -> Self:
        """The same with outputs that go to a share of the channels of larger images."""
        row = self.ow * share.channels
        places = Places(share.first, self.oh * row, row, share.channels)
        return replace(self, places=places, channels=share.channels)

    @property
    def output(self) -> TensorType:
        """The tensor that the outputs go to."""
        dtype = self.dtype if self.reals is None else "float32"
        return TensorType((self.n, self.oh, self.ow, self.channels or self.o), dtype)

    @property
    def shape(self) -> ConvShape:
        """The part that code depends on."""
        return ConvShape(**{field.name: getattr(self, field.name) for field in fields(ConvShape)})


def tile_start(index: Index, size: int, extent: int) -> Index:
    """Where tile `index` begins; the last one is moved back to end at `extent`."""
    return index * size if extent % size == 0 else smaller(index * size, extent - size)
