"""Compile a kernel and run it, on every kind of instructions that this machine has."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

pytest.importorskip("tvm", reason="needs Apache TVM")

import tvm
from _pytest.mark.structures import ParameterSet

from qpc.backends.tvm.kernels.isa.choose import Isa, isa_for
from qpc.backends.tvm.kernels.isa.matrices import MatrixSizes, MatrixTiles
from qpc.backends.tvm.kernels.kernel import Kernel
from qpc.targets import Target

Array = npt.NDArray[Any]
Run = Callable[..., Array]


def _slow(name: str) -> ParameterSet:
    return pytest.param(name, marks=pytest.mark.slow)


# One target for each kind of instructions; "x86-64-avx512-vnni-256" stands for AVX-VNNI, whose
# instructions have another encoding but the same meaning. Those that differ from another in the
# width of their vectors only are left to the slow tests.
TARGETS = [
    "x86-64",
    _slow("x86-64-sse4"),
    "x86-64-avx2",
    _slow("x86-64-avx512"),
    _slow("x86-64-avx512-vnni-256"),
    "x86-64-avx512-vnni-vbmi",
]

# For tests of what all kinds have in common: the plainest is left to the slow tests.
NOT_PLAIN = [_slow("x86-64"), *TARGETS[1:]]

# Those with registers of matrices, for tests of kernels that use them (parametrize "target" with
# indirect=True). The others are plain arithmetic, which runs on any machine: on registers like
# those of AMX, and on such that two pixels, two channels and eight bytes fill.
MATRIX_TARGETS = ["x86-64-amx", "plain-matrices", _slow("small-matrices")]
SMALL = MatrixSizes(
    registers=16,
    pixels=2,
    lanes=2,
    run=8,
    depth=8,
    blocks=((2, 2), (5, 1), (1, 4), (1, 1)),
)


@pytest.fixture(params=TARGETS)
def target(request: pytest.FixtureRequest) -> Target:
    if request.param == "plain-matrices":
        return Target("plain-matrices", "x86_64-unknown-linux-gnu", (), 16, "plain-matrices")
    if request.param == "small-matrices":
        return Target("small-matrices", "x86_64-unknown-linux-gnu", (), 4, "generic")
    target = Target.parse(request.param)
    reason = target.runs_here()
    if reason is not None:
        pytest.skip(reason)
    return target


@pytest.fixture
def isa(target: Target) -> Isa:
    isa = isa_for(target)
    return replace(isa, tiles=MatrixTiles(SMALL)) if target.name == "small-matrices" else isa


@pytest.fixture(scope="session")
def compiled() -> dict[tuple[Target, str], Callable[..., None]]:
    """Code that was compiled before: kernels of one name share it."""
    return {}


@pytest.fixture
def run(target: Target, compiled: dict[tuple[Target, str], Callable[..., None]]) -> Run:
    """Return a function from a kernel and its input arrays to its output array."""

    def run_kernel(kernel: Kernel, *inputs: Array) -> Array:
        assert [(i.shape, str(i.dtype)) for i in inputs] == [
            (i.shape, i.dtype) for i in kernel.inputs
        ]
        if (target, kernel.name) not in compiled:
            llvm = {"kind": "llvm", "mtriple": target.triple, "mattr": list(target.mattr)}
            module = tvm.IRModule({kernel.name: kernel.func})
            library = tvm.compile(module, target=tvm.target.Target(llvm))
            compiled[target, kernel.name] = library[kernel.name]
        out = np.full(kernel.output.shape, 99, kernel.output.dtype)
        tensors = [tvm.runtime.tensor(array) for array in (*inputs, *kernel.params, out)]
        compiled[target, kernel.name](*tensors)
        result: Array = tensors[-1].numpy()
        return result

    return run_kernel
