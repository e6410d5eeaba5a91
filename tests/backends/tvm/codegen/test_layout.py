from __future__ import annotations

import pytest

pytest.importorskip("tvm_ffi", reason="Apache TVM is not installed")
from torch.fx import GraphModule

from qpc.backends.common.memory import ALIGNMENT
from qpc.backends.common.plan import Place
from qpc.backends.tvm.codegen.entry import Call, Copy, EntryPlan
from qpc.backends.tvm.codegen.layout import lay_out
from qpc.backends.tvm.codegen.schedule import Memory, Schedule, Step
from tests.backends.tvm.checking import assert_same_bits
from tests.generators import IntegerGraph

pytestmark = pytest.mark.tvm


def test_a_schedule_gets_its_places() -> None:
    x, w = Memory("input", 0, 8), Memory("weight", 0, 4)
    a, b, y = (Memory("made", -1, size) for size in (100, 60, 16))
    steps = [Step("first", (x, w), (a,)), Step("second", (a,), (b,)), Step("third", (b,), (y,))]
    scratch = {"first": 0, "second": 0, "third": 70}
    plan = lay_out("run_2", Schedule(steps, [x, y, y]), scratch, batch=2, inputs=1, weights=1)
    at_a, at_b, at_y = Place("arena", 0, 100), Place("arena", 128, 60), Place("output", 1, 16)
    at_x = Place("input", 0, 8)
    assert plan == EntryPlan(
        name="run_2",
        batch=2,
        inputs=1,
        outputs=3,
        weights=1,
        arena=192,
        calls=(
            Call("first", (at_x, Place("weight", 0, 4)), (at_a,)),
            Call("second", (at_a,), (at_b,)),
            Call("third", (at_b,), (at_y,), Place("arena", 0, 70)),  # where `a` was
        ),
        copies=(
            Copy(at_x, Place("output", 0, 8)),
            Copy(at_y, Place("output", 2, 16)),
        ),
    )


def test_outputs_without_bytes_are_not_copied() -> None:
    nothing = Memory("input", 0, 0)
    plan = lay_out("run_0", Schedule([], [nothing]), {}, batch=0, inputs=1, weights=0)
    assert plan == EntryPlan("run_0", 0, 1, 1, 0, 0, ())


def _chain(length: int) -> GraphModule:
    g = IntegerGraph()
    q = g.quantize(g.input(8, 16, 16))
    for _ in range(length):
        q = g.conv2d(q, 8, padding=(1, 1))
    return g.module(q)


def test_the_arena_does_not_grow_with_the_number_of_layers() -> None:
    sizes = []
    for length in (3, 9):
        compiled = assert_same_bits(_chain(length))
        sizes.append(compiled._parts.code.entries[1].arena)
    assert sizes[0] == sizes[1]
    assert sizes[0] % ALIGNMENT == 0
