from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch.fx import GraphModule

import qpc
from qpc.errors import ArtifactError, CalibrationError, ConfigError
from qpc.parallel.in_process import InProcess
from qpc.parallel.processes import Processes
from tests.precision.nets import chain, residual


def mean_output(gm: GraphModule) -> float:
    return float(gm(torch.ones(1, 3, 8, 8)).mean())


def test_each_part_is_reduced_alone_and_fewer_bits_are_noisier() -> None:
    gm, batches = residual()
    before = qpc.fingerprint(gm)
    found = qpc.sensitivity(gm, batches)
    assert qpc.fingerprint(gm) == before
    kinds = {(e.kind, e.name) for e in found.effects}
    assert {("weights", "a"), ("activations", "add"), ("channels", "a + b")} <= kinds
    for kind, name in kinds - {("channels", "a + b")}:
        noise = [found.of(kind, name, bits) for bits in (8, 6, 4)]
        assert [n.noise for n in noise if n] == sorted(n.noise for n in noise if n)
    assert found.metric is None


def test_the_users_metric_sees_a_model_that_is_reduced_in_one_place() -> None:
    gm, batches = residual()
    found = qpc.sensitivity(gm, batches, evaluate=mean_output, bits=(2,))
    assert found.metric == mean_output(gm)
    assert len({e.metric for e in found.effects}) == len(found.effects)


def test_a_layer_without_effect_has_no_noise() -> None:
    gm, batches = chain(4, 4, 2)
    with torch.no_grad():
        gm.get_parameter("1.weight").zero_()
    found = qpc.sensitivity(gm, batches, bits=(4,), fewer_channels=())
    effect = found.of("weights", "0", 4)
    assert effect is not None
    assert effect.noise == 0.0


@pytest.mark.thorough
def test_it_goes_on_after_an_interruption_and_refuses_another_graph(tmp_path: Path) -> None:
    gm, batches = residual()
    calls = 0

    def interrupted(graph: GraphModule) -> float:
        nonlocal calls
        calls += 1
        if calls == 7:
            raise KeyboardInterrupt
        return mean_output(graph)

    def run(graph: GraphModule = gm) -> object:
        return qpc.sensitivity(
            graph, batches, evaluate=interrupted, bits=(4,), folder=tmp_path / "run"
        )

    with pytest.raises(KeyboardInterrupt):
        run()
    found = run()
    assert calls == 1 + len(qpc.sensitivity(gm, batches, bits=(4,)).effects) + 1
    calls = 100
    assert run() == found
    assert calls == 100
    changed = chain(4, 2)[0]
    with pytest.raises(ArtifactError, match="is about something else: graph, batches changed"):
        qpc.sensitivity(changed, [torch.ones(1, 4)], evaluate=interrupted, folder=tmp_path / "run")


@pytest.mark.slow
def test_two_processes_find_what_one_finds() -> None:
    gm, batches = residual()
    alone = qpc.sensitivity(gm, batches, evaluate=mean_output, executor=InProcess(threads=1))
    assert qpc.sensitivity(gm, batches, evaluate=mean_output, executor=Processes(2)) == alone


def test_settings_and_metrics_that_make_no_sense_are_refused() -> None:
    gm, batches = chain(4, 4, 2)
    for value, shown in ((math.nan, "nan"), ("good", "str"), (None, "NoneType"), (True, "True")):
        with pytest.raises(ConfigError, match=f"must return a finite number, got {shown}"):
            qpc.sensitivity(gm, batches, evaluate=lambda _, v=value: v, bits=(4,))  # type: ignore[misc]  # on purpose
    with pytest.raises(ConfigError, match="bits must be from 2 to 8, got 9"):
        qpc.sensitivity(gm, batches, bits=(9,))
    with pytest.raises(ConfigError, match="bits must be a sequence of numbers, got 8"):
        qpc.sensitivity(gm, batches, bits=8)  # type: ignore[arg-type]  # on purpose
    with pytest.raises(ConfigError, match=r"bits must be different numbers, got \(4, 4\)"):
        qpc.sensitivity(gm, batches, bits=(4, 4))
    for share in (0.0, 1.5):
        problem = f"fewer_channels must be greater than 0 and at most 1, got {share}"
        with pytest.raises(ConfigError, match=problem):
            qpc.sensitivity(gm, batches, fewer_channels=(share,))
    with pytest.raises(ConfigError, match="nothing to try"):
        qpc.sensitivity(gm, batches, bits=(), fewer_channels=())
    with pytest.raises(ConfigError, match="workers must be at least 1, got 0"):
        qpc.sensitivity(gm, batches, workers=0)
    with pytest.raises(CalibrationError, match="there are no batches"):
        qpc.sensitivity(gm, iter(()))
    with pytest.raises(CalibrationError, match="sensitivity needs an iterable of batches"):
        qpc.sensitivity(gm, batches[0])


def test_a_generator_will_do() -> None:
    gm, batches = chain(4, 4, 2)
    assert qpc.sensitivity(gm, iter(batches)) == qpc.sensitivity(gm, batches)
