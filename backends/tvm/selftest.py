"""Compile and run the smallest kernel, to see whether the installed TVM works.

Run as `python -m qpc.backends.tvm.selftest`, in a process of its own: where the packages do not fit
together, it crashes rather than raises.
"""

from __future__ import annotations

import sys

import numpy as np
import tvm
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T


def main() -> None:
    """Exit with code 0 and one line on standard output if TVM works."""
    with IRBuilder() as builder, T.prim_func(s_tir=True):
        T.func_name("widen")
        narrow = T.arg("narrow", T.buffer((16,), "uint8"))
        wide = T.arg("wide", T.buffer((16,), "int32"))
        with T.serial(0, 16) as index:
            T.buffer_store(wide, T.Cast("int32", narrow[index]) - 128, [index])
    library = tvm.compile(
        tvm.IRModule({"widen": builder.get()}), target=tvm.target.Target({"kind": "llvm"})
    )
    values = np.arange(120, 136, dtype=np.uint8)
    result = tvm.runtime.tensor(np.zeros(16, np.int32))
    library["widen"](tvm.runtime.tensor(values), result)
    if not np.array_equal(result.numpy(), values.astype(np.int32) - 128):
        sys.exit(f"a compiled kernel returned wrong numbers: {result.numpy().tolist()}")
    llvm = tvm.target.codegen.llvm_version_major()
    sys.stdout.write(f"TVM {tvm.__version__} with LLVM {llvm} compiled and ran a kernel\n")


if __name__ == "__main__":
    main()
