from __future__ import annotations

from typing import Any

import pytest
import torch

from qpc.meta import info


def found(made: Any, of: str, module: str) -> Any:
    node = next(row.node for row in made.report.layers if row.module == module and row.macs)
    return next(h for h in made.report.histograms if h.of == of and h.node == node)


def test_every_weight_is_counted_between_the_ends_of_its_grid(made: Any) -> None:
    weight = dict(made.reference.named_parameters())["first.weight"]
    histogram = found(made, "weights", "first")
    assert sum(histogram.counts) == weight.numel()
    widest = float(weight.detach().abs().max())
    assert histogram.clips[-1] == pytest.approx(widest, rel=0.02)
    narrowest = float(weight.detach().abs().amax((1, 2, 3)).min())
    assert histogram.clips[-2] == pytest.approx(narrowest, rel=0.02)


def test_activations_are_those_of_the_float_graph(made: Any) -> None:
    histogram = found(made, "activations", "first")
    assert sum(histogram.counts) == 4 * 8 * 8 * 8
    node = next(n for n in made.integer.graph.nodes if n.name == histogram.node)
    grid = info(node).qparams
    assert grid is not None
    assert histogram.clips == grid.real_range
    with torch.no_grad():
        module = dict(made.reference.named_parameters())
        x = torch.conv2d(made.batch, module["first.weight"], module["first.bias"], padding=1)
        x = torch.relu(x)
    assert histogram.counts[0] >= int((x == 0).sum())
    beyond = float((x > grid.real_range[1] + grid.scale / 2).float().mean())
    assert histogram.outside == pytest.approx(beyond)
