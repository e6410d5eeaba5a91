"""The measurement of imported models runs from one end to the other."""

from __future__ import annotations

import pytest


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of what torchao imports
@pytest.mark.filterwarnings("ignore:TF32")  # of PyTorch about oneDNN
def test_imported_models_keep_weights_and_classes(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("torchao")
    from benchmarks.imported import main

    main(["--network", "resnet18-trained", "--every", "40", "--steps", "2"])
    _, line, own = capsys.readouterr().out.splitlines()
    words = line.split()
    assert words[:2] == ["resnet18,", "2"]
    assert words[3:5] == ["21/21", "21/21"]
    assert float(words[5].rstrip("%")) >= 96.0
    assert words[-3:] == ["0", "of", "250"]
    assert own.split()[0] == "torchao,"
