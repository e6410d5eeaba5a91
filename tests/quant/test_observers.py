from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from qpc.errors import CalibrationError, ConfigError
from qpc.quant.grid import Grid, QParams
from qpc.quant.observers import (
    MSE,
    ActivationObserver,
    BaseObserver,
    Entropy,
    MinMax,
    MovingAverage,
    Percentile,
    State,
    WeightObserver,
)

OBSERVERS: list[BaseObserver] = [MinMax(), MovingAverage(), Percentile(), MSE(), Entropy()]
UNORDERED = [o for o in OBSERVERS if not isinstance(o, MovingAverage)]
UINT8, UINT4, INT8 = Grid(8), Grid(4), Grid(8, signed=True)
SETTINGS = list(itertools.product((UINT8, INT8, UINT4, Grid(2)), (False, True)))

SPECIAL = {
    "zeros": torch.zeros(5),
    "a constant": torch.full((7,), 3.3),
    "a negative constant": torch.full((7,), -3.3),
    "one element": torch.tensor(0.7),
    "negative": -torch.rand(500) - 0.1,
    "far from zero": torch.rand(500) + 100.0,
    "tiny": torch.linspace(-1e-30, 2e-30, 500),
    "huge": torch.linspace(-1e30, 2e30, 500),
    "the largest": torch.tensor([-3.4e38, 3.4e38]),
    "subnormal": torch.tensor([1e-45, -1e-40, 1e-39]),
    "of all magnitudes": torch.logspace(-30, 30, 500),
    "after relu": torch.linspace(-1.0, 1.0, 501).relu(),
}

batches = st.lists(
    st.lists(st.floats(-1e9, 1e9, width=32), max_size=12).map(
        lambda xs: torch.tensor(xs, dtype=torch.float32)
    ),
    min_size=1,
    max_size=6,
)


def name(observer: BaseObserver) -> str:
    return type(observer).__name__


def observe(observer: BaseObserver, *data: torch.Tensor) -> State:
    state = observer.init()
    for x in data:
        state = observer.update(state, x)
    return state


def same(a: State, b: State) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def fitted(observer: BaseObserver, *data: torch.Tensor, grid: Grid = UINT8) -> QParams:
    return observer.qparams(observe(observer, *data), grid, False)


# --- all observers --------------------------------------------------------------------------------


@pytest.mark.every(2)
@pytest.mark.parametrize("observer", OBSERVERS, ids=name)
@given(data=batches, cuts=st.tuples(st.integers(0, 6), st.integers(0, 6)).map(sorted))
def test_merged_shards_are_one_run_bit_for_bit(
    observer: BaseObserver, data: list[torch.Tensor], cuts: list[int]
) -> None:
    first, second = cuts
    parts = data[:first], data[first:second], data[second:]
    a, b, c = (observe(observer, *part) for part in parts)
    merged = observer.merge(observer.merge(a, b), c)
    whole = observe(observer, *data)
    assert same(merged, whole)
    assert same(merged, observer.merge(a, observer.merge(b, c)))
    if any(len(x) for x in data):
        assert observer.qparams(merged, UINT4, False) == observer.qparams(whole, UINT4, False)


@pytest.mark.parametrize("observer", UNORDERED, ids=name)
@given(data=batches)
def test_merging_is_commutative(observer: BaseObserver, data: list[torch.Tensor]) -> None:
    a, b = observe(observer, *data[::2]), observe(observer, *data[1::2])
    assert same(observer.merge(a, b), observer.merge(b, a))


@pytest.mark.parametrize("observer", UNORDERED, ids=name)
def test_how_data_is_divided_into_batches_does_not_matter(observer: BaseObserver) -> None:
    x = torch.randn(1000)
    shuffled = x[torch.randperm(1000)]
    assert same(observe(observer, x), observe(observer, *shuffled.split(7)))


