"""Random networks through the whole product: every stage agrees with the one before, or refuses."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.fx import GraphModule
from torch.utils import _pytree as pytree

import qpc
from qpc.base import PassContext
from qpc.calls import aten
from qpc.capture.trace import batch_is_dynamic, trace
from qpc.channels.groups import analyze_channels
from qpc.channels.masks import masked_atoms
from qpc.facts import CORE_FORM
from qpc.masks import MASKED
from qpc.meta import info, update_info
from qpc.passes.create_masks import CreateMasks
from qpc.passes.propagate_masks import PropagateMasks
from qpc.passes.remove_channels import RemoveChannels
from qpc.pipeline import Pipeline
from qpc.pruning import activations, allocation, gradients, magnitude
from qpc.pruning.criteria import Criterion
from qpc.quant.config import QuantConfig
from qpc.targets import Target
from tests.pruning.running import CHOICES, TOLERANCE, mark, wrong_shapes
from tests.pruning_oracle import masked_output, worst_error
from tests.quantizing import min_max
from tests.robustness.outcome import DifferenceError, may_refuse
from tests.robustness.segments import (
    BOUND,
    check_pieces,
    check_same,
    largest,
    with_steps_as_outputs,
)
from tests.robustness.writer import RandomModule
from tests.sharing import sharing_freely

_TARGETS = ("native", "native", "x86-64", "x86-64-sse4", "x86-64-avx2")


@dataclass(frozen=True)
class Traced:
    """A random network, its graph, and inputs for both."""

    model: Callable[..., object]
    gm: GraphModule
    inputs: Callable[[int, int], tuple[Tensor, ...]]
    batch: int  # of the example inputs
    batches: tuple[int, ...]  # sizes that the graph takes


def check_compiled(module: RandomModule) -> None:
    """Trace, quantize (most of them), compile; raise DifferenceError where a stage does not agree.

    Configuration, target, threads and batch sizes follow from the seed.
    """
    choose = random.Random(module.seed)
    net = _traced(module, choose.choice((1, 2, 3)), choose)
    gm = net.gm
    if choose.random() < 0.8:
        config = _config(choose)
        batches = [net.inputs(net.batch, seed) for seed in (0, 1)]
        with may_refuse("quantize"):
            gm = qpc.quantize(net.gm, batches, config)
    gm = with_steps_as_outputs(gm)
    name, threads = choose.choice(_TARGETS), choose.choice((1, 2))
    target = Target.parse(name)
    if choose.random() < 0.7:  # or nothing would be large enough to share
        target = sharing_freely(target)
    with may_refuse("compile"):
        compiled = qpc.compile(gm, target, batch_sizes=net.batches, threads=threads)
    for kind, inputs in _kinds_of_inputs(net, 2):
        what = f"{name}, {threads} threads, {kind}"
        check_pieces(gm, compiled(*_copied(inputs)), inputs, what=what)


def check_pruned(module: RandomModule) -> None:
    """Trace, prune at random, quantize; raise DifferenceError unless removed equals masked."""
    choose = random.Random(module.seed)
    net = _traced(module, 1, choose)
    ctx = PassContext()
    with may_refuse("prune"):
        masked = _masked(net, choose, ctx)
        analysis = analyze_channels(net.gm)
        pruned = Pipeline((RemoveChannels(),), RemoveChannels.requires).run(masked, ctx)
    gone = masked_atoms(masked, analysis)
    sample = net.inputs(1, 2)
    expected = masked_output(net.gm, analysis, gone, _copied(sample))
    with torch.no_grad():
        got = pruned(*_copied(sample))
    if _error(expected, got) > TOLERANCE:
        _check_in_double(net, pruned, gone)
    if shapes := wrong_shapes(pruned):
        raise DifferenceError(f"after pruning, shapes are not what they are said to be: {shapes}")
    for batch in net.batches:
        with torch.no_grad():
            pruned(*net.inputs(batch, 3))
    with may_refuse("quantize after pruning"):
        qpc.quantize(pruned, [net.inputs(net.batch, 0)], min_max())


def _traced(module: RandomModule, batch: int, choose: random.Random) -> Traced:
    model, inputs = module.build()
    with may_refuse("trace"):
        gm = trace(model, inputs(batch, 0))
    sizes = (1 + choose.randrange(4), 5) if batch_is_dynamic(gm) else (batch,)
    net = Traced(model, gm, inputs, batch, tuple(dict.fromkeys(sizes)))
    for kind, given in _kinds_of_inputs(net, 1):
        with torch.no_grad():
            expected = pytree.tree_leaves(model(*_copied(given)))
            got = pytree.tree_leaves(gm(*_copied(given)))
        for i, (ours, theirs) in enumerate(zip(got, expected, strict=True)):
            if isinstance(theirs, Tensor):
                slack = BOUND * largest(theirs)
                check_same(ours, theirs, slack, f"the traced graph, {kind}, output {i}")
    return net


def _kinds_of_inputs(net: Traced, seed: int) -> Iterator[tuple[str, tuple[Tensor, ...]]]:
    """Inputs as they are, far outside what was seen, and with values that are no numbers."""
    for change, what in (
        (_same, "ordinary inputs"),
        (_large, "large inputs"),
        (_spoilt, "no numbers"),
    ):
        for batch in net.batches:
            yield f"batch {batch}, {what}", tuple(map(change, net.inputs(batch, seed)))


def _same(x: Tensor) -> Tensor:
    return x


def _large(x: Tensor) -> Tensor:
    return x * 100 if x.is_floating_point() else x


def _spoilt(x: Tensor) -> Tensor:
    """With a few NaN and infinities."""
    if not x.is_floating_point():
        return x
    place = torch.rand(x.shape, generator=torch.Generator().manual_seed(x.numel()))
    numbers = [(0.02, torch.nan), (0.03, torch.inf), (0.04, -torch.inf)]
    for limit, value in reversed(numbers):
        x = x.masked_fill(place < limit, value)
    return x


def _config(choose: random.Random) -> QuantConfig | None:
    if choose.random() < 0.2:
        return None
    return min_max(
        bits=choose.choice((8, 8, 8, 4)),
        weight_bits=choose.choice((8, 8, 4, 3)),
        symmetric=choose.random() < 0.2,
        per_channel=choose.random() < 0.8,
    )


def _masked(net: Traced, choose: random.Random, ctx: PassContext) -> GraphModule:
    """The graph with masks that are propagated, made in one of many ways."""
    if choose.random() < 0.5:
        analysis = analyze_channels(net.gm)
        units = CHOICES[choose.choice(list(CHOICES))](analysis, choose.randrange(100))
        if not analysis.axes:
            create = CreateMasks(magnitude.L1(), allocation.Uniform(0.5))  # says why not
            return Pipeline((create, PropagateMasks())).run(net.gm, ctx)
        gm = copy.deepcopy(net.gm)
        mark(gm, analysis, units)
        return Pipeline((PropagateMasks(),), {CORE_FORM, MASKED}).run(gm, ctx)
    create = CreateMasks(_criterion(net, choose), _allocation(choose))
    return Pipeline((create, PropagateMasks())).run(net.gm, ctx)


def _criterion(net: Traced, choose: random.Random) -> Criterion:
    batches = [net.inputs(net.batch, 0)]
    options: list[Callable[[], Criterion]] = [
        magnitude.L1,
        lambda: magnitude.L2(normalize="mean", role="both"),
        magnitude.FPGM,
        magnitude.LAMP,
        magnitude.BatchNormScale,
        lambda: magnitude.Random(choose.randrange(100)),
        lambda: activations.APoZ(batches=batches),
        lambda: activations.MeanActivation(batches=batches),
        lambda: gradients.Taylor(batches=batches, loss=_loss),
    ]
    return choose.choice(options)()


def _loss(output: object, _: object) -> Tensor:
    leaves = [x for x in pytree.tree_leaves(output) if isinstance(x, Tensor)]
    return torch.stack([x.float().square().mean() for x in leaves]).sum()


def _allocation(choose: random.Random) -> allocation.Allocation:
    kind = choose.choice((allocation.Uniform, allocation.Global, allocation.Isomorphic))
    measures: tuple[allocation.Of, ...] = ("units", "units", "channels", "parameters", "macs")
    return kind(
        choose.choice((0.0, 0.1, 0.3, 0.5, 0.9, 1.0)),
        of=choose.choice(measures),
        minimum=choose.choice((1, 1, 2)),
        multiple=choose.choice((1, 1, 2, 4)),
    )


def _check_in_double(net: Traced, pruned: GraphModule, gone: frozenset[int]) -> None:
    """Whether the difference goes away with float64: then it was rounding."""
    dense, small = map(_in_double, (net.gm, pruned))
    sample = tuple(x.double() if x.is_floating_point() else x for x in net.inputs(1, 2))
    expected = masked_output(dense, analyze_channels(dense), gone, _copied(sample))
    with torch.no_grad():
        error = _error(expected, small(*_copied(sample)))
    if error > TOLERANCE:
        raise DifferenceError(f"pruned and masked differ by {error:.1e} of the largest output")


def _in_double(gm: GraphModule) -> GraphModule:
    """The graph with floats of 64 bits: parameters, what is known of values, and what it makes."""
    made = copy.deepcopy(gm).double()
    for node in made.graph.nodes:
        if info(node).dtype is torch.float32:
            update_info(node, dtype=torch.float64)
        if node.op == "call_function":
            node.args, node.kwargs = pytree.tree_map_only(
                torch.dtype, _wider, (node.args, dict(node.kwargs))
            )
            if node.target in _MADE_FROM_NOTHING:
                node.update_kwarg("dtype", node.kwargs.get("dtype") or torch.float64)
    made.recompile()
    return made


_MADE_FROM_NOTHING = (aten.zeros.default, aten.ones.default, aten.full.default)


def _wider(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype is torch.float32 else dtype


def _error(expected: object, got: object) -> float:
    """That of the outputs that are tensors."""
    ours, theirs = (
        [x.double() for x in pytree.tree_leaves(outputs) if isinstance(x, Tensor)]
        for outputs in (expected, got)
    )
    return worst_error(ours, theirs)


def _copied(inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(x.clone() for x in inputs)  # networks may write to what they are given
