"""Operators that scale and shift each channel: `y[:, c] = x[:, c] * factor[c] + offset[c]`.

Batch norms in inference are such, and arithmetic with a constant for each channel: a batch norm
that is spelled out, or a learned scale of a layer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from qpc.calls import aten
from qpc.meta import attribute, info
from qpc.ops.affine import BatchNorm

_ARITHMETIC = (aten.add.Tensor, aten.sub.Tensor, aten.mul.Tensor, aten.div.Tensor)


@dataclass(frozen=True)
class ChannelAffine:
    """One such operator: the value it reads and the parameters it is made of.

    input: the value, whose channels are axis 1.
    constants: the `get_attr` nodes.
    """

    node: Node
    input: Node
    constants: tuple[Node, ...]

    @staticmethod
    def of(node: Node) -> ChannelAffine | None:
        """The view of such an operator; None for anything else, and for what is not constant."""
        if norm := BatchNorm.of(node):
            return _of_batch_norm(norm)
        return _of_arithmetic(node) if node.target in _ARITHMETIC else None

    def coefficients(self, gm: GraphModule) -> tuple[Tensor, Tensor]:
        """Factor and offset, float64[channels] each."""
        if norm := BatchNorm.of(self.node):
            return _batch_norm(gm, norm)
        (constant,) = self.constants
        value = attribute(gm, str(constant.target)).detach().double().flatten()
        one, zero = torch.ones_like(value), torch.zeros_like(value)
        match self.node.target:
            case aten.add.Tensor:
                return one, value
            case aten.mul.Tensor:
                return value, zero
            case aten.div.Tensor:
                return 1.0 / value, zero
        return (one, -value) if self.node.args[0] is self.input else (-one, value)


def _batch_norm(gm: GraphModule, norm: BatchNorm) -> tuple[Tensor, Tensor]:
    def tensor(node: Any, default: float, like: Tensor) -> Tensor:
        if node is None:
            return torch.full_like(like, default)
        return attribute(gm, str(node.target)).detach().double()

    assert norm.running_mean is not None
    assert norm.running_var is not None
    mean = attribute(gm, str(norm.running_mean.target)).detach().double()
    variance = attribute(gm, str(norm.running_var.target)).detach().double()
    factor = tensor(norm.weight, 1.0, mean) / torch.sqrt(variance + norm.eps)
    return factor, tensor(norm.bias, 0.0, mean) - mean * factor


def _of_batch_norm(norm: BatchNorm) -> ChannelAffine | None:
    if norm.training or norm.running_mean is None or norm.running_var is None:
        return None
    read = (norm.weight, norm.bias, norm.running_mean, norm.running_var)
    constants = tuple(n for n in read if n is not None)
    if any(n.op != "get_attr" for n in constants) or norm.input.op == "get_attr":
        return None
    return ChannelAffine(norm.node, norm.input, constants)


def _of_arithmetic(node: Node) -> ChannelAffine | None:
    """Arithmetic of a value [n, c, ...] with a parameter that has c numbers, along axis 1."""
    a, b = node.args[:2]
    if not (isinstance(a, Node) and isinstance(b, Node)) or node.kwargs:
        return None
    value, constant = (b, a) if a.op == "get_attr" else (a, b)
    if constant.op != "get_attr" or value.op == "get_attr":
        return None
    if node.target is aten.div.Tensor and value is b:
        return None
    shape, own = info(value).shape or (), info(constant).shape or ()
    if len(shape) < 2 or len(own) > len(shape):
        return None
    broadcast = (*[1] * (len(shape) - len(own)), *own)
    per_channel = (1, shape[1], *[1] * (len(shape) - 2))
    return ChannelAffine(node, value, (constant,)) if broadcast == per_channel else None
