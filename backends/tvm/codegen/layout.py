"""Where everything lies that a schedule touches: it becomes the plan of an entry point."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from qpc.backends.common.memory import Arena, Lifetime, arrange
from qpc.backends.common.plan import Place
from qpc.backends.tvm.codegen.entry import Call, Copy, EntryPlan
from qpc.backends.tvm.codegen.schedule import Memory, Schedule

_Outputs = Mapping[Memory, int]  # which output a memory is, if it is one


def lay_out(
    name: str,
    schedule: Schedule,
    scratch_of: Mapping[str, int],
    *,
    batch: int,
    inputs: int,
    weights: int,
) -> EntryPlan:
    """Decide where tensors and scratch memory lie.

    scratch_of: the bytes of scratch memory that each kernel needs; inputs, weights: how many there
    are; batch: the batch size.
    """
    outputs: dict[Memory, int] = {}
    for i, result in enumerate(schedule.results):
        if result.kind == "made":
            outputs.setdefault(result, i)
    lives = _lives(schedule, outputs)
    scratch = [scratch_of[step.kernel] for step in schedule.steps]
    arena = arrange(
        [
            *(Lifetime(memory.size, *life) for memory, life in lives.items()),
            *(Lifetime(size, number, number) for number, size in enumerate(scratch)),
        ]
    )
    place = _places(outputs, dict(zip(lives, arena.offsets, strict=False)))
    calls = tuple(
        Call(step.kernel, tuple(map(place, step.inputs)), tuple(map(place, step.outputs)), needed)
        for step, needed in zip(schedule.steps, _scratch(arena, scratch), strict=True)
    )
    copies = tuple(
        Copy(place(result), Place("output", i, result.size))
        for i, result in enumerate(schedule.results)
        if outputs.get(result) != i and result.size
    )
    return EntryPlan(name, batch, inputs, len(schedule.results), weights, arena.size, calls, copies)


def _lives(schedule: Schedule, outputs: _Outputs) -> dict[Memory, tuple[int, int]]:
    """The first and last step that touches each memory of the arena."""
    lives: dict[Memory, tuple[int, int]] = {}
    for number, step in enumerate(schedule.steps):
        for memory in (*step.inputs, *step.outputs):
            if memory.kind == "made" and memory not in outputs:
                first, _ = lives.get(memory, (number, number))
                lives[memory] = (first, number)
    return lives


def _scratch(arena: Arena, sizes: list[int]) -> Iterator[Place | None]:
    """Where each step has its scratch memory, which comes last in the arena, if it needs any."""
    offsets = arena.offsets[len(arena.offsets) - len(sizes) :]
    for at, size in zip(offsets, sizes, strict=True):
        yield Place("arena", at, size) if size else None


def _places(outputs: _Outputs, offsets: Mapping[Memory, int]) -> Callable[[Memory], Place]:
    def place(memory: Memory) -> Place:
        if memory.kind != "made":
            return Place(memory.kind, memory.index, memory.size)
        if memory in outputs:
            return Place("output", outputs[memory], memory.size)
        return Place("arena", offsets[memory], memory.size)

    return place
