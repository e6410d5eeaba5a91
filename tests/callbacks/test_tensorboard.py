from __future__ import annotations

import sys
from pathlib import Path

import pytest

from qpc.callbacks.tensorboard import TensorBoard
from qpc.errors import MissingDependencyError
from tests.compression.running import LOOP, run


@pytest.mark.thorough
@pytest.mark.models
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # TensorBoard's own
def test_a_run_is_read_from_its_event_files(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="TensorBoard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    result = run(LOOP, callbacks=[TensorBoard(tmp_path)])
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    told = [(event.step, event.value) for event in events.Scalars("judged/metric")]
    assert told == [(step, pytest.approx(row.metric)) for step, row in enumerate(result.rows)]
    assert "compress/settings/text_summary" in events.Tags()["tensors"]
    (end,) = events.Tensors("end/text_summary")
    assert end.tensor_proto.string_val[0] == b"done"


def test_without_it_the_error_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(MissingDependencyError, match="TensorBoard cannot be imported") as caught:
        TensorBoard(tmp_path)
    assert caught.value.fix == "pip install 'quantize-prune-compiler[tensorboard]'"
