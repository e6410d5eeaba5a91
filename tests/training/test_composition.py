"""Masks, removal of channels, rounding, training and files compose, in every order."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.optim import AdamW, Optimizer

import qpc
from qpc.base import PassContext
from qpc.calls import arguments, qpc_ops
from qpc.channels.groups import analyze_channels
from qpc.channels.removal import Removal
from qpc.facts import CORE_FORM, FAKE_QUANTIZED
from qpc.lineage import lineage
from qpc.meta import attribute
from qpc.passes import FreezeGrids, LearnGrids, MaskWeights
from qpc.pruning.allocation import Uniform
from qpc.pruning.granularity import Blocks, Elements
from qpc.pruning.magnitude import L1
from qpc.pruning.weight_masks import WEIGHTS_MASKED, remask, weight_masks
from qpc.pruning.weight_rules import NOfM, Ratio
from qpc.quant.config import QuantConfig
from qpc.testing import randomized
from qpc.training import carry_optimizer
from tests.pruning_oracle import random_units
from tests.quantizing import min_max, output_grid

X = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    """A residual block, a depthwise convolution and a concat."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8)
        self.conv = nn.Conv2d(8, 8, 3, padding=1)
        self.deep = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.head = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.norm(self.stem(x)))
        y = torch.relu(y + self.conv(y))
        result: Tensor = self.head(torch.cat([y, self.deep(y)], 1).mean((2, 3)))
        return result


CONFIGS: dict[str, tuple[QuantConfig, LearnGrids | None]] = {
    "per channel": (min_max(), LearnGrids()),
    "per tensor, zero points": (min_max(per_channel=False), LearnGrids(zero_points=True)),
    "4 bits, zero points": (min_max(bits=4, weight_bits=4), LearnGrids(zero_points=True)),
    "symmetric": (min_max(symmetric=True), LearnGrids()),
    "not learned": (min_max(), None),
}
MASKS: dict[str, MaskWeights] = {
    "elements": MaskWeights(Ratio(0.5), Elements()),
    "2 of 4": MaskWeights(NOfM(2, 4), Elements()),
    "blocks": MaskWeights(Ratio(0.4), Blocks(2, 2)),
}


@cache
def float_graph() -> GraphModule:
    torch.manual_seed(0)
    return qpc.trace(randomized(Net()).eval(), X)


class Compression:
    """A graph with its optimizer, and the steps that may be done to it in any order."""

    def __init__(self, config: str, mask: str) -> None:
        self.gm, self.config, self.mask_pass = float_graph(), CONFIGS[config], MASKS[mask]
        self.optimizer: Optimizer = AdamW(self.gm.parameters(), lr=2e-3)
        self.rounded = False

    def apply(self, step: str) -> None:
        {
            "train": self.train,
            "mask": self.mask,
            "prune": self.prune,
            "round": self.round,
            "file": self.file,
        }[step]()
        facts = {CORE_FORM, WEIGHTS_MASKED, *({FAKE_QUANTIZED} if self.rounded else ())}
        for fact in facts:
            assert fact.violation(self.gm, thorough=True) is None, (step, fact.name)
        trained = {p for group in self.optimizer.param_groups for p in group["params"]}
        assert trained == set(self.gm.parameters())

    def train(self) -> None:
        if self.gm is float_graph():
            self.become(qpc.Pipeline(()).run(self.gm))
        qpc.set_training(self.gm)
        for _ in range(2):
            self.optimizer.zero_grad()
            self.gm(X).square().mean().backward()
            self.optimizer.step()
            remask(self.gm)
        qpc.set_training(self.gm, mode=False)

    def mask(self) -> None:
        self.become(qpc.Pipeline((self.mask_pass,)).run(self.gm))

    def prune(self) -> None:
        self.become(qpc.prune(self.gm, L1(), Uniform(0.3)))

    def round(self) -> None:
        config, learn = self.config
        if not self.rounded:
            self.become(qpc.prepare_qat(self.gm, [X], config, learn=learn))
            self.rounded = True

    def file(self) -> None:
        with TemporaryDirectory() as folder:
            qpc.save_graph(self.gm, Path(folder) / "graph")
            self.become(qpc.load_graph(Path(folder) / "graph"))

    def become(self, gm: GraphModule) -> None:
        lost = {name for name, _ in self.gm.named_parameters()} - set(dict(gm.named_parameters()))
        assert all(name.startswith("norm.") for name in lost)
        carry_optimizer(self.optimizer, self.gm, gm, lost="drop" if lost else "refuse")
        self.gm = gm

    def finish(self) -> GraphModule:
        """The integer graph, which gives what the rounded one gives, with zeros where masks are."""
        self.apply("round")
        frozen = qpc.Pipeline((FreezeGrids(),), frozenset({CORE_FORM, FAKE_QUANTIZED})).run(self.gm)
        integers = qpc.convert(self.gm, PassContext(thorough=True))
        apart = (frozen(X) - integers(X)).detach().abs() / output_grid(frozen).scale
        # Sums of floats that fall on the other side of a tie: a step of a value inside of the
        # network, which is some at its outputs.
        assert apart.max() < 3
        assert apart.mean() < 0.5  # there are 16 values
        for name, keep in weight_masks(self.gm):
            weight = integers.get_buffer(name)
            assert weight.dtype is torch.int8
            assert not weight[~keep].any()
            assert weight.any()
        return integers