@pytest.mark.every(3)
@pytest.mark.parametrize("observer", OBSERVERS, ids=name)
@pytest.mark.parametrize(("grid", "symmetric"), SETTINGS[::3], ids=str)
@pytest.mark.parametrize("kind", SPECIAL)
def test_ranges_contain_zero_and_stay_inside_the_data(
    kind: str, grid: Grid, symmetric: bool, observer: BaseObserver
) -> None:
    x = SPECIAL[kind]
    state = observe(observer, x)
    lo, hi = observer.range(state, grid, symmetric)
    assert min(x.min().item(), 0.0) <= lo <= 0.0 <= hi <= max(x.max().item(), 0.0)
    qparams = observer.qparams(state, grid, symmetric)  # which validates itself
    assert qparams.fake_quantize(x).isfinite().all()
    assert qparams.quantize(torch.zeros(1)).item() == qparams.zero_point


@pytest.mark.parametrize("observer", OBSERVERS, ids=name)
@pytest.mark.parametrize("grid", [UINT8, INT8, UINT4], ids=str)
@pytest.mark.parametrize("kind", ["after relu", "far from zero", "one element", "zeros"])
def test_data_without_negatives_has_the_lowest_point_as_zero_point(
    kind: str, grid: Grid, observer: BaseObserver
) -> None:
    assert fitted(observer, SPECIAL[kind], grid=grid).zero_point == grid.lo


@pytest.mark.parametrize("observer", OBSERVERS, ids=name)
@pytest.mark.parametrize("kind", ["a constant", "a negative constant", "one element"])
def test_a_constant_is_represented(kind: str, observer: BaseObserver) -> None:
    x = SPECIAL[kind]
    assert torch.allclose(fitted(observer, x).fake_quantize(x), x, rtol=2e-3)  # half a step


@pytest.mark.parametrize("observer", OBSERVERS, ids=name)
@pytest.mark.parametrize("batches_seen", [0, 1])
def test_without_data_there_is_no_range(batches_seen: int, observer: BaseObserver) -> None:
    state = observe(observer, *[torch.empty(0, 3)] * batches_seen)
    with pytest.raises(CalibrationError, match="no calibration data was observed") as e:
        observer.qparams(state, UINT8, False)
    assert "fix: calibrate with at least one sample" in e.value.full_text


@pytest.mark.parametrize("observer", OBSERVERS, ids=name)
@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_data_that_is_not_finite_is_refused(bad: float, observer: BaseObserver) -> None:
    with pytest.raises(CalibrationError, match="calibration data holds NaN or infinite values"):
        observe(observer, torch.tensor([1.0, bad]))


@pytest.mark.parametrize("observer", OBSERVERS, ids=name)
def test_other_dtypes_are_refused(observer: BaseObserver) -> None:
    with pytest.raises(TypeError, match=r"observers take float32, got torch\.float64"):
        observe(observer, torch.zeros(1, dtype=torch.float64))


@pytest.mark.parametrize("observer", OBSERVERS, ids=name)
def test_updating_leaves_the_old_state_alone(observer: BaseObserver) -> None:
    old = observe(observer, torch.ones(3))
    observer.update(old, torch.full((4,), 9.0))
    assert same(old, observe(observer, torch.ones(3)))


@pytest.mark.parametrize("observer", OBSERVERS, ids=name)
def test_an_empty_batch_changes_nothing(observer: BaseObserver) -> None:
    x = torch.randn(10)
    assert same(observe(observer, x, torch.empty(0)), observe(observer, x))


@pytest.mark.parametrize("observer", OBSERVERS, ids=name)
def test_symmetric_parameters_have_the_zero_point_in_the_middle(observer: BaseObserver) -> None:
    state = observe(observer, torch.randn(1000) + 1.0)
    symmetric = observer.qparams(state, UINT8, True)
    assert symmetric.zero_point == 128
    assert symmetric.scale > observer.qparams(state, UINT8, False).scale


@pytest.mark.parametrize("observer", OBSERVERS, ids=name)
def test_int8_and_uint8_stand_for_the_same_reals(observer: BaseObserver) -> None:
    x = torch.randn(1000) + 0.5
    unsigned, signed = fitted(observer, x), fitted(observer, x, grid=INT8)
    assert (unsigned.scale, unsigned.zero_point) == (signed.scale, signed.zero_point + 128)


# --- one by one -----------------------------------------------------------------------------------


