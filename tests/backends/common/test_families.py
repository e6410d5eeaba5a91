from __future__ import annotations

import sys
from pathlib import Path

import pytest

from qpc.backends.common.families import families, merged


def test_families_are_the_files_with_a_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "rules_of_a_test"
    package.mkdir()
    for name, text in (("b", "RULES = {2: 'b'}"), ("a", "RULES = {1: 'a'}"), ("c", "X = 3")):
        (package / f"{name}.py").write_text(text, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    found = [module.RULES for module in families("rules_of_a_test")]
    assert found == [{1: "a"}, {2: "b"}]
    for name in [name for name in sys.modules if name.startswith("rules_of_a_test")]:
        del sys.modules[name]


def test_an_operator_has_one_rule() -> None:
    assert merged([{1: "a"}, {2: "b"}]) == {1: "a", 2: "b"}
    with pytest.raises(ValueError, match="two rules for 1"):
        merged([{1: "a"}, {1: "b"}])
