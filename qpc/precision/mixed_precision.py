"""`qpc.mixed_precision`: the bits of each part of a model under a budget."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch.fx import GraphModule

from qpc.batches import Batch
from qpc.errors import ConfigError
from qpc.facts import require_graph
from qpc.hashing import fingerprint
from qpc.modes import ordinary_torch
from qpc.parallel.work import Executor
from qpc.precision.budget import BitBudget, Costs, costs_of
from qpc.precision.experiments import Inputs
from qpc.precision.partial_runs import NoiseSums, tensors_of
from qpc.precision.parts import Part, PartKind, configuration
from qpc.precision.program import choose
from qpc.precision.result import Sensitivity, sqnr_db
from qpc.precision.sensitivity import Prepared, gathered, prepare_parts, sensitivity
from qpc.quant.config import QuantConfig
from qpc.recipes import post_training_quantization
from qpc.settings import require_kind


@dataclass(frozen=True)
class Assignment:
    """The bits of one part of a model, and the noise that they add to the output."""

    kind: PartKind
    name: str
    bits: int
    noise: float


@dataclass(frozen=True)
class MixedPrecision:
    """Bits by part, and what they cost and do.

    config: what to give to `qpc.quantize` or `qpc.prepare_qat`.
    weight_bytes, bit_operations: what `BitBudget` counts; the limits are inf where there is none.
    predicted_db: SQNR of the outputs if the noise of all parts adds up; measured_db: that of the
    model that was rounded by `config`, on the same batches.
    """

    config: QuantConfig
    assignments: tuple[Assignment, ...]
    weight_bytes: int
    weight_bytes_limit: float
    bit_operations: int
    bit_operations_limit: float
    predicted_db: float
    measured_db: float

    def __str__(self) -> str:
        width = max(len(a.name) for a in self.assignments)
        lines = [f"{'part':<{width}}  {'of':<11}  bits  SQNR in dB"]
        lines += [
            f"{a.name:<{width}}  {a.kind:<11}  {a.bits:>4}  {sqnr_db(a.noise):>10.1f}"
            for a in self.assignments
        ]
        bytes_of = _of_limit(self.weight_bytes, self.weight_bytes_limit)
        operations = _of_limit(self.bit_operations, self.bit_operations_limit)
        lines.append(f"weights: {bytes_of} bytes; bit operations: {operations}")
        lines.append(
            f"SQNR predicted: {self.predicted_db:.1f} dB, measured: {self.measured_db:.1f}"
        )
        return "\n".join(lines)


@ordinary_torch()
def mixed_precision(
    gm: GraphModule,
    batches: Iterable[Batch],
    *,
    budget: BitBudget,
    known: Sensitivity | None = None,
    bits: Sequence[int] = (8, 6, 4),
    config: QuantConfig | None = None,
    folder: str | os.PathLike[str] | None = None,
    workers: int = 1,
    executor: Executor | None = None,
    progress: bool = False,
) -> MixedPrecision:
    """Bits by layer for a traced float graph, for the least noise of the output within a budget.

    The noise that each part adds alone, as `qpc.sensitivity` measures it, is taken to add up. What
    follows is an integer program (as in HAWQ-V3, Yao et al. 2021, arXiv:2011.10680, with measured
    noise in place of curvature), which is solved exactly. Weights and values get bits of their own;
    values that share a grid get the same.

    batches: as `qpc.sensitivity` takes them.
    budget: such as `BitBudget(weight_bytes="60%")`.
    known: a sensitivity of this graph that is there already; must have been measured with `bits`.
    bits: what may be chosen. config: observers and the like, and what stays in float.
    folder, workers, executor, progress: as for `qpc.sensitivity`, which is run if it is not known.

    Raises ConfigError for a budget that cannot be met, with the least that can, and for a `known`
    of another graph or other bits; MissingDependencyError without SciPy; and what `qpc.sensitivity`
    raises.
    """
    require_graph(gm, "mixed_precision")
    require_kind("budget", budget, BitBudget, "a BitBudget", fix='BitBudget(weight_bytes="60%")')
    if known is not None:
        require_kind("known", known, Sensitivity, "what qpc.sensitivity returns")
        _require_same_graph(gm, known)
    config = config or QuantConfig()
    require_kind("config", config, QuantConfig, "a QuantConfig")
    inputs = gathered(gm, batches)
    prepared = prepare_parts(gm, inputs, config, progress=progress)
    costs = costs_of(prepared.tidy, prepared.plan, prepared.parts)
    if known is None:
        known = sensitivity(
            gm,
            inputs,
            bits=bits,
            fewer_channels=(),
            config=config,
            folder=folder,
            workers=workers,
            executor=executor,
            progress=progress,
        )
    noise = {(part, n): _noise(known, part, n) for part in prepared.parts for n in bits}
    chosen = choose(noise, costs, costs.limits(budget))
    return _account(gm, inputs, prepared, config, costs, costs.limits(budget), chosen, noise)


def _account(
    gm: GraphModule,
    inputs: Inputs,
    prepared: Prepared,
    config: QuantConfig,
    costs: Costs,
    limits: tuple[float, float],
    chosen: dict[Part, int],
    noise: dict[tuple[Part, int], float],
) -> MixedPrecision:
    made = configuration(config, prepared.plan, chosen)
    assignments = [Assignment(p.kind, p.name, n, noise[p, n]) for p, n in chosen.items()]
    return MixedPrecision(
        made,
        tuple(assignments),
        costs.weight_bytes(chosen),
        limits[0],
        costs.bit_operations(chosen),
        limits[1],
        sqnr_db(sum(a.noise for a in assignments)),
        sqnr_db(_measured(gm, inputs, made)),
    )


def _measured(gm: GraphModule, inputs: Inputs, config: QuantConfig) -> float:
    """The noise of the outputs of the whole model, quantized, in float with rounded values."""
    rounded = post_training_quantization(inputs, config).run(gm)
    sums = NoiseSums()
    with torch.no_grad():
        for each in inputs:
            sums.add(tensors_of(gm(*each)), tensors_of(rounded(*each)))
    return sums.ratio()


def _noise(known: Sensitivity, part: Part, bits: int) -> float:
    effect = known.of(part.kind, part.name, bits)
    if effect is None:
        raise ConfigError(
            f"the sensitivity that is known says nothing of the {part} at {bits} bits",
            fix="measure it with the same bits and config: qpc.sensitivity(gm, batches, bits=...)",
        )
    return effect.noise


def _require_same_graph(gm: GraphModule, known: Sensitivity) -> None:
    if known.graph != fingerprint(gm):
        raise ConfigError(
            "the sensitivity that is known is that of another graph",
            fix="measure it anew: qpc.sensitivity(gm, batches)",
        )


def _of_limit(value: int, limit: float) -> str:
    return f"{value:,}" if limit == float("inf") else f"{value:,} of {limit:,.0f}"
