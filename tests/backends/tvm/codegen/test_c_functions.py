from __future__ import annotations

import pytest

pytest.importorskip("tvm_ffi", reason="Apache TVM is not installed")
from tvm import tirx
from tvm.ir import GlobalVar, IRModule

from qpc.backends.tvm.codegen.c_functions import _runs_in_threads, lower_kernels
from qpc.backends.tvm.codegen.objects import tvm_target
from qpc.backends.tvm.kernels.elementwise import lookup
from qpc.backends.tvm.kernels.emit import FLAT
from qpc.backends.tvm.kernels.geometry import View
from qpc.backends.tvm.kernels.isa.choose import isa_for
from qpc.targets import Target

pytestmark = pytest.mark.tvm


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
