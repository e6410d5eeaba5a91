"""Entry points: one call runs a model, on memory that is used again."""

from __future__ import annotations

import pytest

pytest.importorskip("tvm_ffi", reason="Apache TVM is not installed")
import torch
from torch.fx import GraphModule
from tvm import tirx
from tvm.ir import GlobalVar, IRModule

from qpc.backends import tvm
from qpc.backends.common.memory import ALIGNMENT
from qpc.backends.tvm.codegen.build import tvm_target
from qpc.backends.tvm.codegen.entry import _runs_in_threads, lower_kernels
from qpc.backends.tvm.kernels.elementwise import lookup
from qpc.backends.tvm.kernels.emit import FLAT
from qpc.backends.tvm.kernels.geometry import View
from qpc.backends.tvm.kernels.isa.choose import isa_for
from qpc.calls import aten
from qpc.targets import Target
from tests.backends.tvm.checking import assert_same_bits
from tests.generators import IntegerGraph

pytestmark = pytest.mark.tvm


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


def test_flat_kernels_are_spared_most_passes_of_tvm(monkeypatch: pytest.MonkeyPatch) -> None:
    """These took 31 of the 39 seconds in which a MobileNetV3-Small was compiled for AVX-512."""
    asked: list[IRModule] = []
    _, *others = tirx.get_tir_pipeline("default")

    def spy(module: IRModule) -> IRModule:
        asked.append(module)
        return module

    monkeypatch.setattr(tirx, "get_tir_pipeline", lambda _: (spy, *others))
    target = Target.parse("x86-64-avx512")
    kernel = lookup(isa_for(target), View((1, 64)), bytes(range(256)))
    for function, pipelines in ((kernel.func, 0), (kernel.func.without_attr(FLAT), 1)):
        lower_kernels(IRModule({GlobalVar(kernel.name): function}), tvm_target(target))
        assert len(asked) == pipelines


@pytest.mark.parametrize(("threads", "parallel"), [(1, False), (2, True)])
def test_loops_that_run_in_threads_are_found(threads: int, parallel: bool) -> None:
    """Kernels with such loops are simplified: without, they took up to 1.6 times as long."""
    isa = isa_for(Target.parse("x86-64-avx512"))
    kernel = lookup(isa, View((64, 4096)), bytes(range(256)), threads)
    assert _runs_in_threads(kernel.func) == parallel


def test_every_step_is_timed() -> None:
    compiled = tvm.compile_graph(_chain(2))
    assert compiled._program is not None
    noted = compiled._program.empty_stamps(1)
    compiled._program.run(1, [torch.randn(1, 8, 16, 16)], noted)
    stamps = noted.tolist()
    assert len(stamps) == 1 + len(compiled._parts.code.entries[1].steps)
    assert stamps == sorted(set(stamps))