def test_min_max_is_the_range_of_all_data() -> None:
    observer = MinMax()
    state = observe(observer, torch.tensor([-1.5, 2.0]), torch.tensor([[0.5, 3.25]]))
    assert observer.range(state, UINT8, False) == (-1.5, 3.25)


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.9, 0.99])
def test_a_moving_average_weighs_recent_batches(decay: float) -> None:
    data = [torch.tensor([-float(i), i * i + 1.0]) for i in range(10)]
    expected = np.array([0.0, 1.0])
    for x in data[1:]:
        expected = decay * expected + (1 - decay) * x.double().numpy()
    observer = MovingAverage(decay=decay)
    found = observer.range(observe(observer, *data), UINT8, False)
    assert found == pytest.approx(expected.tolist(), rel=1e-12)


def test_the_order_of_batches_matters_to_a_moving_average() -> None:
    a, b = torch.tensor([0.0, 1.0]), torch.tensor([0.0, 9.0])
    assert fitted(MovingAverage(), a, b).scale < fitted(MovingAverage(), b, a).scale


@pytest.mark.parametrize("percent", [50.0, 90.0, 99.0, 100.0])
def test_percentiles_cut_half_of_the_rest_at_each_end(percent: float) -> None:
    x = torch.randn(4001) * 3.0
    observer = Percentile(percent=percent)
    lo, hi = observer.range(observe(observer, x), UINT8, False)
    tails = [50.0 - percent / 2, 50.0 + percent / 2]
    expected = np.percentile(x.numpy(), tails, method="inverted_cdf").tolist()
    assert [lo, hi] == pytest.approx(expected, rel=2.0**-9)


def test_mse_has_less_error_than_the_whole_range_and_entropy_cuts_tails() -> None:
    x = torch.distributions.Laplace(0.0, 1.0).sample((20_000,))

    def error(qparams: QParams) -> float:
        return float(((qparams.fake_quantize(x) - x) ** 2).mean())

    whole = fitted(MinMax(), x, grid=UINT4)
    assert error(fitted(MSE(), x, grid=UINT4)) < 0.5 * error(whole)
    assert fitted(Entropy(), x, grid=UINT4).scale < 0.8 * whole.scale


@pytest.mark.parametrize("observer", [MSE(), Entropy()], ids=name)
def test_bit_widths_and_symmetry_change_what_is_clipped(observer: BaseObserver) -> None:
    state = observe(observer, torch.randn(20_000).exp())
    ranges = [observer.range(state, grid, symmetric) for grid, symmetric in SETTINGS]
    assert len({hi for _, hi in ranges}) >= 6  # uint8 and int8 agree


# --- as data --------------------------------------------------------------------------------------


@pytest.mark.parametrize("observer", OBSERVERS, ids=name)
def test_observers_are_chosen_by_name(observer: BaseObserver) -> None:
    adapter: TypeAdapter[BaseObserver] = TypeAdapter(ActivationObserver)
    kind = observer.model_dump()["kind"]
    assert adapter.validate_python(kind) == observer
    assert adapter.validate_python({"kind": kind}) == observer
    assert adapter.validate_python(adapter.dump_python(observer)) == observer


def test_names_are_those_in_the_documentation() -> None:
    kinds = [observer.model_dump()["kind"] for observer in OBSERVERS]
    assert kinds == ["min-max", "moving-average", "percentile", "mse", "entropy"]


def test_weights_can_use_only_what_needs_no_calibration() -> None:
    adapter: TypeAdapter[BaseObserver] = TypeAdapter(WeightObserver)
    assert adapter.validate_python("mse") == MSE()
    with pytest.raises(ValidationError, match="'entropy' found using 'kind' does not match"):
        adapter.validate_python("entropy")


@pytest.mark.parametrize("decay", [-0.1, 1.0, "0.5"])
def test_a_decay_outside_its_range_is_refused(decay: float) -> None:
    with pytest.raises(ConfigError, match="MovingAverage: decay: Input should be"):
        MovingAverage(decay=decay)


@pytest.mark.parametrize("percent", [0.0, 100.1, float("nan")])
def test_a_percentage_outside_its_range_is_refused(percent: float) -> None:
    with pytest.raises(ConfigError, match="Percentile: percent: Input should be"):
        Percentile(percent=percent)


def test_observers_are_immutable_values() -> None:
    assert len({Percentile(), Percentile(percent=99.99), Percentile(percent=99.0)}) == 2
    with pytest.raises(ConfigError, match="Percentile is frozen: its 'percent' cannot be set"):
        Percentile().percent = 50.0
