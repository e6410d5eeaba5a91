"""What the plans of integer kernels cost, for layers that do not exist yet.

It is the estimate by which compilation chooses between plans (see `qpc.targets.costs`), so channel
counts are chosen with the eyes of the code generator: Winograd, merged groups and tiles included.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from qpc.backends.tvm.compat import require_tvm
from qpc.targets import Target
from qpc.targets.times import LayerShape, LayerTimes, VectorTimes

if TYPE_CHECKING:  # TVM is imported when it is needed
    from qpc.backends.tvm.kernels.isa.base import Isa


def layer_times(target: Target) -> LayerTimes:
    """The estimate for a target.

    Raises UnsupportedTargetError if there are no kernels for it, and MissingDependencyError if
    there is no TVM.
    """
    require_tvm()
    from qpc.backends.tvm.kernels.isa.choose import isa_for

    return KernelTimes(target.name, isa_for(target))


@dataclass(frozen=True)
class KernelTimes:
    """The times of the plans that would be chosen on one thread, in instructions."""

    target: str
    isa: Isa
    _known: dict[LayerShape, float] = field(default_factory=dict, repr=False, compare=False)

    @property
    def name(self) -> str:
        """Whose estimate it is."""
        return f"the kernels for {self.target}"

    def time(self, layer: LayerShape) -> float:
        """The time of a layer, in instructions that multiply."""
        if layer not in self._known:
            self._known[layer] = self._estimate(layer)
        return self._known[layer]

    def _estimate(self, layer: LayerShape) -> float:
        if not layer.inputs or not layer.outputs:
            return 0.0
        if layer.transposed:  # several convolutions, one for each rest modulo the stride
            return (
                VectorTimes(self.isa.lanes, self.isa.depth).time(layer) * self.isa.dot_instructions
            )
        from qpc.backends.tvm.kernels.conv.conv_plan import Convolution, LayerConstants
        from qpc.backends.tvm.kernels.conv.depthwise import DepthwiseConv
        from qpc.backends.tvm.kernels.conv.methods import plan_for
        from qpc.backends.tvm.kernels.geometry import Conv2dDesc

        desc = Conv2dDesc(
            1,
            *layer.size,
            layer.inputs,
            layer.outputs,
            layer.kernel,
            stride=layer.stride,
            padding=(*layer.padding, *layer.padding),
            dilation=layer.dilation,
            groups=layer.groups,
            dtype=self.isa.activation,
        )
        zeros = np.zeros(1)
        constants = LayerConstants(_weight(layer), zeros.astype(np.int32), zeros.astype(np.float32))
        convolution = Convolution(desc, constants)
        if layer.groups == layer.inputs == layer.outputs > 1:
            return DepthwiseConv.for_layer(self.isa, convolution, 1).time
        return plan_for(self.isa, convolution, 1).time


def _weight(layer: LayerShape) -> npt.NDArray[np.int8]:
    """Weights of one output channel, as large as those of trained layers: weight[1, c, kh, kw].

    Plans ask of weights whether there are zeros, and how large they and their sums are: whether
    pairs fit instructions that saturate, and minimal filtering. One channel tells as much as all.
    """
    shape = (1, layer.inputs // layer.groups, *layer.kernel)
    return np.resize(_USUAL, shape).astype(np.int8)


# Magnitudes at equal steps of a normal distribution whose largest of some hundred weights is 127;
# none is zero, and positive and negative ones sum up to the same, nearly. Next to the largest,
# along channels and along columns of kernels of 3 x 3, there is one of its sign.
_FIRST = [127, 71, 55, 13, -45, -37, -30, -24, -18, 8]
_USUAL = np.array([*_FIRST, -4, -1, -2, -6, -10, -15, -21, -27, -33])
