from __future__ import annotations

import pytest
import torch

from qpc.errors import ConfigError
from qpc.parallel.in_process import InProcess
from qpc.parallel.run import run_jobs
from qpc.parallel.work import Plain


def threads(_: Plain) -> Plain:
    return torch.get_num_threads()


def test_the_number_of_threads_is_that_before_in_the_end() -> None:
    before = torch.get_num_threads()
    assert run_jobs(threads, {"a": None}, executor=InProcess(threads=3)) == {"a": 3}
    assert run_jobs(threads, {"a": None}) == {"a": before}
    assert torch.get_num_threads() == before


def test_settings_are_checked() -> None:
    with pytest.raises(ConfigError, match="threads must be at least 1, got 0"):
        InProcess(threads=0)
