from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from qpc.errors import ConfigError, UnsupportedTargetError
from qpc.plain_yaml import plain_yaml
from qpc.quant.config import QuantConfig
from qpc.targets.own import read_target

WRONG = {
    "a: 2001-99-99": "month must be in 1..12",
    "a: " + "9" * 6000: "4300 digits",
    "[" * 3000: "it is nested too deeply",
    "a: \0": "special characters are not allowed",
    "!!python/object/apply:os.system ['id']": "could not determine a constructor",
}


def test_plain_data() -> None:
    assert plain_yaml("a: [1, x]") == {"a": [1, "x"]}


@pytest.mark.parametrize("text", WRONG, ids=lambda text: text[:12])
def test_all_that_is_no_plain_data_fails_in_one_way(text: str, tmp_path: Path) -> None:
    with pytest.raises(yaml.YAMLError, match=WRONG[text]):
        plain_yaml(text)
    file = tmp_path / "own.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=WRONG[text]):
        QuantConfig.from_yaml(file)
    with pytest.raises(UnsupportedTargetError, match=WRONG[text]):
        read_target(file)
