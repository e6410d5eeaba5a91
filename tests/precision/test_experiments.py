from __future__ import annotations

import pickle

import pytest
import torch

from qpc.errors import ConfigError
from qpc.precision.experiments import Experiments, checked_metric, groups_of
from qpc.precision.sensitivity import gathered, prepare_parts
from qpc.pruning.magnitude import L1
from qpc.quant.config import QuantConfig
from tests.precision.nets import residual


def experiments() -> Experiments:
    gm, batches = residual()
    inputs = gathered(gm, batches)
    prepared = prepare_parts(gm, inputs, QuantConfig())
    groups = groups_of(gm, L1())
    return Experiments(gm, prepared.observed, inputs, prepared.parts, groups, L1(), None)


@pytest.mark.thorough
def test_what_another_process_receives_gives_the_same_results() -> None:
    here = experiments()
    there = pickle.loads(pickle.dumps(here))
    for argument in (
        {"kind": "weights", "place": 1, "amounts": [8, 4]},
        {"kind": "channels", "place": 0, "amounts": [0.25, 0.5]},
        {"kind": "weights", "place": 0, "amounts": []},
    ):
        assert there(argument) == here(argument)  # type: ignore[arg-type]  # lists of numbers are plain


def test_a_group_of_channels_loses_its_share_and_keeps_one() -> None:
    (group,) = experiments().groups
    assert group.layers == ("a", "b")
    assert (group.units, group.removable) == (8, 7)
    assert [group.removed(share) for share in (0.01, 0.25, 1.0)] == [0, 2, 7]


def test_metrics_may_be_numbers_of_any_kind() -> None:
    assert checked_metric(torch.tensor([0.5])) == 0.5
    assert checked_metric(3) == 3.0
    with pytest.raises(ConfigError, match="evaluate must return a finite number, got inf"):
        checked_metric(float("inf"))
