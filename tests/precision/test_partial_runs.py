from __future__ import annotations

import math

import pytest
import torch

from qpc.errors import CalibrationError
from qpc.precision.experiments import with_grids
from qpc.precision.partial_runs import NoiseSums, only_rounded, output_noise, require_finite
from qpc.precision.sensitivity import gathered, prepare_parts
from qpc.quant.config import QuantConfig
from tests.precision.nets import residual


def test_the_rest_of_a_graph_gives_the_noise_of_the_whole() -> None:
    gm, batches = residual()
    prepared = prepare_parts(gm, gathered(gm, batches), QuantConfig())
    graphs = [with_grids(prepared.observed, bits) for bits in (8, 4)]
    exact = only_rounded(graphs[0], ())
    for part in prepared.parts:
        noise = output_noise([[b] for b in batches], graphs, part.roundings)
        for rounded, found in zip(graphs, noise, strict=True):
            whole = only_rounded(rounded, part.roundings(rounded))
            sums = NoiseSums()
            for batch in batches:
                sums.add([exact(batch)], [whole(batch)])
            assert found == sums.ratio() > 0


def test_a_graph_that_rounds_nothing_is_the_float_graph() -> None:
    gm, batches = residual()
    prepared = prepare_parts(gm, gathered(gm, batches), QuantConfig())
    plain = only_rounded(with_grids(prepared.observed, 2), ())
    assert torch.equal(plain(batches[0]), prepared.tidy(batches[0]))


def test_noise_is_averaged_over_outputs_that_have_any() -> None:
    sums = NoiseSums()
    one, zero = torch.ones(2), torch.zeros(2)
    sums.add([one, zero], [one * 1.5, zero])
    assert sums.ratio() == 0.125
    sums.add([one, zero], [one, one])
    assert sums.ratio() == math.inf
    assert NoiseSums().ratio() == 0.0


def test_noise_that_is_no_number_is_infinite() -> None:
    sums = NoiseSums()
    sums.add([torch.ones(2)], [torch.tensor([1.0, math.nan])])
    assert sums.ratio() == math.inf


def test_outputs_that_are_no_numbers_before_rounding_are_refused() -> None:
    with pytest.raises(CalibrationError, match="the outputs for batch 3 are not finite, in float"):
        require_finite([torch.tensor([math.inf])], 3)
