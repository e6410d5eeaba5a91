from __future__ import annotations

import pytest
from pydantic import TypeAdapter

from qpc.compression.parts import CriterionSpec, Part, ScheduleSpec, Spec, path_of
from qpc.errors import ConfigError
from qpc.pruning.criteria import CRITERIA
from qpc.pruning.gradients import Taylor
from qpc.pruning.magnitude import L1
from qpc.pruning.schedules import SCHEDULES, Cubic


class Inner(Part):
    count: int = 1


class Outer(Part):
    inner: Inner = Inner()
    criterion: CriterionSpec = Spec(CRITERIA, "l1")


def test_a_setting_that_does_not_exist_is_told_with_its_place_and_the_nearest_one() -> None:
    with pytest.raises(ConfigError, match=r"^Outer: inner\.cuont: .* did you mean 'count'\?$"):
        Outer.model_validate({"inner": {"cuont": 3}})
    with pytest.raises(ConfigError, match=r"^Inner: cuont: there is no such setting"):
        Inner(cuont=3)  # type: ignore[call-arg]  # it does not exist


def test_a_wrong_value_is_told_with_its_place() -> None:
    with pytest.raises(ConfigError, match=r"^Outer: inner\.count: Input should .*, got 'many'$"):
        Outer.model_validate({"inner": {"count": "many"}})


def test_a_name_that_nobody_has_is_told_with_the_nearest_one() -> None:
    with pytest.raises(
        ConfigError, match=r"criterion: there is no criterion 'l11'; did you mean 'l1'"
    ):
        Outer.model_validate({"criterion": "l11"})


def test_a_class_in_place_of_an_object_is_told() -> None:
    with pytest.raises(ConfigError, match="must be a criterion or its name, got the class L1"):
        Outer.model_validate({"criterion": L1})


def test_what_a_text_names_is_made_when_it_is_needed() -> None:
    part = Outer.model_validate({"criterion": {"kind": "l1", "normalize": "none"}})
    assert part.criterion.make() == L1(normalize="none")
    assert part.criterion.settings == {"normalize": "none"}
    assert part.model_dump(mode="json")["criterion"] == {"kind": "l1", "normalize": "none"}


def test_an_object_is_written_by_its_name() -> None:
    part = Outer.model_validate({"criterion": L1()})
    assert part.criterion.make() == L1()
    assert Outer.model_validate(part.model_dump(mode="json")).criterion.make() == L1()


def test_batches_and_losses_come_from_the_run() -> None:
    spec = Outer.model_validate({"criterion": "taylor"}).criterion
    batches = [object()]
    made = spec.make(batches=batches, loss=len)
    assert isinstance(made, Taylor)
    assert made.batches is batches
    with pytest.raises(ConfigError, match="needs the setting 'batches'"):
        spec.make(loss=len)


def test_the_end_of_a_schedule_is_the_step_s_to_say() -> None:
    reader: TypeAdapter[Spec] = TypeAdapter(ScheduleSpec)
    spec = reader.validate_python({"kind": "cubic", "initial": 0.2})
    assert spec.make(final=0.6, steps=4) == Cubic(0.6, 4, initial=0.2)
    assert spec.family is SCHEDULES


def test_places_read_like_python() -> None:
    assert path_of(("rounds", "steps", 1, "epochs")) == "rounds.steps[1].epochs"
    assert path_of(()) == ""
