"""Which results of a layer are exactly 0 where its inputs are, and have to stay so.

Windows of attention are filled up with rows of zeros. A linear layer without bias leaves them 0,
and where its results are normalized by their own length, as queries and keys of cosine attention
are, 0 stays 0 but whatever small number a correction of the bias would put there becomes a vector
of length 1.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.fx import GraphModule

from qpc.layers import Weighted
from qpc.meta import attribute
from qpc.registry import op_name


def but_zeros(error: Tensor, gm: GraphModule, layer: Weighted, inputs: Sequence[Tensor]) -> Tensor:
    """The mean error of a layer's outputs, [out], with 0 for those that have to stay 0.

    inputs: the layer's, batch by batch. Those of a linear layer, [..., in], are looked at for rows
    of zeros; a convolution sees several places at once.
    """
    if op_name(layer.node) != "linear":
        return error
    if layer.bias is not None:
        silent = attribute(gm, str(layer.bias.target)).detach() == 0.0
    else:
        silent = torch.ones_like(error, dtype=torch.bool)
    if bool(silent.any()) and any(map(_has_zero_row, inputs)):
        return error.masked_fill(silent, 0.0)
    return error


def _has_zero_row(x: Tensor) -> bool:
    """Whether all elements of some row of `x[..., n]` are 0."""
    begins_so = x[x[..., 0] == 0.0]  # few do: the others need not be read
    return bool((begins_so == 0.0).all(-1).any())
