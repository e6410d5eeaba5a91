"""From a graph to what is deployed of it: object files or C, and all that is known of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch.fx import GraphModule

from qpc.backends.deploy.deployable import Case, Deployable
from qpc.backends.deploy.vectors import input_ports, output_ports, tensor_array
from qpc.backends.options import CompileOptions
from qpc.backends.tvm.compile import compile_pieces
from qpc.errors import UnsupportedTargetError
from qpc.targets import Target
from qpc.targets.data import C_SOURCE

_IN_C = {"mve.fp": "mve", "dsp": "dsp"}
"""By feature, the instructions that code in C uses, the best first."""


@dataclass(frozen=True)
class Compiled:
    """A deployable, and its code.

    code: object files of its kernels, or the kernels in C.
    """

    model: Deployable
    code: tuple[bytes, ...]


def in_c(target: Target) -> Target:
    """The target whose kernels are scalar code in C, where there is nothing to fetch ahead with."""
    costs = replace(target.costs, vectors=replace(target.costs.vectors, fetched_passes=0))
    plain = "soft-float" if target.abi == "soft" else "generic"
    isa = next((isa for feature, isa in _IN_C.items() if feature in target.features), plain)
    # The type of activations within the graph is no business of those who call it.
    activation = "int8" if isa == "mve" else target.activation
    return replace(
        target,
        isa=isa,
        activation=activation,
        vector_lanes=1,
        object_format=C_SOURCE,
        costs=costs,
    )


def compile_deployable(
    gm: GraphModule,
    target: Target,
    name: str,
    options: CompileOptions,
    cases: Sequence[Case],
    *,
    c: bool = False,
) -> Compiled:
    """A core-form graph as object files, or as kernels in C, for the one batch size of the options.

    Raises UnsupportedTargetError for targets whose code has to ask the operating system first.
    """
    if not c:
        _check_permissions(target)
    (batch,) = options.batch_sizes
    pieces, program = compile_pieces(gm, in_c(target) if c else target, options)
    entry = pieces.entries[batch]
    (plan,) = [p for p in pieces.plans if p.batch == batch and not p.timed]
    tensors = program.weights.tensors
    model = Deployable(
        name=name,
        target=target,
        entry=plan,
        inputs=input_ports(gm, batch),
        outputs=output_ports(gm, entry.outputs, cases),
        weights={weight: tensor_array(tensors[weight]) for weight in sorted(set(entry.weights))},
        weight_names=entry.weights,
        steps=entry.steps,
        cases=tuple(cases),
        threads=options.threads,
        notes=tuple(
            f"in float: {use.operator} {use.node}: {use.reason}" for use in program.emit.other_uses
        ),
    )
    return Compiled(model, pieces.kernels)


def _check_permissions(target: Target) -> None:
    for permission in target.architecture.permissions:
        if permission.feature in target.features:
            raise UnsupportedTargetError(
                f"code for {target.name!r} must ask the operating system for {permission.feature}, "
                "which an exported library does not do",
                fix="choose a target without it: `qpc targets` lists them",
            )
