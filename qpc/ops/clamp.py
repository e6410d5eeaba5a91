"""ReLU and other clamps, in float and in integers."""

from __future__ import annotations

from torch import Tensor
from torch.fx import Node

from qpc.calls import Arg, OpView, aten
from qpc.library import define, like_first
from qpc.registry import OpSpec, Role, spec_of, specs_of_views


class Relu(OpView, of=aten.relu.default):
    """`max(x, 0)`."""

    input = Arg[Node]("self")


class Clamp(OpView, of=aten.clamp.default):
    """ReLU6 and hardtanh are clamps in core form."""

    input = Arg[Node]("self")
    min = Arg[float | None]()
    max = Arg[float | None]()


def _clamp(q: Tensor, lo: int, hi: int) -> Tensor:
    return q.clamp(lo, hi)


CLAMP = define(
    "clamp(Tensor q, int lo, int hi) -> Tensor",
    _clamp,
    like_first,
)


class IntClamp(OpView, of=CLAMP):
    """Integer clamp."""

    input = Arg[Node]("q")
    lo = Arg[int]()
    hi = Arg[int]()


class Clamping(OpView):
    """Any integer operator that ends with a clamp to `lo`, `hi`."""

    lo = Arg[int]()
    hi = Arg[int]()

    @classmethod
    def matches(cls, node: object) -> bool:
        spec = spec_of(node) if isinstance(node, Node) else None
        return spec is not None and spec.ends_with_clamp


SPECS = (
    *specs_of_views((Relu, "relu", Role.CLAMP), (Clamp, "clamp", Role.CLAMP)),
    OpSpec(CLAMP, "clamp", view=IntClamp, ends_with_clamp=True),
)
