"""Networks with ImageNet weights are quantized whole, and their logits survive it."""

from __future__ import annotations

import pytest

pytest.importorskip("PIL", reason="needs the packages of requirements-models.txt")

from benchmarks.accuracy import Result, Subject, integer_layers, run, sqnr_db
from benchmarks.real_models import NETWORKS

pytestmark = pytest.mark.models


@pytest.mark.thorough
def test_a_few_photographs_show_that_mobilenet_v2_survives() -> None:
    subject = subject_of("mobilenet_v2", every=20)
    integer = subject.quantize()

    assert integer_layers(integer) == 53
    assert sqnr_db(subject.logits, run(integer, subject.images)) >= 14.0


@pytest.mark.slow
@pytest.mark.tvm
@pytest.mark.parametrize(
    ("name", "layers", "least_sqnr_db", "least_agreement"),
    [("mobilenet_v2", 53, 14.0, 0.9), ("efficientnet_lite0", 50, 18.0, 0.95)],
)
def test_default_settings_quantize_every_layer_and_keep_logits_and_classes(
    name: str, layers: int, least_sqnr_db: float, least_agreement: float
) -> None:
    pytest.importorskip("tvm", reason="needs Apache TVM")
    result: Result = subject_of(name).measure()

    assert (result.quantized, result.layers) == (layers, layers)
    assert result.differing == 0  # between compiled code and the integer graph
    assert result.images >= 150
    assert result.sqnr_db >= least_sqnr_db
    assert result.agreement >= least_agreement
    assert result.top1 >= result.top1_float - 0.05  # 8 of the 160 images


def subject_of(name: str, *, every: int = 1) -> Subject:
    try:
        return Subject(NETWORKS[name], every=every)
    except ModuleNotFoundError as e:
        pytest.skip(f"{e.name} is not installed; see requirements-models.txt")
