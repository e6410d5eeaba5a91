"""What has a name is written as text and read again, and nothing else can be in such a text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.fx import GraphModule

import qpc
from qpc.channels.cost import Cost, LayerCost
from qpc.channels.groups import ChannelAnalysis, Group
from qpc.errors import ConfigError, PipelineOrderError
from qpc.facts import CALIBRATED, CORE_FORM, FAKE_QUANTIZED, INTEGER, OBSERVED, Fact
from qpc.passes import (
    Calibrate,
    ConvertToInteger,
    CreateMasks,
    FakeQuantize,
    FoldBatchNorm,
    FoldWeights,
    InsertObservers,
    LiftConv1d,
    MakeMasksPermanent,
    MaskWeights,
    MergeClamps,
    MergeTables,
    PropagateMasks,
    RemoveChannels,
    RemoveIdentities,
)
from qpc.pruning import regularizers
from qpc.pruning.allocation import (
    Allocation,
    Counts,
    Global,
    Isomorphic,
    PerLayer,
    Uniform,
)
from qpc.pruning.criteria import Criterion
from qpc.pruning.gradients import Taylor
from qpc.pruning.granularity import Blocks, Elements, columns, kernels, rows
from qpc.pruning.magnitude import FPGM, L1, L2, LAMP, BatchNormScale, Random
from qpc.pruning.schedules import Cubic, Linear, OneShot
from qpc.pruning.scored_groups import Baseline
from qpc.pruning.weight_layers import Scope
from qpc.pruning.weight_rules import Chosen, NOfM, Ratio, Threshold
from qpc.quant.config import ActivationConfig, LayerConfig, Override, QuantConfig
from qpc.quant.observers import MSE, Entropy, MinMax, MovingAverage, Percentile
from qpc.recipes import prepare, to_integer
from qpc.yaml_form import FAMILIES, PASSES, from_yaml, to_yaml

# --- there and back -------------------------------------------------------------------------------

SHARES = st.floats(0, 1)
PATTERNS = st.one_of(st.text("ab.*", max_size=4), st.lists(st.text("ab.*"), max_size=2).map(tuple))
SCOPES = st.builds(Scope, *[st.none() | st.text("abc.", min_size=1, max_size=5)] * 3)
CRITERIA = st.one_of(
    st.sampled_from([L1(), L2(aggregate="sum"), FPGM(role="both"), BatchNormScale()]),
    st.builds(Random, st.integers(0, 99)),
    st.builds(LAMP, normalize=st.sampled_from(["none", "max", "standardize"])),
)
LIMITS = {
    "of": st.sampled_from(["units", "macs"]),
    "minimum": st.integers(1, 9),
    "only": SCOPES,
    "skip": st.lists(SCOPES, max_size=2).map(tuple),
}
NAMES = st.text("abc.*1", min_size=1, max_size=5)
ALLOCATIONS: st.SearchStrategy[Allocation] = st.one_of(
    *(st.builds(each, SHARES, **LIMITS) for each in (Uniform, Global, Isomorphic)),
    st.builds(PerLayer, SHARES, ratios=st.dictionaries(NAMES, SHARES, max_size=3)),
    st.builds(Counts, channels=st.dictionaries(NAMES, st.integers(1, 64), max_size=3)),
)
RULES = st.one_of(
    st.builds(Threshold, st.floats(0, 9), st.booleans()),
    st.builds(Ratio, SHARES, st.sampled_from(["layer", "model"])),
    st.just(NOfM(2, 4)),
    st.builds(Chosen, st.lists(st.integers(0, 9), max_size=3).map(tuple)),
)
GRANULARITIES = st.sampled_from(
    [Elements(), Blocks(8, None, average=True), kernels(), rows("l1"), columns()]
)
OBSERVERS = st.one_of(
    st.sampled_from([MinMax(), MSE(), Entropy()]),
    st.builds(MovingAverage, decay=st.floats(0, 0.99)),
    st.builds(Percentile, percent=st.floats(1, 100)),
)
ACTIVATIONS = st.builds(
    ActivationConfig, bits=st.integers(2, 8), symmetric=st.booleans(), observer=OBSERVERS
)
LAYERS = st.builds(LayerConfig, activation=ACTIVATIONS)
OVERRIDES = st.builds(Override, op=NAMES, use=LAYERS | st.just("float"))
CONFIGS = st.builds(
    QuantConfig, default=LAYERS, overrides=st.lists(OVERRIDES, max_size=2).map(tuple)
)
PASS_OBJECTS: st.SearchStrategy[qpc.Pass] = st.one_of(
    st.sampled_from(
        [
            FoldBatchNorm(),
            FoldWeights(),
            LiftConv1d(),
            RemoveIdentities(),
            ConvertToInteger(),
            MergeClamps(),
            MergeTables(),
            MakeMasksPermanent(),
        ]
    ),
    st.builds(InsertObservers, CONFIGS),
    st.builds(FakeQuantize, st.booleans(), st.floats(0.1, 2)),
    st.builds(CreateMasks, CRITERIA, ALLOCATIONS, PATTERNS),
    st.builds(PropagateMasks, PATTERNS, st.booleans()),
    st.builds(RemoveChannels, PATTERNS, st.booleans()),
    st.builds(MaskWeights, RULES, GRANULARITIES, SCOPES),
)
FACTS = st.sets(st.sampled_from([CORE_FORM, OBSERVED, CALIBRATED, FAKE_QUANTIZED, INTEGER]))


@st.composite
def pipelines(draw: st.DrawFn) -> qpc.Pipeline:
    """Passes in a random order, without those whose facts nothing establishes."""
    assume = draw(FACTS)
    known, kept = set(assume), list[qpc.Pass]()
    for each in draw(st.lists(PASS_OBJECTS, max_size=6)):
        if each.requires <= known:
            kept.append(each)
            known = (known - each.invalidates) | each.establishes
    return qpc.Pipeline(tuple(kept), frozenset(assume))


@settings(max_examples=60, deadline=None)
@given(pipelines())
def test_a_pipeline_comes_back_as_it_was(pipeline: qpc.Pipeline) -> None:
    text = to_yaml(pipeline)
    again = from_yaml(text, qpc.Pipeline)
    assert again == pipeline
    assert repr(again.passes) == repr(pipeline.passes)
    assert to_yaml(again) == text


@pytest.mark.parametrize(
    "thing",
    [
        *(
            OneShot(0.5),
            Linear(0.5, 4, initial=0.1),
            Cubic(1, 2),
            regularizers.L1(0.1, Scope(op="mul")),
        ),
        *(MSE(), Percentile(percent=99.5), Elements(), NOfM(1, 4), RemoveIdentities(), Random(3)),
    ],
    ids=repr,
)
def test_anything_with_a_name_comes_back_as_it_was(thing: object) -> None:
    again = from_yaml(to_yaml(thing), type(thing))
    assert again == thing
    assert repr(again) == repr(thing)


def test_the_ready_made_pipelines_are_text() -> None:
    for pipeline in (prepare(), to_integer()):
        assert from_yaml(to_yaml(pipeline), qpc.Pipeline) == pipeline


def test_a_measured_baseline_is_text_too() -> None:
    layers = (LayerCost("fc", "linear", 2, 6, 4),)
    allocation = Uniform(0.5, baseline=Baseline(Cost(layers, 2, 6, 4), (2,)))
    assert from_yaml(to_yaml(allocation)) == allocation


def test_the_text_is_stable() -> None:
    pruning = (CreateMasks(L1(), Global(0.5, of="macs")), PropagateMasks(), RemoveChannels())
    assert to_yaml(qpc.Pipeline((FoldBatchNorm(), *pruning))) == (
        "pipeline:\n"
        "  assume:\n"
        "  - core-form\n"
        "  passes:\n"
        "  - kind: fold-batch-norm\n"
        "    arithmetic_only: false\n"
        "  - kind: create-masks\n"
        "    criterion:\n"
        "      kind: l1\n"
        "      aggregate: mean\n"
        "      normalize: mean\n"
        "      role: producing\n"
        "    allocation:\n"
        "      kind: global\n"
        "      amount: 0.5\n"
        "      of: macs\n"
        "      minimum: 1\n"
        "      multiple: 1\n"
        "      only: {}\n"
        "      skip: []\n"
        "      target: native\n"
        "    heads: []\n"
        "  - kind: propagate-masks\n"
        "    heads: []\n"
        "    prune_outputs: false\n"
        "  - kind: remove-channels\n"
        "    heads: []\n"
        "    prune_outputs: false\n"
    )


def test_what_is_left_out_has_its_default() -> None:
    text = "pipeline: {passes: [{kind: create-masks, criterion: l1, allocation: {kind: uniform, "
    pipeline = from_yaml(text + "amount: 0.5}}]}", qpc.Pipeline)
    assert pipeline == qpc.Pipeline((CreateMasks(L1(), Uniform(0.5)),))


def test_every_pass_of_qpc_has_a_name() -> None:
    names = set(PASSES.names())
    assert {getattr(qpc.passes, name).name for name in qpc.passes.__all__} <= names


def test_names_within_a_family_are_those_of_its_kind() -> None:
    for family in FAMILIES:
        for name in family.names():
            found = family.find(name)
            assert found is not None
            assert family.name_of(found) == name


# --- what is refused when it is read --------------------------------------------------------------

NORMS = "'none', 'mean', 'max', 'sum', 'standardize'"


@pytest.mark.parametrize(
    ("text", "message", "fix"),
    [
        ("criterion: taylr", "criterion: there is no criterion 'taylr'", "'taylor'"),
        ("criterion: {name: l1}", "criterion must be a name, or a mapping with the name", "l1, l2"),
        ("criterion: [l1]", "criterion must be a name, or a mapping with the name", "l1, l2"),
        ("criterion: {kind: l1, agregate: sum}", r"\(l1\) has no setting 'agregate'", "aggregate"),
        ("criterion: {kind: l1, normalize: men}", f"one of {NORMS}, got 'men'", "'mean'"),
        ("criterion: {kind: random, seed: true}", "seed must be a whole number, got True", ""),
        ("allocation: global", r"allocation \(global\): needs the setting 'amount'", ""),
        ("allocation: {kind: global, amount: much}", "amount must be a number, got 'much'", ""),
        ("allocation: {kind: global, amount: 2}", r"\(global\): amount must be from 0 to 1", ""),
        ("allocation: {kind: global, amount: 1, skip: {}}", r"skip must be a list, got {}", ""),
        ("allocation: {kind: global, amount: 1, only: a}", "only must be a mapping of sett", ""),
        ("allocation: {kind: global, amount: 1, only: {modul: a}}", "no setting 'modul'", "module"),
        ("allocation: {kind: global, amount: 1, baseline: {}}", "baseline must be nothing", ""),
        ("allocation: {kind: per-layer, ratios: 3}", "ratios must be a mapping, got 3", ""),
        ("allocation: {kind: per-layer, ratios: {a: b}}", r"ratios.a must be a number", ""),
        ("observer: {kind: percentile, percent: 101}", "percent: Input should be less than", ""),
        ("regularizer: {kind: group-lasso, strength: 1}", "needs the setting 'analysis'", ""),
        ("schedule: {kind: cubic, final: 0.5, steps: 0}", "steps must be at least 1, got 0", ""),
        ("pass: {kind: propagate-masks, heads: 3}", "heads must be a text, got 3", ""),
        ("pass: {kind: propagate-masks, heads: [3]}", r"heads\[0\] must be a text, got 3", ""),
        ("pass: {kind: calibrate, batches: []}", "batches cannot be given as text", "in Python"),
        ("pass: {kind: mask-weights, rule: topk}", "there is no weight rule 'topk'", "threshold"),
        ("pipeline: {passes: fold-batch-norm}", "pipeline.passes must be a list", ""),
        ("pipeline: {passes: [fold-norm]}", r"passes\[0\]: there is no pass 'fold-norm'", ""),
        ("pipeline: {passes: [], assumes: []}", "pipeline has no setting 'assumes'", "'assume'"),
        ("pipeline: {assume: []}", "pipeline needs the setting 'passes'", ""),
        ("pipeline: []", "pipeline must be a mapping of settings", ""),
        ("pipeline: {passes: [], assume: [coreform]}", "there is no fact 'coreform'", "core-form"),
        ("pipline: {passes: []}", "nothing is called 'pipline'", "'pipeline'"),
        ("", "the text must hold one thing", "criterion: l1"),
        ("{criterion: l1, pass: calibrate}", "the text must hold one thing", ""),
        ("criterion: l1\ncriterion: l2", "the key 'criterion' stands there twice", ""),
        ("criterion: {1: 2}", "1 is no name of a setting", ""),
        ("criterion: [", "the text is no YAML", ""),
        ("criterion: !!python/object/apply:os.system [x]", "the text is no YAML", ""),
        ("criterion: &a [*a]", "nested too deeply", ""),
        ("[" * 1500, "the text is no YAML", ""),
        ("a: " + "x" * 2**21, "the text is too large", ""),
    ],
)
def test_what_no_pipeline_would_write_is_refused(text: str, message: str, fix: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        from_yaml(text)
    assert fix in str(caught.value.fix)


def test_a_small_text_of_many_copies_is_refused() -> None:
    lines = ["a: &a [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    for old, new in zip("abcdef", "bcdefg", strict=True):
        lines.append(f"{new}: &{new} [{', '.join([f'*{old}'] * 10)}]")
    with pytest.raises(ConfigError, match="too large for settings"):
        from_yaml("\n".join(lines))


def test_the_kind_that_is_asked_for_is_checked() -> None:
    with pytest.raises(ConfigError, match="the text holds a criterion, not a Pipeline"):
        from_yaml("criterion: l1", qpc.Pipeline)
    with pytest.raises(ConfigError, match="from_yaml takes a text, got NoneType"):
        from_yaml(None)  # type: ignore[call-overload]  # the point


def test_the_order_of_passes_is_checked_as_ever() -> None:
    with pytest.raises(PipelineOrderError, match="requires fake-quantized"):
        from_yaml("pipeline: {passes: [convert-to-integer]}")


# --- what cannot be written -----------------------------------------------------------------------

X = torch.ones(1, 2)


@dataclass(frozen=True)
class Mine(Criterion):
    def scores(self, gm: GraphModule, analysis: ChannelAnalysis, group: Group) -> Tensor:
        return torch.zeros(len(group.prunable))


@pytest.mark.parametrize(
    ("thing", "message"),
    [
        (Calibrate([X]), r"pass \(calibrate\)\.batches cannot be written .* of the class list"),
        (Taylor(batches=[], loss=lambda a, b: a), r"criterion \(taylor\)\.batches cannot be"),
        (
            CreateMasks(Mine(), Uniform(1)),
            r"\(create-masks\).criterion: the class Mine has no name",
        ),
        (X, "it cannot be written as text, as it is of the class Tensor"),
        (L1, "it cannot be written as text, as it is a class"),
    ],
)
def test_what_no_text_can_hold_is_an_error_that_says_where(thing: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        to_yaml(thing)


def test_a_fact_that_no_pass_speaks_of_cannot_be_read_again() -> None:
    with pytest.raises(ConfigError, match=r"pipeline\.assume: there is no fact 'blue'"):
        to_yaml(qpc.Pipeline((), {Fact("blue", lambda gm: None)}))


# --- classes of other packages --------------------------------------------------------------------


def test_two_passes_of_one_name_are_told_apart_by_nobody() -> None:
    @dataclass(frozen=True)
    class First(qpc.Pass, name="double"):
        def apply(self, gm: GraphModule, ctx: qpc.PassContext) -> bool:
            return False

    @dataclass(frozen=True)
    class Second(qpc.Pass, name="double"):
        def apply(self, gm: GraphModule, ctx: qpc.PassContext) -> bool:
            return False

    assert {First.name, Second.name} == {"double"}
    with pytest.raises(ConfigError, match=r"several passes 'double': .*First and .*Second"):
        from_yaml("pass: double")


def test_types_that_cannot_be_read_are_an_error_with_the_fix() -> None:
    @dataclass(frozen=True)
    class Vague(qpc.Pass, name="vague"):
        unknown: Sequence[Unknown] = ()  # type: ignore[name-defined]  # noqa: F821  (the point)

        def apply(self, gm: GraphModule, ctx: qpc.PassContext) -> bool:
            return False

    with pytest.raises(ConfigError, match="the types of the settings of Vague cannot be read"):
        to_yaml(Vague())
