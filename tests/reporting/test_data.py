from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from pydantic import ValidationError

from qpc.errors import ArtifactError
from qpc.reporting.data import Layer, Report, read_report

SCHEMA = Path(__file__).parents[2] / "docs" / "report.schema.json"


def test_the_schema_in_the_documentation_is_that_of_the_code() -> None:
    assert json.loads(SCHEMA.read_text("utf-8")) == Report.model_json_schema()


@pytest.mark.parametrize("sparsity", [-0.01, 1.01, math.nan])
def test_shares_are_from_0_to_1(sparsity: float) -> None:
    about = {"name": "a", "node": "a", "module": "", "operator": "conv2d", "shape": "", "macs": 0}
    assert Layer.model_validate({**about, "form": "integer", "sparsity": 1.0}).sparsity == 1.0
    with pytest.raises(ValidationError):
        Layer.model_validate({**about, "form": "integer", "sparsity": sparsity})


def test_what_is_no_report_is_refused_with_its_reason(tmp_path: Path) -> None:
    file = tmp_path / "report.json"
    with pytest.raises(ArtifactError, match="cannot read a report from"):
        read_report(file)
    for text in ("[1", "[" * 100_000):
        file.write_text(text)
        with pytest.raises(ArtifactError, match="cannot read a report from"):
            read_report(file)
    file.write_text('{"format": "qpc-report-2"}')
    with pytest.raises(ArtifactError, match="its format is 'qpc-report-2', not 'qpc-report-1'"):
        read_report(file)
    file.write_text('{"format": "qpc-report-1"}')
    with pytest.raises(ArtifactError, match="is damaged: qpc: Field required"):
        read_report(file)
