from __future__ import annotations

import sys
from pathlib import Path

import pytest

from qpc.errors import ConfigError, MissingDependencyError
from qpc.parallel.in_process import InProcess
from qpc.parallel.on_ray import Ray
from qpc.parallel.run import run_jobs
from qpc.parallel.work import Plain
from tests.parallel.jobs import Unlucky, product, refuse

JOBS: dict[str, Plain] = {f"job {i}": i for i in range(12)}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # Ray leaves files and processes to the collector
def test_a_cluster_of_two_workers_of_which_one_is_killed_gives_the_results_of_one_process(
    tmp_path: Path,
) -> None:
    ray = pytest.importorskip("ray")
    ray.init(num_cpus=2, log_to_driver=False, include_dashboard=False)
    try:
        results = run_jobs(Unlucky(str(tmp_path), (4,), how="die"), JOBS, executor=Ray())
        assert results == run_jobs(product, JOBS, executor=InProcess(threads=1))
        assert (tmp_path / "4").read_text() == "xx"
        with pytest.raises(ConfigError, match="1 is not allowed"):
            run_jobs(refuse, {"a": 1}, executor=Ray())
        assert ray.is_initialized()
    finally:
        ray.shutdown()


def test_without_ray_it_is_said_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingDependencyError, match="Ray cannot be imported") as caught:
        run_jobs(product, JOBS, executor=Ray())
    assert caught.value.fix == "pip install 'quantize-prune-compiler[ray]'"


def test_settings_are_checked() -> None:
    with pytest.raises(ConfigError, match="threads must be at least 1, got 0"):
        Ray(threads=0)
