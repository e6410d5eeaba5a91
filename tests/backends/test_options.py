"""What is asked of a compilation is checked once, for all backends, before anything is done."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import qpc
from qpc.backends.options import DEFAULT_SECONDS, CompileOptions
from qpc.errors import BackendError


def test_options_are_the_defaults_of_compile() -> None:
    options = CompileOptions()
    assert (options.batch_sizes, options.threads, options.cache, options.tune) == (
        (1,),
        1,
        True,
        False,
    )
    assert options.seconds == 0.0


def test_batch_sizes_of_any_kind_become_a_tuple() -> None:
    assert CompileOptions([1, 4]).batch_sizes == (1, 4)
    assert CompileOptions(range(1, 3)) == CompileOptions((1, 2))


def test_tuning_takes_its_seconds() -> None:
    assert CompileOptions(tune=True).seconds == DEFAULT_SECONDS
    assert CompileOptions(tune=5).seconds == 5.0


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"batch_sizes": 4}, "batch sizes are several numbers, got 4"),
        ({"batch_sizes": ()}, r"batch sizes must be positive numbers, got \(\)"),
        ({"batch_sizes": (1, 0)}, r"batch sizes must be positive numbers, got \(1, 0\)"),
        ({"batch_sizes": None}, r"batch sizes must be positive numbers, got \(None,\)"),
        ({"threads": True}, "threads must be a positive number, got True"),
        ({"threads": 0}, "threads must be a positive number, got 0"),
        ({"cache": b"x"}, "cache must be a bool or the path of a folder, got b'x'"),
        ({"cache": ""}, "cache must be a bool or the path of a folder, got ''"),
        ({"tune": -1}, "tune must be a positive number of seconds or a bool, got -1"),
        ({"tune": "yes"}, "tune must be a positive number of seconds or a bool, got 'yes'"),
    ],
)
@pytest.mark.parametrize("target", ["native", "reference"])
def test_what_makes_no_sense_is_refused_whatever_the_backend(
    target: str, wrong: dict[str, Any], message: str
) -> None:
    with pytest.raises(BackendError, match=message):
        CompileOptions(**wrong)
    with pytest.raises(BackendError, match=message):
        qpc.compile(qpc.trace(nn.ReLU(), torch.ones(1, 2)), target, **wrong)


def test_a_file_is_no_cache(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BackendError, match=r"cache must be the path of a folder, but .* is a file"):
        CompileOptions(cache=tmp_path / "file")
