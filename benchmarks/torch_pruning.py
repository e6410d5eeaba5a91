"""Prune the same models by the same share with QPC and with Torch-Pruning, side by side.

    python -m benchmarks.torch_pruning resnet18 shufflenet_v2_x1_0 swin_t

Both remove 30 % of the channels of every group by L1 norm. For each model the table says whether
the pruned model runs, which share of the parameters is left, how long pruning took (tracing
included), and how far the pruned model is from the dense one with the removed channels set to zero.
For Torch-Pruning that comparison zeroes the parameters of the channels that its own dependency
groups name, which says nothing where a layer norm follows; there the column is empty.
Needs torchvision and torch-pruning.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import qpc
from benchmarks.real_models import torchvision_models
from qpc.pruning.allocation import Uniform
from qpc.pruning.magnitude import L1
from tests.pruning_oracle import masked_output

RATIO = 0.3


@dataclass(frozen=True)
class Result:
    """What one tool did to one model; error: the first line of its failure."""

    model: str
    tool: str
    seconds: float
    parameters_left: float
    difference: float | None
    error: str = ""


def build(name: str) -> tuple[nn.Module, Tensor]:
    """A torchvision classifier with random weights that make every channel matter."""
    torch.manual_seed(0)
    model: nn.Module = torchvision_models().get_model(name, weights=None).eval()
    for parameter in model.parameters():
        if parameter.dim() == 1:
            nn.init.normal_(parameter, 0.5, 0.2)
    size = 299 if name == "inception_v3" else 224
    return model, torch.randn(1, 3, size, size)


def with_qpc(name: str) -> Result:
    """Prune with QPC and compare with the masked dense graph."""
    from qpc.channels.groups import analyze_channels
    from qpc.channels.masks import masked_atoms
    from qpc.passes import CreateMasks, PropagateMasks, RemoveChannels

    model, x = build(name)
    start = time.perf_counter()
    gm = qpc.trace(model, x, check=False)
    masked = qpc.Pipeline((CreateMasks(L1(), Uniform(RATIO)), PropagateMasks())).run(gm)
    pruned = copy.deepcopy(masked)
    RemoveChannels().apply(pruned, qpc.PassContext())
    pruned.recompile()
    seconds = time.perf_counter() - start
    analysis = analyze_channels(masked)
    expected = masked_output(masked, analysis, masked_atoms(masked, analysis), [x])
    with torch.no_grad():
        difference = _difference(pruned(x), expected)
    return Result(name, "QPC", seconds, _count(pruned) / _count(gm), difference)


def with_torch_pruning(name: str) -> Result:
    """Prune with Torch-Pruning and compare with the dense model whose parameters are zeroed."""
    import torch_pruning as tp

    model, x = build(name)
    dense = copy.deepcopy(model)
    whole = _count(model)
    start = time.perf_counter()
    linears = [m for m in model.modules() if isinstance(m, nn.Linear)]
    pruner = tp.pruner.MagnitudePruner(
        model,
        x,
        importance=tp.importance.MagnitudeImportance(p=1),
        pruning_ratio=RATIO,
        ignored_layers=[m for m in linears if m.out_features == 1000],
    )
    pruner.step()
    seconds = time.perf_counter() - start
    with torch.no_grad():
        output = model(x)
    normed = any(isinstance(m, nn.LayerNorm | nn.GroupNorm) for m in dense.modules())
    difference = None if normed else _difference(output, _zeroed(tp, dense, pruner, x))
    return Result(name, "Torch-Pruning", seconds, _count(model) / whole, difference)


def _zeroed(tp: Any, dense: nn.Module, pruner: Any, x: Tensor) -> Tensor:
    """The dense model with the parameters of all removed channels set to zero."""
    graph = tp.DependencyGraph().build_dependency(dense, x)
    modules = dict(dense.named_modules())
    with torch.no_grad():
        for name, is_output, indices in pruner.pruning_history():
            layer = modules[name]
            prune = graph.get_pruner_of_module(layer)
            function = prune.prune_out_channels if is_output else prune.prune_in_channels
            for dependency, places in graph.get_pruning_group(layer, function, indices):
                target = dependency.target.module
                consumes = dependency.handler.__name__ == "prune_in_channels"
                if consumes or not isinstance(target, nn.Module):
                    continue
                for parameter in target.parameters(recurse=False):
                    if len(parameter) > max(places):
                        parameter[places] = 0
        result: Tensor = dense(x)
    return result


def _difference(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max() / b.abs().max())


def _count(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def measure(name: str) -> list[Result]:
    """Both tools on one model; a failure is a result too."""
    results = []
    for tool, run in (("QPC", with_qpc), ("Torch-Pruning", with_torch_pruning)):
        try:
            results.append(run(name))
        except Exception as e:  # what another tool raises is what is measured
            text = f"{type(e).__name__}: {e}".splitlines()[0]
            results.append(Result(name, tool, 0.0, 1.0, None, text))
    return results


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table; write JSON if asked to."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("models", nargs="+")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    results = []
    for name in options.models:
        for row in measure(name):
            results.append(row)
            shown = "" if row.difference is None else f"{row.difference:.1e}"
            print(
                f"{row.model:20} {row.tool:14} {row.seconds:6.1f} s  "
                f"{row.parameters_left:6.1%} left  difference {shown:8} {row.error}",
                flush=True,
            )
    if options.json is not None:
        options.json.write_text(json.dumps([asdict(r) for r in results], indent=1) + "\n")


if __name__ == "__main__":
    main()
