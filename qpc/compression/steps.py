"""The steps that QPC brings; those of other packages are made in the same way."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal, cast

from pydantic import Field, StrictBool, StrictStr
from torch.fx import GraphModule

from qpc.base import Pass
from qpc.compression.parts import (
    AllocationSpec,
    CriterionSpec,
    GranularitySpec,
    Part,
    RuleSpec,
    ScheduleSpec,
)
from qpc.compression.rounding import Effort, prepared_for_training, rounded
from qpc.compression.step import STEPS, Place, Step, StepContext
from qpc.compression.training import TrainSettings, trained
from qpc.facts import CORE_FORM
from qpc.passes import (
    CreateMasks,
    FoldWeights,
    FollowRanges,
    LearnGrids,
    MaskWeights,
    PropagateMasks,
    RemoveChannels,
)
from qpc.pipeline import Pipeline
from qpc.pruning.allocation import Allocation
from qpc.pruning.criteria import Judge
from qpc.pruning.granularity import Granularity
from qpc.pruning.schedules import Schedule
from qpc.pruning.schedules import Step as Moment
from qpc.pruning.weight_rules import WeightRule
from qpc.quant.config import QuantConfig
from qpc.recipes import BatchNormMode, convert

Patterns = StrictStr | tuple[StrictStr, ...]


@STEPS.named("prune")
class Prune(Step):
    """Remove channels for real.

    criterion: what channels are worth. allocation: how many go where; its amount is what is gone of
    the model as it was given, in a round after the last one.
    schedule: how the amount grows from round to round: linearly, unless it names another way.
    heads: modules in which attention is pruned by whole heads.
    """

    kind: Literal["prune"] = "prune"
    criterion: CriterionSpec
    allocation: AllocationSpec
    schedule: ScheduleSpec | None = None
    heads: Patterns = ()

    @property
    def required(self) -> frozenset[str]:
        cls = type(self.criterion.thing) if self.criterion.thing else None
        if cls is None:
            data = self.criterion.data
            name = data if isinstance(data, str) else cast(dict[str, Any], data)["kind"]
            cls = self.criterion.family.find(name)
        return frozenset({"batches", "loss"} & getattr(cls, "__dataclass_fields__", {}).keys())

    @property
    def final_amount(self) -> float:
        """What is gone in the end, in terms of `of`."""
        return cast(Allocation, self.allocation.make()).amount

    @property
    def of(self) -> str:
        """What the amount is a share of."""
        return cast(Allocation, self.allocation.make()).of

    def amount_at(self, place: Place) -> float:
        """What is gone after this step."""
        final, steps = self.final_amount, place.rounds if place.phase == "round" else 1
        if self.schedule is None:
            return final * place.number / steps if place.phase == "round" else final
        schedule = cast(Schedule, _schedule(self.schedule, final, steps))
        return schedule.amounts()[min(max(place.number, 1), schedule.steps) - 1]

    def run(self, gm: GraphModule, at: StepContext) -> GraphModule:
        moment = Moment(
            max(at.place.number, 1),
            at.place.rounds,
            self.amount_at(at.place),
            at.baseline(self.heads),
        )
        allocation = cast(Allocation, self.allocation.make()).at(moment)
        criterion = cast(Judge, self.criterion.make(**at.supply))
        passes = (
            FoldWeights(),
            CreateMasks(criterion, allocation, self.heads),
            PropagateMasks(self.heads),
            RemoveChannels(self.heads),
        )
        return Pipeline(passes, frozenset({CORE_FORM})).run(gm, at.passes)


def _schedule(spec: Any, final: float, steps: int) -> object:
    """A schedule whose end and number of steps are filled in where the recipe leaves them open."""
    supply = {"final": final, "steps": steps}
    return spec.make(**{key: value for key, value in supply.items() if key not in spec.settings})


@STEPS.named("mask")
class Mask(Step):
    """Zero single weights or blocks of them, which stay zero from then on.

    rule: which go; granularity: what one piece is. In rounds the fraction of a `ratio` grows
    linearly from round to round.
    """

    kind: Literal["mask"] = "mask"
    rule: RuleSpec
    granularity: GranularitySpec | None = None

    def run(self, gm: GraphModule, at: StepContext) -> GraphModule:
        rule = cast(WeightRule, self._rule_at(at.place))
        passes = MaskWeights(rule)
        if self.granularity is not None:
            passes = MaskWeights(rule, cast(Granularity, self.granularity.make()))
        return Pipeline((passes,), frozenset({CORE_FORM})).run(gm, at.passes)

    def _rule_at(self, place: Place) -> object:
        fraction = self.rule.settings.get("fraction")
        if place.phase != "round" or not isinstance(fraction, int | float):
            return self.rule.make()
        settings = {**self.rule.settings, "fraction": fraction * place.number / place.rounds}
        data = {**cast(dict[str, Any], self.rule.plain()), **settings}
        return type(self.rule)(self.rule.family, data).make()


@STEPS.named("fine-tune")
class FineTune(TrainSettings):
    """Train the graph as it is, in float or rounded to grids."""

    needs: ClassVar[frozenset[str]] = frozenset({"train"})
    kind: Literal["fine-tune"] = "fine-tune"

    def run(self, gm: GraphModule, at: StepContext) -> GraphModule:
        return trained(gm, self, at)


@STEPS.named("quantize")
class Quantize(Step):
    """Round all values to grids that calibration chooses, without training.

    config: what is quantized how. effort: how much is tried to keep accuracy, as in `qpc.quantize`.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"batches"})
    kind: Literal["quantize"] = "quantize"
    config: QuantConfig = QuantConfig()
    effort: Effort = "default"

    def run(self, gm: GraphModule, at: StepContext) -> GraphModule:
        return rounded(gm, self.config, at, effort=self.effort)


