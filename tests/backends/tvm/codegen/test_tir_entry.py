from __future__ import annotations

import ctypes

import pytest

pytest.importorskip("tvm_ffi", reason="Apache TVM is not installed")
import torch

from qpc.backends import tvm
from qpc.backends.common.plan import Place
from qpc.backends.tvm.codegen.build import ENTRY_WRITERS
from qpc.backends.tvm.codegen.cache import KernelCache
from qpc.backends.tvm.codegen.elf import link_shared
from qpc.backends.tvm.codegen.entry import Call, Copy, EntryPlan
from qpc.backends.tvm.codegen.machines import MACHINES
from qpc.backends.tvm.codegen.tir_entry import TirEntryWriter
from qpc.calls import aten
from qpc.runtime.library import Library
from qpc.runtime.seal import BLANK_NAME
from qpc.targets import TARGETS, Target
from tests.backends.tvm.checking import assert_same_bits
from tests.generators import IntegerGraph

pytestmark = pytest.mark.tvm


def test_every_target_has_a_writer() -> None:
    assert {target.object_format for target in TARGETS} <= ENTRY_WRITERS.keys()


def test_kernels_that_are_small_enough_to_inline_keep_their_order() -> None:
    """Each writes where the one before has read: merged into their caller, they were reordered."""
    g = IntegerGraph()
    q = g.quantize(g.input(3, 5, 7))
    for _ in range(6):
        q = g.add(g.conv2d(q, 3, (3, 3), groups=3, padding=(1, 1)), q)
    assert_same_bits(g.module(q), batch_sizes=(5,))


def test_outputs_that_are_inputs_or_each_other_are_copies() -> None:
    g = IntegerGraph()
    x = g.input(3, 4)
    y = g.dequantize(g.linear(g.quantize(x), 5))
    compiled = assert_same_bits(g.module(x, y, y, g.call(aten.reshape.default, x, [-1, 12])))
    given = torch.randn(1, 3, 4)
    outputs = compiled(given)
    given.zero_()
    assert outputs[0].any()
    assert outputs[3].any()


def test_every_step_is_timed() -> None:
    g = IntegerGraph()
    q = g.conv2d(g.quantize(g.input(8, 16, 16)), 8, padding=(1, 1))
    compiled = tvm.compile_graph(g.module(q))
    assert compiled._program is not None
    noted = compiled._program.empty_stamps(1)
    compiled._program.run(1, [torch.randn(1, 8, 16, 16)], noted)
    stamps = noted.tolist()
    assert len(stamps) == 1 + len(compiled._parts.code.entries[1].steps)
    assert stamps == sorted(set(stamps))


@pytest.mark.parametrize(("text", "ends"), [(b"", False), (b"no", True)])
def test_a_kernel_that_fails_ends_the_call(text: bytes, ends: bool) -> None:
    """The kernel is `strlen` of C, which returns 0 for no text."""
    target = Target.parse("x86-64")
    given, made = Place("input", 0, 8), Place("output", 0, 8)
    plan = EntryPlan("run_1", 1, 1, 1, 0, 0, (Call("strlen", (given,), ()),), (Copy(given, made),))
    code = TirEntryWriter().write([plan], target, KernelCache(None))
    machine = MACHINES[target.architecture.name]
    run = Library(link_shared([code], BLANK_NAME, machine, target.libraries)).function("run_1")
    source, result = (ctypes.create_string_buffer(value, 8) for value in (text, b"before"))
    table = (ctypes.c_uint64 * 4)(0, ctypes.addressof(source), ctypes.addressof(result), 0)
    assert (run(ctypes.c_void_p(ctypes.addressof(table))) != 0) == ends
    assert result.raw == (b"before\0\0" if ends else bytes(8))
