"""A package outside of QPC brings an observer, with public names alone."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import nn

import qpc
from qpc.errors import ConfigError
from qpc.meta import info
from qpc.quant.config import ActivationConfig, LayerConfig, QuantConfig
from qpc.quant.observers import OBSERVERS
from qpc.recipes import prepare
from qpc.testing import traced
from tests.public_names import private_names

PACKAGE = Path(__file__).parent / "data" / "sample_extras"
X = torch.tensor([[0.0, 1.0], [0.5, 2.0]])


@pytest.fixture
def extras(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(PACKAGE)
    return importlib.import_module("sample_extras")


def test_the_package_uses_public_names_alone() -> None:
    assert private_names(PACKAGE) == set()


def test_grids_are_those_of_what_it_saw(extras: ModuleType) -> None:
    observer = extras.FirstBatch(widen=0.5)
    config = QuantConfig(default=LayerConfig(activation=ActivationConfig(observer=observer)))
    gm = qpc.quantize(traced(nn.Linear(2, 2), X), [X, 100 * X], config)
    grids = [q for n in gm.graph.nodes if (q := info(n).qparams) is not None]
    assert grids[0].real_range == pytest.approx((0.0, 1.0), abs=0.01)


def test_texts_know_it_by_its_name(extras: ModuleType) -> None:
    observer = extras.FirstBatch(widen=2.0)
    assert qpc.to_yaml(observer) == "observer:\n  kind: first-batch\n  widen: 2.0\n"
    assert qpc.from_yaml(qpc.to_yaml(observer)) == observer


def test_configurations_and_pipelines_hold_it(extras: ModuleType, tmp_path: Path) -> None:
    observer = extras.FirstBatch(widen=2.0)
    config = QuantConfig(default=LayerConfig(activation=ActivationConfig(observer=observer)))
    config.to_yaml(tmp_path / "config.yaml")
    assert QuantConfig.from_yaml(tmp_path / "config.yaml") == config
    pipeline = prepare(config)
    assert qpc.from_yaml(qpc.to_yaml(pipeline), qpc.Pipeline) == pipeline


def test_a_graph_with_its_observers_is_saved(extras: ModuleType, tmp_path: Path) -> None:
    observer = extras.FirstBatch()
    config = QuantConfig(default=LayerConfig(activation=ActivationConfig(observer=observer)))
    observed = prepare(config).run(traced(nn.Linear(2, 2), X))
    qpc.save_graph(observed, tmp_path / "graph")
    assert qpc.fingerprint(qpc.load_graph(tmp_path / "graph")) == qpc.fingerprint(observed)


def test_its_name_is_what_it_says_itself(extras: ModuleType) -> None:
    message = "the observer FirstBatch must have a field `kind` with default 'other'"
    with pytest.raises(ConfigError, match=message):
        OBSERVERS.named("other")(extras.FirstBatch)
