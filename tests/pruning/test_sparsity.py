from __future__ import annotations

import torch
from torch import nn

from qpc.passes import ConvertToInteger
from qpc.pipeline import Pipeline
from qpc.pruning.sparsity import LayerSparsity, SparsityReport, sparsity_report
from qpc.pruning.weight_masks import add_weight_mask
from qpc.testing import randomized, traced
from tests.quantizing import fake_quantized

X = torch.randn(2, 4)


def test_counts_zeros_and_masked_weights_by_layer_and_in_total() -> None:
    gm = traced(randomized(nn.Sequential(nn.Linear(4, 2), nn.ReLU(), nn.Linear(2, 3))), X)
    with torch.no_grad():
        gm.get_parameter("2.weight")[0, 0] = 0
    add_weight_mask(gm, "0.weight", torch.eye(2, 4, dtype=torch.bool))
    report = sparsity_report(gm)
    assert report.layers == (
        LayerSparsity("0.weight", "linear", (2, 4), 8, 6, 6),
        LayerSparsity("2.weight", "linear", (3, 2), 6, 1, 0),
    )
    assert report.total == LayerSparsity("total", "", (), 14, 7, 6)
    assert report.total.sparsity == 0.5
    assert str(report).splitlines() == [
        "weight    op      shape  weights  zeros  masked  sparsity",
        "0.weight  linear  2x4          8      6       6     75.0%",
        "2.weight  linear  3x2          6      1       0     16.7%",
        "total                         14      7       6     50.0%",
    ]


def test_counts_integer_weights_too() -> None:
    fake = fake_quantized(nn.Sequential(nn.Linear(4, 2)), X)
    with torch.no_grad():
        fake.get_parameter("0.weight")[0] = 0
    gm = Pipeline((ConvertToInteger(),), ConvertToInteger.requires).run(fake)
    assert sparsity_report(gm).layers == (LayerSparsity("0.weight", "linear", (2, 4), 8, 4, 0),)


def test_a_graph_without_layers_is_not_sparse() -> None:
    assert SparsityReport(()).total.sparsity == 0.0
