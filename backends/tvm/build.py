"""From an IRModule to code that can be stored: VM bytecode and a shared library."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

import tvm
from tvm import relax, tirx

from qpc.backends.tvm.elf import link_shared
from qpc.backends.tvm.stopwatch import Stopwatch
from qpc.target import Target


@dataclass(frozen=True)
class Code:
    """Compiled code: what to call in which order, and the machine code of what is called."""

    bytecode: bytes
    library: bytes


def tvm_target(target: Target) -> tvm.target.Target:
    """`target` in TVM's words. Only explicit features count: `mcpu` could bring more of them."""
    options = {"kind": "llvm", "mtriple": target.triple, "mcpu": "x86-64", "num-cores": 1}
    if target.mattr:
        options["mattr"] = list(target.mattr)
    return tvm.target.Target(options)


def build(mod: tvm.IRModule, target: Target, clock: Stopwatch) -> Code:
    """Compile every function of `mod`."""
    chosen = tvm_target(target)
    with chosen, tvm.transform.PassContext(opt_level=3, config={"tirx.disable_assert": True}):
        with clock.stage("float operators"):
            mod = _FLOAT_PASSES(mod)
        with clock.stage("memory plan"):
            mod = _VM_PASSES(mod)
        builder = relax.ExecBuilder()
        leftover = relax.vm_build._vmcodegen(builder, mod)
        kernels = relax.vm_build._filter_tir(leftover)
        with clock.stage("kernels to LLVM"):
            library = tirx.build(kernels, chosen, pipeline="default") if kernels else None
        executable = relax.vm_build._vmlink(builder, chosen)
    with tempfile.TemporaryDirectory(prefix="qpc-") as folder:
        bytecode_file, object_file = Path(folder, "model.vm"), Path(folder, "kernels.o")
        executable.mod.write_to_file(str(bytecode_file))
        with clock.stage("LLVM to machine code"):
            if library is not None:
                library.write_to_file(str(object_file))
        with clock.stage("link"):
            linked = link_shared(object_file.read_bytes(), "qpc_kernels.so") if library else b""
        return Code(bytecode_file.read_bytes(), linked)


# Reshapes stay what they are, views of the same memory: as kernels they would copy.
_LEGALIZE = relax.transform.LegalizeOps(skip_ops=["relax.reshape"])

_FLOAT_PASSES = tvm.transform.Sequential(
    [
        _LEGALIZE,
        relax.transform.AnnotateTIROpPattern(),
        relax.transform.FoldConstant(),
        relax.transform.FuseOps(),
        relax.transform.FuseTIR(),
        relax.transform.DeadCodeElimination(),
    ]
)

_VM_PASSES = tvm.transform.Sequential(
    [
        relax.backend.DispatchSampling(),
        relax.backend.DispatchSortScan(),
        _LEGALIZE,
        relax.transform.ToNonDataflow(),
        relax.transform.RemovePurityChecking(),
        relax.transform.CallTIRRewrite(),
        relax.transform.StaticPlanBlockMemory(),
        relax.transform.LowerAllocTensor(),
        relax.transform.KillAfterLastUse(),
        relax.transform.LowerRuntimeBuiltin(),
        relax.transform.ComputePrimValue(),
        relax.transform.VMShapeLower(),
        relax.transform.AttachGlobalSymbol(),
    ]
)
