"""Whether a compiled model gives the values of the graph that it was made from."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.fx import GraphModule, Node
from torch.utils import _pytree as pytree

from qpc.analysis.exactness import exactness
from qpc.backends.compiled import CallableModel
from qpc.meta import label
from qpc.modes import ordinary_torch
from qpc.runtime.vectors import MOST_ROUNDED

_RUNS = 2
"""How often each batch size is run, on other inputs each time."""


@dataclass(frozen=True)
class Verified:
    """How many output values were compared, and how many differ although they must not.

    rounded: how many depend on float operators, where float rounding may make a difference;
    greatest: the greatest such difference, over the greatest value.
    """

    values: int
    differing: int
    rounded: int
    greatest: float

    @property
    def well(self) -> bool:
        """Whether nothing differs by more than it may."""
        return self.differing == 0 and self.greatest <= MOST_ROUNDED

    def __str__(self) -> str:
        parts = [f"{self.differing:,} of {self.values:,} values differ from the integer graph"]
        if self.rounded:
            parts.append(
                f"{self.rounded:,} more depend on float operators, and agree to"
                f" {self.greatest:.1e} of the greatest"
            )
        return f"{'verified' if self.well else 'not verified'}: {'; '.join(parts)}"


@ordinary_torch()
def verified(
    gm: GraphModule,
    compiled: CallableModel,
    *,
    told: Callable[[int, int], None] = lambda done, total: None,
) -> Verified:
    """Compare a compiled model with its graph on random inputs, at all of its batch sizes.

    Outputs that depend on integer operators only must be equal, and are compared with ==.
    """
    exact = {found.output for found in exactness(gm) if found.exact}
    (output,) = gm.graph.find_nodes(op="output")
    leaves = pytree.tree_leaves(output.args[0])
    outputs = [label(leaf) in exact for leaf in leaves if isinstance(leaf, Node)]
    values = differing = rounded = 0
    greatest = 0.0
    total = _RUNS * len(compiled.batch_sizes)
    for number, inputs in enumerate(_inputs(compiled)):
        with torch.no_grad():
            ours = _tensors(gm(*inputs))
        theirs = _tensors(compiled(*inputs))
        for a, b, same in zip(ours, theirs, outputs, strict=True):
            if same:
                values += a.numel()
                differing += int((_bits(a) != _bits(b)).sum())
            else:
                rounded += a.numel()
                largest = float(a.double().abs().max()) or 1.0
                greatest = max(greatest, float((a.double() - b.double()).abs().max()) / largest)
        told(number + 1, total)
    return Verified(values, differing, rounded, greatest)


def _inputs(compiled: CallableModel) -> Iterator[list[Tensor]]:
    generator = torch.Generator().manual_seed(0)
    for types in compiled.signature.inputs.values():
        for _ in range(_RUNS):
            yield [
                torch.randn(t.shape, generator=generator).to(t.dtype)
                if t.dtype.is_floating_point
                else torch.zeros(t.shape, dtype=t.dtype)
                for t in types
            ]


def _tensors(outputs: object) -> list[Tensor]:
    return [value for value in pytree.tree_leaves(outputs) if isinstance(value, Tensor)]


def _bits(value: Tensor) -> Tensor:
    return value.contiguous().view(torch.int32) if value.dtype is torch.float32 else value
