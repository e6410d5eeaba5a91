from __future__ import annotations

import pytest

pytest.importorskip("tvm", reason="Apache TVM is not installed")

from qpc.backends.deploy import elf
from qpc.backends.deploy.vectors import make_cases
from qpc.backends.options import CompileOptions
from qpc.backends.tvm.codegen.llvm_entry import entry_object
from qpc.backends.tvm.export import compile_deployable
from qpc.errors import UnsupportedTargetError
from qpc.targets import Target
from tests.generators import IntegerGraph

pytestmark = pytest.mark.tvm


def test_a_graph_becomes_kernels_and_the_function_that_calls_them() -> None:
    g = IntegerGraph()
    gm = g.module(g.linear(g.image(8), 4))
    cases = make_cases(gm, 2, 1)
    options = CompileOptions((2,), cache=False)
    made = compile_deployable(gm, Target.parse("aarch64"), "net", options, cases)
    kernels, entry = [elf.read(raw) for raw in made.code], elf.read(entry_object(made.model))
    needed = {symbol.name for symbol in entry.symbols if symbol.section is None}
    defined = {symbol.name for kernel in kernels for symbol in kernel.symbols}
    assert needed - set(made.model.weights) - {""} <= defined
    assert made.model.inputs[0].shape == (2, 8)
    assert made.model.entry.batch == 2
    assert made.model.cases == cases


def test_a_target_that_must_ask_the_system_is_refused() -> None:
    g = IntegerGraph()
    gm = g.module(g.linear(g.image(8), 4))
    with pytest.raises(UnsupportedTargetError, match="which an exported library does not do"):
        compile_deployable(gm, Target.parse("x86-64-amx"), "net", CompileOptions(), ())
