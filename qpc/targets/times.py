"""What a layer takes on a target, as a function of its numbers of channels, without compiling it.

A backend that knows better than the table here has a module `layer_times` with a function of that
name; the core finds it by its address and never imports a backend.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from math import ceil, prod
from typing import Protocol, runtime_checkable

from qpc.errors import MissingDependencyError, UnsupportedTargetError
from qpc.targets.costs import Costs
from qpc.targets.target import Target

NATIVE = "native"


@dataclass(frozen=True)
class LayerShape:
    """A convolution or a matrix product of int8, by all that its time depends on, for one image.

    size: rows and columns of the input; 1 and the number of vectors for a matrix product.
    """

    inputs: int
    outputs: int
    size: tuple[int, int] = (1, 1)
    kernel: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1
    transposed: bool = False

    @property
    def positions(self) -> int:
        """How often each weight is used."""
        if self.transposed:
            return prod(self.size)
        return prod(
            max(1, (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1)
            for size, padding, dilation, kernel, stride in zip(
                self.size, self.padding, self.dilation, self.kernel, self.stride, strict=True
            )
        )


@runtime_checkable
class LayerTimes(Protocol):
    """How long layers take."""

    @property
    def name(self) -> str:
        """Whose estimate it is, in words."""

    def time(self, layer: LayerShape) -> float:
        """The time of a layer, in any unit that is the same for all layers; 0 or more."""


@dataclass(frozen=True)
class VectorTimes:
    """Vectors of output channels that meet `depth` input bytes at a time; vectors may be part full.

    What is true of every CPU with vectors: channels beyond a full vector cost a whole one.
    """

    lanes: int
    depth: int = 4
    epilogue: float = Costs().vectors.epilogue

    @property
    def name(self) -> str:
        """Whose estimate it is."""
        return f"vectors of {self.lanes} channels"

    def time(self, layer: LayerShape) -> float:
        """Instructions that multiply."""
        if not layer.inputs or not layer.outputs:
            return 0.0
        if layer.groups == layer.inputs == layer.outputs > 1:  # depthwise: rows side by side
            vectors = ceil(layer.outputs / (self.lanes * self.depth)) * self.depth
            dots = ceil(layer.kernel[0] / self.depth) * layer.kernel[1]
            return layer.positions * vectors * (dots + self.epilogue)
        vectors = layer.groups * ceil(layer.outputs // layer.groups / self.lanes)
        run = layer.kernel[1] * (layer.inputs // layer.groups)
        dots = layer.kernel[0] * ceil(run / self.depth)
        return layer.positions * vectors * (dots + self.epilogue)


def layer_times(target: Target | str | LayerTimes = NATIVE) -> LayerTimes:
    """The best estimate there is for a target: that of the backend which compiles for it.

    Without that backend it is `VectorTimes` with the target's vectors; without a target for this
    machine, with those of most CPUs. An estimate of one's own is returned as it is.

    Raises UnsupportedTargetError for a name that no target has, and for what is no target.
    """
    if isinstance(target, LayerTimes):
        return target
    if isinstance(target, str) and target == NATIVE:
        try:
            target = Target.native()
        except UnsupportedTargetError:  # no code for this machine; graphs are pruned all the same
            return VectorTimes(_USUAL_LANES)
    chosen = target if isinstance(target, Target) else Target.parse(target)
    try:
        found: LayerTimes = importlib.import_module(_PROVIDER).layer_times(chosen)
    except (ImportError, MissingDependencyError, UnsupportedTargetError):  # no TVM, or no kernels
        return VectorTimes(chosen.vector_lanes)
    return found


def require_target(target: Target | str | LayerTimes) -> None:
    """Raise UnsupportedTargetError for what no times can be had for, without looking for them."""
    if not isinstance(target, Target | LayerTimes) and target != NATIVE:
        Target.parse(target)


_PROVIDER = "qpc.backends.tvm.layer_times"
_USUAL_LANES = 8  # of int32, in the vectors of 256 bits
