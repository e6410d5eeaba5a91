"""Installed packages bring passes, criteria, observers and targets by their entry points."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path

import pytest
import torch
from torch import nn

import qpc
from qpc import doctor, plugins
from qpc.commands.targets import command
from qpc.compression.parts import Spec
from qpc.errors import ConfigError, QPCError, UnsupportedTargetError
from qpc.extensions import FINDERS, main
from qpc.plugins import ExtensionPoint, Plugin, installed_plugins
from qpc.pruning.criteria import CRITERIA
from qpc.quant.config import ActivationConfig, QuantConfig
from qpc.targets import Target
from qpc.targets.listing import list_targets
from qpc.terminal.reporter import Reporter
from qpc.testing import traced
from qpc.yaml_form import FAMILIES, PASSES

# Names are made anew in every test: a class that was found once stays known by its name.
MODULE = '''
from dataclasses import dataclass, replace
from typing import Literal

import qpc
from qpc.pruning.criteria import ParameterCriterion, rows
from qpc.quant.observers import MinMax


@dataclass(frozen=True)
class Nothing(qpc.Pass, name="nothing-{tag}"):
    """Do nothing, a number of times."""

    times: int = 1

    def apply(self, gm, ctx):
        ctx.summarize(f"nothing, {{self.times}} times")
        return False


@dataclass(frozen=True)
class Opposite(ParameterCriterion):
    """The largest channels go first."""

    def channel_scores(self, gm, axis):
        return -rows(gm, axis).abs().sum(1)


class Widest(MinMax):
    """The whole range, called otherwise."""

    kind: Literal["widest-{tag}"] = "widest-{tag}"


BOARD = replace(qpc.Target.parse("cortex-m4"), name="board-{tag}")
'''
ENTRIES = """
[qpc.passes]
nothing-{tag} = package_{tag}:Nothing

[qpc.criteria]
opposite-{tag} = package_{tag}:Opposite
raises-{tag} = package_{tag}:MISSING
a-number-{tag} = math:pi
unlike-{tag} = package_{tag}:Nothing
l3 = package_{tag}:Opposite

[qpc.observers]
widest-{tag} = package_{tag}:Widest
renamed-{tag} = package_{tag}:Widest

