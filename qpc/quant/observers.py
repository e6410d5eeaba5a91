"""Observers: what to remember of calibration data, and which real range to quantize.

An observer is settings only. Its state is a dictionary of tensors, so that it can be stored and
merged; `update` and `merge` return new states. The result depends on exact minima and maxima and on
integer counts only, so shards that are observed apart and merged give bit for bit what one run
gives.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, TypeAlias, cast

import torch
from pydantic import (
    BeforeValidator,
    Field,
    SerializeAsAny,
    ValidatorFunctionWrapHandler,
    WrapValidator,
)
from torch import Tensor

from qpc.errors import CalibrationError, ConfigError
from qpc.families import KindFamily
from qpc.quant.clipping import least_divergence_range, least_squares_range
from qpc.quant.grid import Grid, QParams
from qpc.quant.histogram import Histogram, extent, merge_extents
from qpc.settings import Settings

State = dict[str, Tensor]


class BaseObserver(Settings, ABC):
    """What all observers do.

    of_values: whether the state depends on the values alone, not on the batches that they came in:
    `update` with the parts of a batch, one after the other, gives what it gives with all of it.
    """

    of_values: ClassVar[bool] = False

    @abstractmethod
    def init(self) -> State:
        """Return the state before any data."""

    @abstractmethod
    def update(self, state: State, x: Tensor) -> State:
        """Return the state after one more batch `x`: float32 of any shape, which may be empty.

        Raises `CalibrationError` for NaN or infinite values and `TypeError` for another dtype.
        """

    @abstractmethod
    def merge(self, a: State, b: State) -> State:
        """Return the state of one run over the data of `a` and then the data of `b`."""

    @abstractmethod
    def observed(self, state: State) -> tuple[float, float]:
        """Return the least and the greatest value seen; (inf, -inf) if there was no data."""

    @abstractmethod
    def clip(self, state: State, grid: Grid, symmetric: bool) -> tuple[float, float]:
        """Return the range of reals to quantize, before `range` fits it to the observed one.

        It is called only when there was data.
        """

    def taken(self, other: BaseObserver, state: State) -> State | None:
        """Return the state that this observer would have where `other` has `state`.

        None if that is not known from it.
        """
        return dict(state) if self == other else None

    def central(self, state: State, share: float) -> tuple[float, float] | None:
        """Return the range of this share of the values other than 0; None if it is not known."""
        return None

    def range(self, state: State, grid: Grid, symmetric: bool) -> tuple[float, float]:
        """Return the range of reals to quantize: inside the observed one, widened to contain 0.

        Raises `CalibrationError` if there was no data.
        """
        least, greatest = self.observed(state)
        if least > greatest:
            raise CalibrationError(
                "no calibration data was observed", fix="calibrate with at least one sample"
            )
        lo, hi = self.clip(state, grid, symmetric)
        return max(min(lo, 0.0), min(least, 0.0)), min(max(hi, 0.0), max(greatest, 0.0))

    def require_nameable(self) -> None:
        if OBSERVERS.name_of(type(self)) is None:
            raise ConfigError(
                f"an observer of the class {type(self).__name__} cannot be written to a file: "
                "none could name it when it is read",
                fix="keep the configuration in Python, or name it with OBSERVERS.named",
            )

    def qparams(self, state: State, grid: Grid, symmetric: bool) -> QParams:
        """Return the scale and zero point for what was observed; raises like `range`."""
        lo, hi = self.range(state, grid, symmetric)
        return QParams.from_range(lo, hi, grid, symmetric=symmetric)


class _Known(BaseObserver):
    """Observers whose state does not depend on their settings, and means the same by its name."""

    def taken(self, other: BaseObserver, state: State) -> State | None:
        names = self.init().keys()
        if not isinstance(other, _Known) or not names <= state.keys():
            return super().taken(other, state)
        return {name: state[name] for name in names}


OBSERVERS = KindFamily("observer", BaseObserver, group="qpc.observers")
"""Observers by name, which is their `kind`."""


@OBSERVERS.named("min-max")
class MinMax(_Known):
    """The whole observed range. State: `extent` float32[2]."""

    of_values = True
    kind: Literal["min-max"] = "min-max"

    def init(self) -> State:
        return {"extent": torch.tensor([torch.inf, -torch.inf])}

    def update(self, state: State, x: Tensor) -> State:
        return {"extent": merge_extents(state["extent"], extent(x))}

    def merge(self, a: State, b: State) -> State:
        return {"extent": merge_extents(a["extent"], b["extent"])}

    def observed(self, state: State) -> tuple[float, float]:
        return float(state["extent"][0]), float(state["extent"][1])

    def clip(self, state: State, grid: Grid, symmetric: bool) -> tuple[float, float]:
        return self.observed(state)


@OBSERVERS.named("moving-average")
class MovingAverage(_Known):
    """The exponential moving average of the ranges of the batches.

    State: `extents` float32[batches, 2], in order. The average is taken at the end, in float64, so
    that states of consecutive runs merge by concatenation; their order matters. Jacob et al. 2018,
    arXiv:1712.05877, section 3.1.
    """

    kind: Literal["moving-average"] = "moving-average"
    decay: float = Field(default=0.9, ge=0.0, lt=1.0, strict=True)
    """The weight of the past at each batch; the first batch starts the average."""

    def init(self) -> State:
        return {"extents": torch.empty(0, 2)}

    def update(self, state: State, x: Tensor) -> State:
        ends = extent(x)
        return {"extents": torch.cat([state["extents"], ends[None]])} if x.numel() else dict(state)

    def merge(self, a: State, b: State) -> State:
        return {"extents": torch.cat([a["extents"], b["extents"]])}

    def observed(self, state: State) -> tuple[float, float]:
        extents = state["extents"]
        if len(extents) == 0:
            return torch.inf, -torch.inf
        return float(extents[:, 0].min()), float(extents[:, 1].max())

    def clip(self, state: State, grid: Grid, symmetric: bool) -> tuple[float, float]:
        (lo, hi), *later = state["extents"].tolist()
        for batch_lo, batch_hi in later:
            lo += (1.0 - self.decay) * (batch_lo - lo)
            hi += (1.0 - self.decay) * (batch_hi - hi)
        return lo, hi


class _HistogramObserver(_Known):
    """Keeps a histogram. State: `counts` int64[BINS] and `extent` float32[2]."""

    of_values = True

    def init(self) -> State:
        return _state(Histogram.empty())

    def update(self, state: State, x: Tensor) -> State:
        return _state(_histogram(state).add(x))

    def merge(self, a: State, b: State) -> State:
        return _state(_histogram(a).merge(_histogram(b)))

    def observed(self, state: State) -> tuple[float, float]:
        return float(state["extent"][0]), float(state["extent"][1])

    def central(self, state: State, share: float) -> tuple[float, float] | None:
        return _histogram(state).central(share)


@OBSERVERS.named("percentile")
class Percentile(_HistogramObserver):
    """The range that holds `percent` of the values; the rest is cut off half at each end."""

    kind: Literal["percentile"] = "percentile"
    percent: float = Field(default=99.99, gt=0.0, le=100.0, strict=True)

    def clip(self, state: State, grid: Grid, symmetric: bool) -> tuple[float, float]:
        histogram, tail = _histogram(state), (1.0 - self.percent / 100.0) / 2.0
        return histogram.quantile(tail), histogram.quantile(1.0 - tail)


@OBSERVERS.named("mse")
class MSE(_HistogramObserver):
    """The range with the least expected squared error, rounding and clipping together.

    Choukroun et al. 2019, arXiv:1902.06822; Nagel et al. 2021, arXiv:2106.08295, section 3.1.
    """

    kind: Literal["mse"] = "mse"

    def clip(self, state: State, grid: Grid, symmetric: bool) -> tuple[float, float]:
        return least_squares_range(_histogram(state), grid, symmetric=symmetric)


@OBSERVERS.named("entropy")
class Entropy(_HistogramObserver):
    """The range whose quantized distribution has the least KL divergence from the data's.

    Migacz, "8-bit inference with TensorRT", GTC 2017.
    """

    kind: Literal["entropy"] = "entropy"

    def clip(self, state: State, grid: Grid, symmetric: bool) -> tuple[float, float]:
        return least_divergence_range(_histogram(state), grid, symmetric=symmetric)


_CLASSES = (MinMax, MovingAverage, Percentile, MSE, Entropy)


def _by_name(value: Any) -> Any:
    return {"kind": value} if isinstance(value, str) else value


def _of_any_package(value: Any, validated: ValidatorFunctionWrapHandler) -> Any:
    """Observers of other classes, by themselves or as data if they have a name."""
    if isinstance(value, BaseObserver) and type(value) not in _CLASSES:
        return value
    data = _by_name(value)
    kind = data.get("kind") if isinstance(data, dict) else None
    cls = OBSERVERS.find(kind) if isinstance(kind, str) else None
    if cls is None or cls in _CLASSES:
        return validated(data)
    return cast("type[BaseObserver]", cls).model_validate(data)


if TYPE_CHECKING:
    ActivationObserver: TypeAlias = BaseObserver
else:
    ActivationObserver = Annotated[
        SerializeAsAny[MinMax | MovingAverage | Percentile | MSE | Entropy],
        Field(discriminator="kind"),
        WrapValidator(_of_any_package),
    ]
"""Any observer; as data a mapping with its `kind` and options, or the kind alone."""
WeightObserver = Annotated[MinMax | MSE, Field(discriminator="kind"), BeforeValidator(_by_name)]
"""The observers that weights, which are all known, can use."""


def _histogram(state: State) -> Histogram:
    return Histogram(state["counts"], state["extent"])


def _state(histogram: Histogram) -> State:
    return {"counts": histogram.counts, "extent": histogram.extent}
