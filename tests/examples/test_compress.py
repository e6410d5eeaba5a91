"""The example of a recipe is one that runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from qpc.compression.command import compress_file

RECIPE = Path(__file__).parents[2] / "examples" / "compress.yaml"


@pytest.mark.thorough
def test_the_example_reaches_its_target_inside_of_its_budget(tmp_path: Path) -> None:
    result = compress_file(RECIPE, tmp_path / "run")
    assert result.reached is True
    assert result.best.metric >= result.rows[0].metric - 0.02
    assert result.best.bytes < result.rows[0].bytes / 4
