"""Kinds of plans: how a convolution can be computed, and what each way to do it must offer.

A kind is a frozen dataclass of numbers from which code and the layout of constants follow; another
way to compute convolutions is another class that offers what `ConvPlan` says.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch

from qpc.backends.tvm.kernels.conv.tiling import Tile
from qpc.backends.tvm.kernels.emit import Flat
from qpc.backends.tvm.kernels.epilogue import EpilogueCode
from qpc.backends.tvm.kernels.geometry import Conv2dDesc, ConvShape
from qpc.backends.tvm.kernels.isa.base import Isa
from qpc.backends.tvm.kernels.kernel import Array, TensorType
from qpc.quant.fixedpoint import accumulator_bounds


@dataclass(frozen=True, eq=False)
class LayerConstants:
    """The constants of a layer: `weight[o, c // groups, kh, kw]`, `bias[o]`, `multiplier[o]`.

    Transposed convolutions and matrix products have their weights as PyTorch has them. `greatest`
    is the greatest input that they ever meet, padding included.
    """

    weight: npt.NDArray[np.int8]
    bias: npt.NDArray[np.int32]
    multiplier: npt.NDArray[np.float32]
    greatest: int = 255

    @classmethod
    def joined(cls, layers: Sequence[LayerConstants]) -> LayerConstants:
        """Those of a layer that has the output channels of all of these, one after the other."""
        return cls(
            np.concatenate([each.weight for each in layers]),
            np.concatenate([each.bias for each in layers]),
            np.concatenate([each.multiplier for each in layers]),
            max(each.greatest for each in layers),
        )


@dataclass(frozen=True, eq=False)
class Convolution:
    """A convolution with its constants."""

    desc: Conv2dDesc
    constants: LayerConstants

    @property
    def weight(self) -> npt.NDArray[np.int8]:
        """weight[o, c // groups, kh, kw]."""
        return self.constants.weight

    @property
    def offset(self) -> npt.NDArray[np.int32]:
        """What to add to sums of products with inputs that count from 0."""
        zero_point_term = self.desc.input_zero_point * self.weight.sum((1, 2, 3), dtype=np.int64)
        offset: npt.NDArray[np.int32] = (self.constants.bias - zero_point_term).astype(np.int32)
        return offset

    @property
    def most_requantized(self) -> float:
        """The largest magnitude of an accumulator times its multiplier, whatever the inputs are."""
        limits, zero_point = np.iinfo(self.desc.dtype), self.desc.input_zero_point
        weight, bias = (torch.from_numpy(x) for x in (self.weight, self.constants.bias))
        bounds = accumulator_bounds(weight, bias, zero_point, int(limits.min), int(limits.max))
        magnitude = torch.stack(bounds).abs().amax(0).to(torch.float64).numpy()
        return float((magnitude * self.constants.multiplier).max(initial=0.0))


@dataclass(frozen=True)
class Operands:
    """What the code of a convolution works on.

    weight: what `ConvPlan.pack_weight` gives; bias and multiplier: what `pack_channels` gives.
    """

    x: Flat
    weight: Sequence[Flat]
    bias: Flat
    multiplier: Flat
    epilogue: EpilogueCode
    out: Flat


class ConvPlan(Protocol):
    """How a convolution is cut into micro-kernels, and how its constants are laid out."""

    @property
    def isa(self) -> Isa:
        """The instructions."""

    @property
    def shape(self) -> ConvShape:
        """The convolution."""

    @property
    def label(self) -> Tile:
        """What reports and tuning call the plan."""

    @property
    def time(self) -> float:
        """Estimated time of the busiest thread, in instructions of a dot, to compare plans."""

    @property
    def skipped(self) -> float:
        """The share of all multiplications that are left out, as weights are zero."""

    @property
    def saved(self) -> float:
        """The share of `dot`s that it does without, as it needs fewer multiplications."""

    @property
    def param_types(self) -> tuple[TensorType, ...]:
        """The types of what `pack_weight` gives, of bias and of multiplier."""

    def variants(self, weight: npt.NDArray[np.int8]) -> Sequence[ConvPlan]:
        """The plan with each micro-kernel that it can have for these weights."""

    def pack_weight(self, weight: npt.NDArray[np.int8]) -> tuple[Array, ...]:
        """weight[o, c // groups, kh, kw] as the code reads it."""

    def pack_channels(self, values: Array) -> Array:
        """values[o] as the code reads them."""

    def emit(self, operands: Operands) -> None:
        """Write the code of the convolution, into the function that is being written."""
