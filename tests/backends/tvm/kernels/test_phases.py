from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

pytest.importorskip("tvm", reason="Apache TVM is not installed")

from qpc.backends.tvm.kernels.phases import Axis


def test_phases_are_convolutions_of_the_inputs_they_meet() -> None:
    first, second = Axis(5, 3, 2, 1, 1, 1).phases  # 3 taps, stride 2, padding 1, 10 outputs
    assert (first.taps, first.before, first.after) == ((1,), 0, 0)
    assert (second.taps, second.before, second.after) == ((2, 0), 0, 1)


@pytest.mark.parametrize(
    "axis",
    [
        Axis(5, 3, 2, 1, 1, 1),
        Axis(4, 3, 3, 0, 0, 2),
        Axis(7, 2, 4, 3, 2, 3),
        Axis(1, 2, 5, 0, 0, 1),
    ],
    ids=str,
)
def test_the_phases_together_are_the_transposed_convolution(axis: Axis) -> None:
    x, taps = torch.randn(axis.inputs), torch.randn(axis.kernel)
    whole = F.conv_transpose1d(
        x[None, None],
        taps[None, None],
        stride=axis.stride,
        padding=axis.padding,
        output_padding=axis.output_padding,
        dilation=axis.dilation,
    )
    made = np.zeros(axis.outputs, np.float32)
    for phase in axis.phases:
        around = F.pad(x, (phase.before, phase.after))
        kernel = taps[list(phase.taps)]
        if phase.taps:
            part = F.conv1d(around[None, None], kernel[None, None], dilation=phase.dilation)
            made[phase.first :: axis.stride] = part[0, 0].numpy()
    torch.testing.assert_close(torch.from_numpy(made), whole[0, 0])
