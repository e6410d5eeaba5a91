from __future__ import annotations

import json
from pathlib import Path

import pytest

from qpc.errors import ArtifactError
from qpc.reporting.data import Report, read_report

SCHEMA = Path(__file__).parents[2] / "docs" / "report.schema.json"


def test_the_schema_in_the_documentation_is_that_of_the_code() -> None:
    assert json.loads(SCHEMA.read_text("utf-8")) == Report.model_json_schema()


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
