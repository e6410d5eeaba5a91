"""A deployable written by hand."""

from __future__ import annotations

import numpy as np

from qpc.backends.common.plan import Place, Step
from qpc.backends.deploy.deployable import Case, Deployable, Port
from qpc.backends.tvm.codegen.entry import Call, EntryPlan
from qpc.targets import Target

_INPUT, _WEIGHT, _MADE = Place("input", 0, 24), Place("weight", 0, 8), Place("arena", 64, 100)
_OUTPUT, _SCRATCH = Place("output", 0, 4), Place("arena", 192, 64)


def deployable(target: str = "aarch64") -> Deployable:
    """Two kernels: one with a constant, and one with scratch memory."""
    first, second = ("make", (_INPUT, _WEIGHT), (_MADE,)), ("end", (_MADE,), (_OUTPUT,))
    return Deployable(
        name="net",
        target=Target.parse(target),
        entry=EntryPlan("run_1", 1, 1, 1, 1, 256, (Call(*first), Call(*second, _SCRATCH))),
        inputs=(Port("x", "float32", (2, 3), float(np.float32(0.1)), 7),),
        outputs=(Port("y", "int32", (1,)),),
        weights={"w_1": np.arange(8, dtype=np.int8)},
        weight_names=("w_1",),
        steps=(
            Step(first[0], ("conv1",), macs=100, reads=first[1], writes=first[2]),
            Step(second[0], ("pool",), reads=second[1], writes=second[2], scratch=_SCRATCH),
        ),
        cases=(Case((bytes(24),), (b"\1\0\0\0",)),),
    )