[qpc.targets]
board-{tag} = package_{tag}:BOARD
no-target-{tag} = math:pi
other-{tag} = package_{tag}:BOARD
"""


@pytest.fixture
def tag(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A package with all of these is installed; its names end in this."""
    tag = format(abs(hash(request.node.name)), "x")
    install(tmp_path, tag, ENTRIES.format(tag=tag))
    (tmp_path / f"package_{tag}.py").write_text(MODULE.format(tag=tag), encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    return tag


def install(folder: Path, tag: str, entries: str) -> None:
    about = folder / f"package_{tag}-1.5.dist-info"
    about.mkdir()
    named = f"Metadata-Version: 2.1\nName: package-{tag}\nVersion: 1.5\n"
    (about / "METADATA").write_text(named, encoding="utf-8")
    (about / "entry_points.txt").write_text(entries, encoding="utf-8")


def test_texts_know_its_classes_by_their_names(tag: str) -> None:
    made = qpc.from_yaml(f"pass: {{kind: nothing-{tag}, times: 3}}")
    assert qpc.to_yaml(made) == f"pass:\n  kind: nothing-{tag}\n  times: 3\n"
    criterion = qpc.from_yaml(f"criterion: opposite-{tag}")
    assert qpc.from_yaml(qpc.to_yaml(criterion)) == criterion
    observer = qpc.from_yaml(f"observer: widest-{tag}")
    assert qpc.from_yaml(qpc.to_yaml(observer)) == observer


def test_configurations_and_recipes_know_them_too(tag: str) -> None:
    config = ActivationConfig.model_validate({"observer": f"widest-{tag}"})
    assert type(config.observer).__name__ == "Widest"
    text = {"default": {"activation": {"observer": {"kind": f"widest-{tag}"}}}}
    assert QuantConfig.model_validate(text).default.activation.observer == config.observer
    assert type(Spec.of(f"opposite-{tag}", CRITERIA, {}).make()).__name__ == "Opposite"
    recipe = {"start": [{"kind": f"nothing-{tag}", "times": 2}], "finish": ["quantize"]}
    (step, _) = qpc.Recipe.model_validate(recipe).steps()
    assert step.kind == f"nothing-{tag}"


def test_they_do_what_they_are_for(tag: str) -> None:
    first = nn.Linear(2, 3)
    with torch.no_grad():
        first.weight.copy_(torch.tensor([[1.0, 1.0], [2.0, 2.0], [3.0, 3.0]]))
    gm = traced(nn.Sequential(first, nn.ReLU(), nn.Linear(3, 1)), torch.ones(1, 2))
    text = f"""
pipeline:
  passes:
  - nothing-{tag}
  - {{kind: create-masks, criterion: opposite-{tag}, allocation: {{kind: uniform, amount: 0.34}}}}
  - propagate-masks
  - remove-channels
"""
    context = qpc.PassContext()
    pruned = qpc.from_yaml(text, qpc.Pipeline).run(gm, context)
    assert pruned.get_parameter("0.weight").tolist() == [[1.0, 1.0], [2.0, 2.0]]
    assert context.reports[0].summary == "nothing, 1 times"


def test_targets_are_known_by_name_and_listed(tag: str) -> None:
    target = Target.parse(f"board-{tag}")
    assert (target.name, target.isa) == (f"board-{tag}", Target.parse("cortex-m4").isa)
    answer = command(Reporter())
    assert f"board-{tag}" in str(answer.shown[0])
    assert answer.data is not None
    assert len(answer.data["targets"]) == len(list_targets()) + 1


def test_a_name_that_is_almost_right_leads_to_it(tag: str) -> None:
    with pytest.raises(ConfigError) as caught:
        qpc.from_yaml(f"criterion: opposit-{tag}")
    assert caught.value.fix == f"did you mean 'opposite-{tag}'?"
    with pytest.raises(UnsupportedTargetError, match="unknown target") as refused:
        Target.parse(f"boarb-{tag}")
    assert f"'board-{tag}' may be meant" in str(refused.value.fix)


def test_the_names_are_listed_without_loading_anything(
    tag: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metadata.EntryPoint, "load", lambda _: pytest.fail("loaded"))
    assert f"nothing-{tag}" in PASSES.names()
    assert Plugin(f"nothing-{tag}", f"package-{tag}", "1.5") in PASSES.plugins.plugins()  # type: ignore[union-attr]  # it has some


def test_metadata_is_read_only_for_names_that_qpc_does_not_know(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(plugins, "entry_points", lambda **_: pytest.fail("looked"))
    qpc.from_yaml("criterion: l1")
    Target.parse("cortex-m4")


# --- packages that are broken ---------------------------------------------------------------------

WRONG = [
    ("criterion: raises-{}", "cannot be loaded: AttributeError: .*'MISSING'"),
    ("criterion: a-number-{}", "must be a class, got float"),
    ("criterion: unlike-{}", "must be a class like Judge, got Nothing"),
    ("observer: renamed-{}", "cannot have its name: .* must have a field `kind` with default"),
]


@pytest.mark.parametrize(("text", "message"), WRONG)
def test_who_asks_for_a_broken_one_is_told_which_package_it_is(
    tag: str, text: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=rf"of the package 'package-{tag}' {message}"):
        qpc.from_yaml(text.format(tag))
    assert qpc.from_yaml("criterion: l1") is not None


def test_a_class_has_one_name(tag: str) -> None:
    qpc.from_yaml(f"criterion: opposite-{tag}")
    with pytest.raises(ConfigError, match=f"is called 'opposite-{tag}' by its class"):
        qpc.from_yaml("criterion: l3")


def test_a_pass_has_the_name_of_its_class(tag: str) -> None:
    with pytest.raises(ConfigError, match="must have the class keyword name='other'"):
        PASSES.named("other")(type(qpc.from_yaml(f"pass: nothing-{tag}")))


@pytest.mark.parametrize(
    ("name", "message"),
    [("no-target-{}", "must be a qpc.Target, got float"), ("other-{}", "calls itself 'board-{}'")],
)
def test_what_is_no_target_is_refused_and_said_in_the_list(
    tag: str, name: str, message: str
) -> None:
    name, message = name.format(tag), message.format(tag)
    with pytest.raises(UnsupportedTargetError, match=f"'{name}' of the package .* {message}"):
        Target.parse(name)
    notes = command(Reporter()).notes
    assert len(notes) == 2
    assert any(message in note for note in notes)


def test_two_packages_with_one_name_are_named(tag: str, tmp_path: Path) -> None:
    install(tmp_path, f"{tag}b", f"[qpc.criteria]\nopposite-{tag} = package_{tag}:Nothing\n")
    message = f"several criteria 'opposite-{tag}': of 'package-{tag}' and 'package-{tag}b'"
    with pytest.raises(ConfigError, match=message):
        qpc.from_yaml(f"criterion: opposite-{tag}")


# --- what the doctor says -------------------------------------------------------------------------


def test_every_family_is_open_to_packages_under_a_group_of_its_own() -> None:
    groups = [point.group for point in FINDERS]
    assert len(set(groups)) == len(groups) == len(FAMILIES) + 2
    assert {"qpc.passes", "qpc.criteria", "qpc.observers", "qpc.targets"} <= set(groups)


@pytest.mark.thorough
def test_the_doctor_lists_them_and_names_the_broken_with_what_is_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tag = "doctor"
    entries = "[qpc.passes]\nnothing-{0} = package_{0}:Nothing\n[qpc.criterions]\nx = y:z\n"
    crash = "[qpc.targets]\ncrash-{0} = crash_{0}:X\n"
    install(tmp_path, tag, (entries + crash).format(tag))
    (tmp_path / f"package_{tag}.py").write_text(MODULE.format(tag=tag), encoding="utf-8")
    (tmp_path / f"crash_{tag}.py").write_text("import os\nos.abort()\n", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(doctor, "installed_version", {}.get)  # the rest is tested elsewhere
    checks = {check.name: check for check in doctor.diagnose()}
    well = checks[f"qpc.passes: nothing-{tag}"]
    assert (well.ok, well.found) == (True, f"of package-{tag} 1.5")
    strange = checks["qpc.criterions: x"]
    assert (strange.ok, strange.found) == (
        False,
        f"of package-{tag} 1.5: QPC has no entry points 'qpc.criterions': "
        "did you mean 'qpc.criteria'?",
    )
    crashed = checks[f"qpc.targets: crash-{tag}"]
    assert (crashed.ok, crashed.found) == (False, f"of package-{tag} 1.5: crashed with SIGABRT")
    assert crashed.fix.startswith(f"pip install --force-reinstall package-{tag}")


def test_what_cannot_be_loaded_is_one_line_and_a_status(
    tag: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["qpc.criteria", f"a-number-{tag}"]) == 1
    assert capsys.readouterr().err == (
        f"the criterion 'a-number-{tag}' of the package 'package-{tag}' "
        "must be a class, got float\n"
    )
    assert main(["qpc.criteria", f"opposite-{tag}"]) == 0


def test_what_is_installed_is_listed_by_group(tag: str) -> None:
    found = [group for group, plugin in installed_plugins() if plugin.package == f"package-{tag}"]
    assert sorted(set(found)) == ["qpc.criteria", "qpc.observers", "qpc.passes", "qpc.targets"]


def test_an_entry_without_a_package_is_told_too(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = metadata.EntryPoint("x", "math:no", "qpc.things")
    monkeypatch.setattr(plugins, "entry_points", lambda **_: [entry])
    point = ExtensionPoint("qpc.things", "thing", QPCError)
    with pytest.raises(QPCError, match="the thing 'x' of the package 'an unknown package'"):
        point.load("x", lambda _: None)
