"""Classes of one kind have names, each of which is given once."""

from __future__ import annotations

import pytest

from qpc.errors import ConfigError
from qpc.families import Family, nearest
from qpc.pruning.criteria import CRITERIA
from qpc.yaml_form import PASSES


class Shape:
    """What all shapes have in common."""


class Circle(Shape):
    """One of them."""


def test_a_class_is_found_by_its_name_and_the_name_by_its_class() -> None:
    shapes = Family("shape", Shape)
    assert shapes.named("circle")(Circle) is Circle
    assert (shapes.find("circle"), shapes.name_of(Circle)) == (Circle, "circle")
    assert (shapes.find("square"), shapes.name_of(Shape)) == (None, None)
    assert shapes.names() == ("circle",)
    assert repr(shapes) == "Family('shape')"


def test_a_name_is_given_once_but_a_module_may_be_loaded_again() -> None:
    shapes = Family("shape", Shape)
    shapes.named("circle")(Circle)
    shapes.named("circle")(Circle)
    with pytest.raises(ConfigError, match=r"there is a shape 'circle' already: .*\.Circle") as e:
        shapes.named("circle")(Shape)
    assert e.value.fix == "choose another name"


def test_a_name_is_in_kebab_case() -> None:
    with pytest.raises(ConfigError, match="the name of a shape must be in kebab-case, got 'My S'"):
        Family("shape", Shape).named("My S")


def test_the_nearest_name_is_told_or_all_of_them() -> None:
    assert nearest("circl", ["circle", "square"]) == "did you mean 'circle'?"
    assert nearest("xyz", ["square", "circle"]) == "one of circle, square"
    assert nearest("xyz", []) == "one of none"


@pytest.mark.parametrize("family", [PASSES, CRITERIA], ids=lambda family: family.name)
def test_what_is_printed_of_a_setting_holds_no_data_and_no_functions(family: Family) -> None:
    large = ("Batch", "Callable", "GraphModule", "Tensor")
    printed = [
        (name, field.name)
        for name in family.names()
        for field in getattr(family.find(name), "__dataclass_fields__", {}).values()
        if field.repr and any(kind in str(field.type) for kind in large)
    ]
    assert printed == []
