"""How much faster pruned int8 models are, for how many multiplications less.

Every network is pruned twice to the same share of its multiplications, with the numbers of channels
of the rule alone and with those that pay, quantized and compiled. All models of a network are timed
in turns, so that what else the machine does meets all of them, and the best round counts. For
targets that this machine cannot run there is the estimate of the compiler's cost model.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.fx import GraphModule

import qpc
from benchmarks.networks import NETWORKS
from qpc.assets import load_demo_images, load_demo_model
from qpc.backends.tvm.runtime.model import CompiledModel
from qpc.channels.cost import cost
from qpc.passes import ReestimateBatchNorm
from qpc.pruning.allocation import Allocation, Global, Uniform
from qpc.pruning.magnitude import L1

RULES: dict[str, Callable[..., Allocation]] = {"global": Global, "uniform": Uniform}
DEMO = "demo"
ROUNDS = 9  # of all models of a network


@dataclass(frozen=True)
class Variant:
    """A pruned model. counts: "rule" or "paying"; top1: in per cent, after new batch norms."""

    amount: float
    counts: str
    gm: GraphModule
    macs: int
    top1: float | None


def dense(network: str) -> tuple[GraphModule, list[Tensor]]:
    """The traced network and batches to calibrate it on."""
    if network == DEMO:
        demo = load_demo_images()
        return qpc.trace(load_demo_model()[0], demo.test[:1]), [*demo.calibration.split(64)]
    images = NETWORKS[network].images()
    return NETWORKS[network].prepare(images), [images]


@dataclass(frozen=True)
class Options:
    """What is measured: see `main`."""

    network: str
    rule: str
    amounts: tuple[float, ...]
    target: str
    accuracy: bool


def top1(gm: GraphModule, batches: list[Tensor]) -> float:
    """Of the demo, on all images of the package, with batch norms measured anew."""
    images = load_demo_images()
    repaired = qpc.Pipeline((ReestimateBatchNorm(batches),)).run(gm)
    with torch.no_grad():
        hits = repaired(images.test).argmax(1) == images.labels
    return 100 * float(hits.float().mean())


def variants(options: Options, gm: GraphModule, batches: list[Tensor]) -> Iterator[Variant]:
    """The model itself, and all that it is pruned to."""

    def variant(amount: float, counts: str, made: GraphModule) -> Variant:
        right = top1(made, batches) if options.accuracy and options.network == DEMO else None
        return Variant(amount, counts, made, cost(made).macs, right)

    yield variant(0, "dense", gm)
    for amount in options.amounts:
        for counts, target in (("rule", None), ("paying", options.target)):
            rule = RULES[options.rule](amount, of="macs", target=target)
            yield variant(amount, counts, qpc.prune(gm, L1(), rule))


def best_times(compiled: Sequence[CompiledModel]) -> list[float]:
    """Milliseconds of each model, of its best round."""
    times = [float("inf")] * len(compiled)
    for _ in range(ROUNDS):
        for i, each in enumerate(compiled):
            times[i] = min(times[i], each.benchmark(repeats=20).p10_ms)
    return times


def measure(options: Options) -> Iterator[str]:
    """A line for each model."""
    gm, batches = dense(options.network)
    models = list(variants(options, gm, batches))
    target = qpc.Target.parse(options.target)
    compiled = [qpc.compile(qpc.quantize(each.gm, batches[:1]), target) for each in models]
    estimates = [sum(step.time for step in c.plan.functions[1].steps) for c in compiled]
    runs = target.runs_here() is None
    times = best_times(compiled) if runs else estimates
    for each, time, estimate in zip(models, times, estimates, strict=True):
        fewer, faster = models[0].macs / each.macs, times[0] / time
        right = "" if each.top1 is None else f"{each.top1:6.2f} %"
        shown = f"{time:9.3f} ms" if runs else " " * 12
        yield (
            f"{options.network:12} {options.rule:7} {each.amount:4.0%} {each.counts:6} {shown} "
            f"{fewer:5.2f} {faster:6.2f} {faster / fewer:5.2f} {estimates[0] / estimate:9.2f} "
            f"{right}"
        )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--network", choices=(DEMO, *NETWORKS), default=DEMO)
    parser.add_argument("--rule", choices=tuple(RULES), default="global")
    parser.add_argument("--amounts", type=float, nargs="+", default=[0.3, 0.5, 0.75])
    parser.add_argument("--target", default="native")
    parser.add_argument("--accuracy", action="store_true", help="of the demo network, too")
    given = parser.parse_args()
    options = Options(given.network, given.rule, tuple(given.amounts), given.target, given.accuracy)
    torch.manual_seed(0)
    print(
        f"{'network':12} {'rule':7} {'MACs':>4} {'counts':6} {'time':>12} {'fewer':>5} "
        f"{'faster':>6} {'ratio':>5} {'estimated':>9} top-1"
    )
    for line in measure(options):
        print(line, flush=True)


if __name__ == "__main__":
    main()
