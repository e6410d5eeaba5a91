"""What training has moved becomes legal grids again."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from qpc.base import Pass
from qpc.errors import PassError
from qpc.meta import attribute, info
from qpc.passes import FreezeGrids, LearnGrids
from qpc.passes.freeze_grids import grids_are_frozen
from qpc.pipeline import Pipeline
from qpc.quant.fixedpoint import BIAS_LIMIT
from qpc.testing import check_pass
from tests.quantizing import converted, fake_quantized

X = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
INPUT, OUTPUT, WEIGHT = "quantizers.input_1", "quantizers.linear", "quantizers.linear_weight"


def learning() -> GraphModule:
    gm = fake_quantized(nn.Linear(3, 2), X)
    return run(LearnGrids(zero_points=True), gm)


def run(pass_: Pass, gm: GraphModule) -> GraphModule:
    return Pipeline((pass_,), pass_.requires).run(gm)


def tensor(gm: GraphModule, name: str) -> Tensor:
    return attribute(gm, name).detach()


def test_grids_that_nobody_moved_stay_and_become_buffers() -> None:
    gm = learning()
    assert not grids_are_frozen(gm)
    frozen = check_pass(FreezeGrids(), gm, X, exact=True)
    assert grids_are_frozen(frozen)
    assert not [name for name, _ in frozen.named_parameters() if name.startswith("quantizers")]


def test_what_was_learned_is_what_conversion_reads() -> None:
    gm = learning()
    tensor(gm, f"{INPUT}.scale").mul_(1.5)
    tensor(gm, f"{INPUT}.zero_point").add_(3.4)
    before = int(tensor(gm, f"{INPUT}.zero_point").round())
    frozen = check_pass(FreezeGrids(), gm, X)
    noted = [q for n in frozen.graph.nodes if n.op == "placeholder" and (q := info(n).qparams)]
    assert [q.scale for q in noted] == tensor(frozen, f"{INPUT}.scale").tolist()
    assert [q.zero_point for q in noted] == [before]


def test_values_outside_of_what_a_grid_may_be_are_brought_back() -> None:
    gm = learning()
    tensor(gm, f"{OUTPUT}.zero_point").fill_(300.0)
    tensor(gm, f"{OUTPUT}.scale").neg_()
    tensor(gm, f"{WEIGHT}.scale").fill_(0.0)
    frozen = check_pass(FreezeGrids(), gm, X)
    assert tensor(frozen, f"{OUTPUT}.zero_point").tolist() == [255]
    assert tensor(frozen, f"{OUTPUT}.scale")[0] > 0
    assert (tensor(frozen, f"{WEIGHT}.scale") > 0).all()


def test_scales_of_weights_are_raised_where_a_bias_would_not_fit() -> None:
    gm = learning()
    tensor(gm, "bias").fill_(1e6)
    frozen = run(FreezeGrids(), gm)
    products = tensor(frozen, f"{INPUT}.scale") * tensor(frozen, f"{WEIGHT}.scale")
    assert (tensor(frozen, "bias") / products.double() <= BIAS_LIMIT).all()


def test_a_grid_that_is_no_number_is_refused_with_its_layer() -> None:
    gm = learning()
    tensor(gm, f"{WEIGHT}.scale").fill_(torch.nan)
    with pytest.raises(
        PassError, match=f"training has left '{WEIGHT}.scale', a scale of"
    ) as caught:
        run(FreezeGrids(), gm)
    assert caught.value.fix == "train from the last good checkpoint, with a smaller learning rate"


def test_conversion_refuses_grids_that_are_not_frozen() -> None:
    with pytest.raises(PassError, match="training has moved the grids") as caught:
        converted(learning())
    assert caught.value.fix == "call qpc.convert(gm), or run qpc.passes.FreezeGrids before"