ORDERS: Sequence[tuple[str, ...]] = (
    ("prune", "mask", "round", "train"),
    ("train", "round", "train", "mask", "train", "prune", "train"),
    ("mask", "train", "round", "prune", "train", "prune", "file", "train"),
    ("round", "prune", "mask", "file", "train", "prune", "mask", "train"),
)


@pytest.mark.every(2)
@pytest.mark.parametrize(
    "steps",
    [pytest.param(o, marks=() if o in ORDERS[:2] else pytest.mark.slow) for o in ORDERS],
    ids="-".join,
)
def test_every_order_ends_in_the_integers_of_what_was_trained(steps: tuple[str, ...]) -> None:
    compression = Compression("4 bits, zero points", "2 of 4")
    for step in steps:
        compression.apply(step)
    compression.finish()


QUICK = {("per channel", "blocks")}


@pytest.mark.parametrize(
    ("config", "mask"),
    [
        pytest.param(*pair, marks=() if pair in QUICK else pytest.mark.slow)
        for pair in itertools.product(CONFIGS, MASKS)
    ],
)
def test_every_kind_of_grid_and_mask_goes_through_training_and_pruning(
    config: str, mask: str
) -> None:
    compression = Compression(config, mask)
    for step in ("round", "train", "mask", "train", "prune", "train"):
        compression.apply(step)
    compression.finish()


@pytest.mark.slow
@given(
    st.lists(st.sampled_from(["train", "mask", "prune", "round", "file"]), max_size=7),
    st.sampled_from(list(CONFIGS)),
    st.sampled_from(list(MASKS)),
)
@settings(max_examples=150, deadline=None)
def test_any_order_of_any_steps(steps: list[str], config: str, mask: str) -> None:
    compression = Compression(config, mask)
    for step in steps:
        compression.apply(step)
    compression.finish()


@pytest.mark.thorough
@pytest.mark.tvm
def test_what_was_trained_masked_and_pruned_is_what_runs() -> None:
    compression = Compression("per tensor, zero points", "2 of 4")
    for step in ("round", "mask", "train", "prune", "train"):
        compression.apply(step)
    integers = compression.finish()
    assert torch.equal(torch.as_tensor(qpc.compile(integers, batch_sizes=(4,))(X)), integers(X))


# --- what was learned is carried along ------------------------------------------------------------


def grids(gm: GraphModule) -> dict[str, Tensor]:
    tensors = [*gm.named_parameters(), *gm.named_buffers()]
    return {name: value for name, value in tensors if name.startswith("quantizers.")}


@pytest.mark.parametrize("config", [name for name in CONFIGS if CONFIGS[name][1] is not None])
def test_removal_keeps_every_step_and_zero_point_of_the_channels_that_stay(config: str) -> None:
    compression = Compression(config, "elements")
    for step in ("round", "train"):
        compression.apply(step)
    before = grids(compression.gm)
    compression.apply("prune")
    after, record = grids(compression.gm), lineage(compression.gm)
    assert after.keys() == before.keys()
    for name, value in after.items():
        scale = name.replace("zero_point", "scale")
        kept = record.get((scale, 0))
        expected = before[name] if kept is None else before[name][list(kept.kept)]
        assert torch.equal(value, expected), name
    sliced = [name for name, _ in record if name.startswith("quantizers.")]
    assert bool(sliced) == (config != "per tensor, zero points")


def test_a_rounded_graph_with_learned_grids_computes_the_same_without_dead_channels() -> None:
    compression = Compression("4 bits, zero points", "elements")
    for step in ("round", "train"):
        compression.apply(step)
    gm = compression.gm
    analysis = analyze_channels(gm)
    units = random_units(analysis, 0.4, seed=3)
    marks = analysis.marks(units)
    for axis in analysis.axes:
        if not axis.name.startswith("quantizers."):
            places = marks[axis.labels].nonzero().flatten()
            attribute(gm, axis.name).detach().index_fill_(axis.axis, places, 0.0)
    expected = gm(X)
    Removal(gm, analysis, units).run()
    gm.recompile()
    torch.testing.assert_close(gm(X), expected, rtol=0, atol=1e-5)


def test_steps_go_on_learning_as_fast_as_the_values_that_share_them_ask_for() -> None:
    """What removal makes of the scale of gradients is what `LearnGrids` gives the pruned graph."""
    compression = Compression("per tensor, zero points", "elements")
    for step in ("round", "prune"):
        compression.apply(step)
    facts = frozenset({CORE_FORM, FAKE_QUANTIZED})
    learned = qpc.Pipeline((LearnGrids(zero_points=True),), facts).run(compression.gm)
    assert speeds(compression.gm) == pytest.approx(speeds(learned), rel=1e-6)
    assert len(set(speeds(learned))) > 5


def speeds(gm: GraphModule) -> list[float]:
    calls = gm.graph.find_nodes(op="call_function", target=qpc_ops.fake_quantize.default)
    return [arguments(node)["gradient_scale"] for node in calls]


# --- masks ----------------------------------------------------------------------------------------


def test_a_mask_made_in_training_stays_although_momentum_pushes() -> None:
    compression = Compression("per channel", "2 of 4")
    for step in ("round", "train", "mask"):
        compression.apply(step)
    weight = compression.gm.get_parameter("conv.weight")
    state = compression.optimizer.state[weight]
    (keep,) = (keep for name, keep in weight_masks(compression.gm) if name == "conv.weight")
    assert state["exp_avg"][~keep].any()
    compression.apply("train")
    assert not compression.gm.get_parameter("conv.weight")[~keep].any()
