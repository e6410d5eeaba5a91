"""What the tests of the TVM backend have in common."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch.fx import GraphModule
from torch.utils._pytree import tree_leaves

from qpc.backends import reference, tvm
from qpc.targets import Target
from tests.generators import random_inputs

if TYPE_CHECKING:
    from qpc.backends.tvm.runtime.model import CompiledModel


def assert_same_bits(
    gm: GraphModule,
    target: Target | str = "native",
    *,
    batch_sizes: Sequence[int] = (1,),
    threads: int = 1,
    seed: int = 0,
) -> CompiledModel:
    """Compile a graph, compare it with the reference backend, and return the compiled model."""
    compiled = tvm.compile_graph(gm, target, batch_sizes=batch_sizes, threads=threads)
    expected = reference.compile_graph(gm, batch_sizes=batch_sizes)
    for batch in batch_sizes:
        inputs = random_inputs(gm, batch, seed)
        results, wanted = tree_leaves(compiled(*inputs)), tree_leaves(expected(*inputs))
        for i, (got, right) in enumerate(zip(results, wanted, strict=True)):
            assert got.shape == right.shape, f"output {i}"
            assert got.dtype == right.dtype, f"output {i}"
            differing = int((got != right).sum())
            assert torch.equal(got, right), (
                f"output {i}: {differing} values of {got.numel()} differ"
            )
    return compiled


def kernels(compiled: CompiledModel) -> list[str]:
    """The operations of our kernels that a compiled model calls, in order, with data movement."""
    steps = next(iter(compiled._parts.code.entries.values())).steps
    return [s[1] for step in steps if (s := re.fullmatch(r"qpc_(\w+)_[0-9a-f]{12}", step.kernel))]
