"""The plan of an entry point says all that a writer needs to know.

Another writer stands for those to come: it writes Python, and never sees anything but plans.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator, Mapping, Sequence

import pytest

pytest.importorskip("tvm_ffi", reason="Apache TVM is not installed")
import torch
from torch import Tensor
from torch.fx import GraphModule

from qpc.backends import tvm
from qpc.backends.common.plan import Place
from qpc.backends.tvm.codegen import build
from qpc.backends.tvm.codegen.cache import KernelCache
from qpc.backends.tvm.codegen.entry import Call, Copy, EntryPlan, EntryWriter
from qpc.backends.tvm.codegen.tir_entry import TirEntryWriter
from qpc.backends.tvm.runtime.model import CompiledModel
from qpc.calls import aten
from qpc.runtime.pages import address, allocate
from qpc.targets import Target
from tests.generators import IntegerGraph, random_inputs

pytestmark = pytest.mark.tvm


class PythonEntryWriter:
    """Functions of Python: `kernels`, `copy`, `now` and `store` are what they are run with."""

    def write(self, plans: Sequence[EntryPlan], target: Target, cache: KernelCache) -> bytes:
        """See `EntryWriter`."""
        return "".join(f"{line}\n" for plan in plans for line in self._lines(plan)).encode()

    def _lines(self, plan: EntryPlan) -> Iterator[str]:
        def address(place: Place) -> str:
            item, offset = plan.address(place)
            return f"table[{item}]" + (f" + {offset}" if offset else "")

        def note(number: int) -> Iterator[str]:
            if plan.timed:
                yield f"    store(table[{plan.times}] + {8 * number}, now())"

        yield f"def {plan.name}(table):"
        yield from note(0)
        for number, call in enumerate(plan.calls, 1):
            yield f"    if kernels.{call.kernel}({', '.join(map(address, call.arguments))}):"
            yield "        return -1"
            yield from note(number)
        for copy in plan.copies:
            yield f"    copy({address(copy.to)}, {address(copy.source)}, {copy.to.size})"
        yield "    return 0"


PLAN = EntryPlan(
    name="run_1",
    batch=1,
    inputs=2,
    outputs=2,
    weights=1,
    arena=256,
    calls=(
        Call("scale", (Place("input", 0, 64), Place("weight", 0, 4)), (Place("arena", 0, 64),)),
        Call(
            "join",
            (Place("arena", 0, 64), Place("input", 1, 64)),
            (Place("output", 0, 128),),
            Place("arena", 64, 192),
        ),
    ),
    copies=(Copy(Place("input", 1, 64), Place("output", 1, 64)),),
)


def test_a_plan_prints() -> None:
    assert str(PLAN.with_times).splitlines() == [
        "run_1_timed: batch size 1, arena 256 bytes",
        "table: arena, inputs 2, outputs 2, weights 1, times",
        "notes the time before the first and after every call",
        "   1 scale: input 0, weight 0 -> arena 0..64",
        "   2 join: arena 0..64, input 1 -> output 0, scratch arena 64..256",
        "     copy 64 bytes: input 1 -> output 1",
    ]
    untimed = [line for line in str(PLAN).splitlines() if "time before" in line]
    assert untimed == []


def test_another_writer_needs_only_plans() -> None:
    writer: EntryWriter = PythonEntryWriter()
    text = writer.write([PLAN, PLAN.with_times], Target.parse("x86-64"), KernelCache(None))
    assert text.decode().splitlines() == [
        "def run_1(table):",
        "    if kernels.scale(table[1], table[5], table[0]):",
        "        return -1",
        "    if kernels.join(table[0], table[2], table[3], table[0] + 64):",
        "        return -1",
        "    copy(table[4], table[2], 64)",
        "    return 0",
        "def run_1_timed(table):",
        "    store(table[6] + 0, now())",
        "    if kernels.scale(table[1], table[5], table[0]):",
        "        return -1",
        "    store(table[6] + 8, now())",
        "    if kernels.join(table[0], table[2], table[3], table[0] + 64):",
        "        return -1",
        "    store(table[6] + 16, now())",
        "    copy(table[4], table[2], 64)",
        "    return 0",
    ]


# --- what is written, run -------------------------------------------------------------------------


class TwoWriters:
    """Writes entry points in TIR, and keeps what they are in Python."""

    def __init__(self) -> None:
        self.plans: dict[str, EntryPlan] = {}
        self.text = ""

    def write(self, plans: Sequence[EntryPlan], target: Target, cache: KernelCache) -> bytes:
        """See `EntryWriter`."""
        self.plans = {plan.name: plan for plan in plans}
        self.text = PythonEntryWriter().write(plans, target, cache).decode()
        return TirEntryWriter().write(plans, target, cache)


@pytest.fixture
def writers(monkeypatch: pytest.MonkeyPatch) -> TwoWriters:
    both = TwoWriters()
    monkeypatch.setattr(build, "ENTRY_WRITERS", {"elf": both})
    return both


class Kernels:
    """The kernels of a compiled model, each a function of addresses, and their calls."""

    def __init__(self, model: CompiledModel) -> None:
        assert model._program is not None
        self._library = model._program.loaded.library
        self.called: list[str] = []

    def __getattr__(self, name: str) -> Callable[..., int]:
        function = self._library.function(name)

        def call(*addresses: int) -> int:
            self.called.append(name)
            return function(*map(ctypes.c_void_p, addresses))

        return call


def run_text(
    writers: TwoWriters, model: CompiledModel, name: str, inputs: Sequence[Tensor], batch: int
) -> tuple[list[Tensor], list[int], Kernels]:
    """The outputs and the times of the entry point in Python, in memory that holds garbage."""
    assert model._program is not None
    plan, entry = writers.plans[name], model._parts.code.entries[batch]
    outputs = [torch.full(t.shape, 77, dtype=t.dtype) for t in entry.outputs]
    weights = [model._program.loaded.weights[name] for name in entry.weights]
    arena, times = allocate(plan.arena), torch.zeros(len(plan.calls) + 1, dtype=torch.int64)
    arena.fill(0xAA)
    assert (len(inputs), len(outputs), len(weights)) == (plan.inputs, plan.outputs, plan.weights)
    values = [tensor.data_ptr() for tensor in (*inputs, *outputs)]
    constants = [address(stored.data) for stored in weights]
    table = [address(arena), *values, *constants, times.data_ptr()]
    kernels, ticks = Kernels(model), iter(range(100, 200))

    def store(address: int, time: int) -> None:
        ctypes.c_int64.from_address(address).value = time

    functions: dict[str, Callable[[Sequence[int]], int]] = {}
    known: Mapping[str, object] = {
        "kernels": kernels,
        "copy": ctypes.memmove,
        "store": store,
        "now": lambda: next(ticks),
    }
    exec(writers.text, dict(known), functions)
    assert functions[name](table) == 0
    return outputs, times.tolist(), kernels


def residual() -> GraphModule:
    """Convolutions, whose padded inputs are scratch memory, and an operator that TVM wrote."""
    g = IntegerGraph()
    q = g.conv2d(g.quantize(g.input(8, 16, 16)), 8, padding=(1, 1))
    y = g.dequantize(g.add(q, g.conv2d(q, 8, padding=(1, 1))))
    return g.module(g.call(aten._softmax.default, y, 1, False), y)


def joined() -> GraphModule:
    """A concatenation in place: its parts are written by kernels that take all of it."""
    g = IntegerGraph()
    q = g.quantize(g.input(16, 8, 8))
    return g.module(g.cat(g.conv2d(q, 16, (1, 1)), g.max_pool2d(q, (3, 3), (1, 1), (1, 1))))


def copied() -> GraphModule:
    """Outputs that are inputs, or other outputs."""
    g = IntegerGraph()
    x = g.input(3, 4)
    y = g.dequantize(g.linear(g.quantize(x), 5))
    return g.module(x, y, y, g.call(aten.reshape.default, x, [-1, 12]))


@pytest.mark.parametrize("graph", [residual, joined, copied])
def test_python_gives_the_same_bytes(graph: Callable[[], GraphModule], writers: TwoWriters) -> None:
    gm = graph()
    model = tvm.compile_graph(gm, batch_sizes=(1, 3))
    assert list(writers.plans) == ["run_1", "run_1_timed", "run_3", "run_3_timed"]
    for batch in (1, 3):
        inputs = random_inputs(gm, batch)
        assert model._program is not None
        expected = model._program.run(batch, inputs)
        for name in (f"run_{batch}", f"run_{batch}_timed"):
            plan = writers.plans[name]
            assert plan.batch == batch
            outputs, times, kernels = run_text(writers, model, name, inputs, batch)
            for got, right in zip(outputs, expected, strict=True):
                assert got.numpy().tobytes() == right.numpy().tobytes()
            assert kernels.called == [call.kernel for call in plan.calls]
            noted = len(times) if plan.timed else 0
            assert times == [*range(100, 100 + noted), *[0] * (len(times) - noted)]
