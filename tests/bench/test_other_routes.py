"""The comparison with PyTorch's own route runs from one end to the other."""

from __future__ import annotations

from pathlib import Path

import pytest

DATA = Path("/usr/share/datasets/fashion-mnist")


@pytest.mark.slow
def test_all_routes_end_in_a_model_that_is_judged() -> None:
    pytest.importorskip("torchao")
    pytest.importorskip("torch_pruning")
    if not DATA.is_dir():
        pytest.skip("Fashion-MNIST is not installed")
    from benchmarks.other_routes import ROUTES, main

    found = main(["--quick"])
    assert [made.route for made in found] == list(ROUTES)
    assert all(made.latency_s < 10.0 and made.bytes for made in found)
    assert found[0].accuracy > 0.8
    assert found[2].macs < 0.6 * found[0].macs
    assert abs(found[3].macs / found[2].macs - 1.0) < 0.15
