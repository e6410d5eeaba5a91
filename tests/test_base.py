from __future__ import annotations

import io
from dataclasses import FrozenInstanceError, dataclass

import pytest
from torch.fx import Graph, GraphModule, Node

from qpc.base import Pass, PassContext, PassReport, Remark
from qpc.facts import CALIBRATED, CORE_FORM, OBSERVED
from qpc.meta import update_info
from qpc.terminal.reporter import Reporter


@dataclass(frozen=True)
class Idle(
    Pass,
    name="idle",
    requires={CORE_FORM},
    establishes={OBSERVED},
    invalidates={CALIBRATED},
):
    """Does nothing."""

    level: int = 1

    def apply(self, gm: GraphModule, ctx: PassContext) -> bool:
        return False


def node(name: str = "x", module: str = "") -> Node:
    made = Graph().placeholder(name)
    update_info(made, module_path=module)
    return made


# --- declarations ---------------------------------------------------------------------------------


def test_class_keywords_declare_a_pass() -> None:
    assert Idle.name == "idle"
    assert Idle.requires == {CORE_FORM}
    assert Idle.establishes == {OBSERVED}
    assert Idle.invalidates == {CALIBRATED}


def test_facts_default_to_none() -> None:
    class Plain(Pass, name="plain"):
        """No facts."""

    assert Plain.requires == Plain.establishes == Plain.invalidates == frozenset()


@pytest.mark.parametrize("name", ["", "Bad", "has_underscore", "two words", "-x", "x-", "1x"])
def test_a_name_must_be_kebab_case(name: str) -> None:
    with pytest.raises(TypeError) as caught:
        type("Wrong", (Pass,), {}, name=name)
    assert str(caught.value) == f"Wrong needs name= in kebab-case, got {name!r}"


def test_a_misspelled_keyword_is_an_error() -> None:
    with pytest.raises(TypeError, match="unexpected keyword argument 'require'"):
        type("Wrong", (Pass,), {}, name="wrong", require={CORE_FORM})


def test_an_abstract_base_needs_no_name() -> None:
    class Base(Pass, abstract=True):
        """Shared by several passes."""

    assert not hasattr(Base, "name")


def test_a_pass_without_apply_cannot_be_made() -> None:
    class Unfinished(Pass, name="unfinished"):
        """No apply."""

    with pytest.raises(TypeError, match="abstract method"):
        Unfinished()  # type: ignore[abstract]  # wrong on purpose


def test_a_pass_is_a_value() -> None:
    assert Idle(2) == Idle(level=2) != Idle()
    assert repr(Idle(2)) == "Idle(level=2)"
    with pytest.raises(FrozenInstanceError):
        Idle().level = 3  # type: ignore[misc]  # wrong on purpose


# --- remarks and reports --------------------------------------------------------------------------


def test_declines_name_the_node_and_the_reason() -> None:
    ctx = PassContext()
    ctx.decline(node("conv", "layer1.0"), "it is read by 2 nodes")
    assert ctx.declined == (Remark("layer1.0 (conv)", "it is read by 2 nodes"),)
    assert str(ctx.declined[0]) == "layer1.0 (conv): it is read by 2 nodes"


def test_the_same_decline_counts_once() -> None:
    ctx = PassContext()
    for reason in ("a", "a", "b"):
        ctx.decline(node(), reason)
    assert [remark.text for remark in ctx.declined] == ["a", "b"]


def test_warnings_are_logged_at_once_and_kept_for_the_report(
    caplog: pytest.LogCaptureFixture,
) -> None:
    ctx = PassContext()
    for _ in range(2):  # the same one counts once
        ctx.warn(node("conv", "layer1.0"), "an outlier")
    assert [(r.levelname, r.name, r.message) for r in caplog.records] == [
        ("WARNING", "qpc.base", "layer1.0 (conv): an outlier")
    ]
    ctx.warn("the model", "2 layers stay in float")
    report = ctx.finish(Idle(), seconds=0.0, changed=False)
    assert [remark.node for remark in report.warnings] == ["layer1.0 (conv)", "the model"]
    assert str(report) == (
        "idle: nothing changed, 0 declined, 0.000 s\n"
        "  warning layer1.0 (conv): an outlier\n"
        "  warning the model: 2 layers stay in float"
    )
    assert ctx.finish(Idle(), seconds=0.0, changed=False).warnings == ()


def test_finishing_a_pass_makes_its_report_and_starts_afresh() -> None:
    ctx = PassContext()
    ctx.change(node(), "was changed")
    ctx.decline(node("y"), "too large")
    ctx.summarize("1 of 2 done")
    report = ctx.finish(Idle(2), seconds=0.5, changed=True)
    assert report == PassReport(
        name="idle",
        options="Idle(level=2)",
        seconds=0.5,
        changed=True,
        changes=(Remark("x", "was changed"),),
        declines=(Remark("y", "too large"),),
        summary="1 of 2 done",
    )
    second = ctx.finish(Idle(), seconds=0.0, changed=False)
    assert (second.changes, second.declines, second.summary) == ((), (), "")
    assert ctx.reports == [report, second]
    assert ctx.declined == report.declines


def test_reports_print_what_happened() -> None:
    ctx = PassContext()
    ctx.change(node(), "was changed")
    ctx.decline(node("y"), "too large")
    ctx.summarize("1 of 2 done")
    ctx.finish(Idle(), seconds=0.25, changed=True)
    ctx.finish(Idle(), seconds=0.0, changed=False)
    assert str(ctx) == (
        "idle: 1 change, 1 declined, 0.250 s. 1 of 2 done\n"
        "  declined y: too large\n"
        "idle: nothing changed, 0 declined, 0.000 s"
    )


class _Stream(io.StringIO):
    """A stream that may be a terminal."""

    def __init__(self, *, terminal: bool) -> None:
        super().__init__()
        self._terminal = terminal

    def isatty(self) -> bool:
        return self._terminal


@pytest.mark.parametrize(
    ("progress", "terminal", "shown"),
    [
        (None, True, True),
        (None, False, False),
        (False, True, False),
        (True, False, True),
    ],
)
def test_progress_is_shown_where_people_see_it_unless_it_is_said(
    progress: bool | None, terminal: bool, shown: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stderr", _Stream(terminal=terminal))
    ctx = PassContext(progress=progress)
    with ctx.phase("quantizing") as outer:
        assert (outer is not None) is shown
        each = ctx.each([1, 2], "calibrating")
        told = ["" if outer is None else outer.doing for _ in each]
    assert told == (["calibrating"] * 2 if shown else [""] * 2)
    with ctx.phase("again") as inner:
        assert (inner is not None) is shown
        assert inner is not outer or not shown


def test_what_takes_long_is_a_phase_of_as_many_parts_as_there_are_things(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    said: list[tuple[str, int | None]] = []
    phase = Reporter.phase

    def heard(reporter: Reporter, text: str, total: int | None = None) -> object:
        said.append((text, total))
        return phase(reporter, text, total)

    monkeypatch.setattr(Reporter, "phase", heard)
    monkeypatch.setattr("sys.stderr", _Stream(terminal=False))
    ctx = PassContext(progress=True)
    for _ in ctx.each(["a", "b"], "quantizing"):
        assert list(ctx.each("xyz", "calibrating")) == ["x", "y", "z"]
    assert said == [("quantizing", 2), ("calibrating", 3), ("calibrating", 3)]