class Learned(Part):
    """Which grids training moves, as in `LearnGrids`."""

    activations: StrictBool = True
    weights: StrictBool = True
    zero_points: StrictBool = False


class Followed(Part):
    """Which grids follow the ranges that training sees, as in `FollowRanges`."""

    activations: StrictBool = True
    weights: StrictBool = True
    decay: Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)] = 0.99


@STEPS.named("qat")
class Qat(TrainSettings):
    """Round all values to grids, unless they are, and train with that.

    config: what is quantized how. learn: which grids training moves by gradients. follow: which
    others it moves by averages of the ranges that it sees; without both, the grids of the
    calibration stay. batch_norm: whether batch norms are folded before or after training, as in
    `qpc.prepare_qat`.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"train", "batches"})
    kind: Literal["qat"] = "qat"
    config: QuantConfig = QuantConfig()
    learn: Learned | StrictBool = Learned()
    follow: Followed | StrictBool = False
    batch_norm: BatchNormMode = "folded"

    def run(self, gm: GraphModule, at: StepContext) -> GraphModule:
        moving = list(self._moving())
        ready = prepared_for_training(gm, self.config, moving, at, batch_norm=self.batch_norm)
        return trained(ready, self, at)

    def _moving(self) -> Iterator[Pass]:
        """What lets grids move; those that are learned do not follow."""
        if self.learn:
            learned = self.learn if isinstance(self.learn, Learned) else Learned()
            yield LearnGrids(**learned.model_dump())
        if self.follow:
            followed = self.follow if isinstance(self.follow, Followed) else Followed()
            yield FollowRanges(**followed.model_dump())


@STEPS.named("convert")
class Convert(Step):
    """Make integers of what is rounded to grids. Candidates become integers without it."""

    kind: Literal["convert"] = "convert"

    def run(self, gm: GraphModule, at: StepContext) -> GraphModule:
        return convert(gm, at.passes)


@STEPS.named("evaluate")
class EvaluateStep(Step):
    """Judge the graph as it is, for the table; nothing else depends on it.

    name: of its line in the table. compile: also compile and time it.
    """

    kind: Literal["evaluate"] = "evaluate"
    name: Annotated[str, Field(min_length=1)]
    compile: StrictBool = False

    def run(self, gm: GraphModule, at: StepContext) -> GraphModule:
        return gm
