from __future__ import annotations

from pathlib import Path

import pytest
import yaml

import qpc
from qpc.compression.source import read_recipe, recipe_of
from qpc.errors import ConfigError

TEXT = """\
seed: 3
budget: {lose: 0.02}
target: {macs: 50%}
rounds:
  at_most: 3
  steps:
  - kind: prune
    criterion: l1
    allocation: {kind: global, amount: 0.6, of: macs}
    schedule: cubic
  - reestimate-batch-norm
  - {kind: fine-tune, epochs: 1, learning_rate: 0.01}
finish:
- {kind: qat, epochs: 1}
"""


def test_a_recipe_is_read_and_what_it_leaves_out_has_defaults() -> None:
    recipe = recipe_of(TEXT)
    assert recipe.seed == 3
    assert recipe.metric == "accuracy"
    assert [step.kind for step in recipe.steps()] == [
        "prune",
        "reestimate-batch-norm",
        "fine-tune",
        "qat",
    ]


def test_a_recipe_that_is_written_is_read_as_the_same() -> None:
    recipe = recipe_of(TEXT)
    assert recipe_of(yaml.safe_dump(recipe.plain())) == recipe


@pytest.mark.parametrize(
    ("right", "wrong", "problem"),
    [
        ("seed: 3", "sed: 3", r"line 1: sed: there is no such setting; did you mean 'seed'\?"),
        ("epochs: 1, l", "epoch: 1, l", r"line 12: rounds\.steps\[2\]\.epoch: .* 'epochs'"),
        ("kind: prune", "kind: prun", r"line 7: rounds\.steps\[0\]\.kind: .* 'prune'"),
        (
            "n: l1",
            "n: l11",
            r"line 8: rounds\.steps\[0\]\.criterion: .* no criterion 'l11'; .*'l1'",
        ),
        ("of: macs", "by: macs", r"line 9: rounds\.steps\[0\]\.allocation: .* no setting 'by'"),
        ("0.6", "1.6", r"line 9: .*: amount must be from 0 to 1, got 1\.6"),
        ("schedule: cubic", "schedule: {kind: cubic, step: 3}", r"line 10: .* 'steps'"),
        ("50%", "150%", r"line 3: target\.macs: must be .* such as \"50%\", got '150%'"),
        ("50%", "true", r"line 3: target\.macs: must be a number above 0"),
        ("at_most: 3", "at_most: 0", r"line 5: rounds\.at_most: .* greater than or equal to 1"),
        ("  at_most: 3\n", "", r"line 4: rounds\.at_most: Field required"),
        ("lose: 0.02", "lose: .nan", r"line 2: budget\.lose: .* finite number"),
        ("{lose: 0.02}", "{}", r"line 2: budget: a budget needs one of lose and limit"),
        ("epochs: 1}", "epochs: 1.5}", r"line 14: finish\[0\]\.epochs: .* integer"),
        ("- {kind: qat, epochs: 1}", "- 7", r"line 14: finish\[0\]: a step must be a name"),
        (
            "kind: qat",
            "kind: qat, config: {default: {weight: {bits: 9}}}",
            r"line 14: finish\[0\]\.config\.default\.weight\.bits: ",
        ),
        ("- reest", "- x-reest", r"line 11: rounds\.steps\[1\]\.kind: .* 'reestimate-batch-norm'"),
        (
            "reestimate-batch-norm",
            "{kind: reestimate-batch-norm, x: 1}",
            r"line 11: rounds\.steps\[1\]: pass \(reestimate-batch-norm\) has no setting 'x'",
        ),
    ],
)
def test_a_mistake_is_told_with_file_line_and_field(right: str, wrong: str, problem: str) -> None:
    assert right in TEXT
    with pytest.raises(ConfigError, match=r"^recipe\.yaml, " + problem):
        recipe_of(TEXT.replace(right, wrong, 1), "recipe.yaml")


def test_what_is_no_yaml_is_told_with_its_line() -> None:
    with pytest.raises(ConfigError, match=r"^r\.yaml: the text is no YAML: .* line 2"):
        recipe_of("seed: [\nrounds: {", "r.yaml")
    with pytest.raises(ConfigError, match="must hold a mapping of settings"):
        recipe_of("- qat")


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"the recipe is not there: cannot read .*none\.yaml"):
        read_recipe(tmp_path / "none.yaml")
    (tmp_path / "latin.yaml").write_bytes(b"metric: \xe9")
    with pytest.raises(ConfigError, match="is not UTF-8"):
        read_recipe(tmp_path / "latin.yaml")


def test_files_are_read(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(TEXT, encoding="utf-8")
    assert read_recipe(tmp_path / "recipe.yaml") == recipe_of(TEXT)
    assert isinstance(recipe_of(TEXT), qpc.Recipe)
