from __future__ import annotations

import pytest
import torch
from torch import nn

import qpc
from qpc.errors import VerificationError
from qpc.explanation.verification import Verified, verified
from qpc.meta import attribute, copied


def stages() -> tuple[torch.fx.GraphModule, torch.fx.GraphModule]:
    torch.manual_seed(0)
    gm = qpc.trace(nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU()), torch.zeros(1, 2, 6, 6))
    return gm, qpc.quantize(gm, [torch.randn(4, 2, 6, 6)])


def test_a_model_is_verified_at_all_batch_sizes_and_another_one_is_not() -> None:
    _, integer = stages()
    said: list[tuple[int, int]] = []
    reference = qpc.compile(integer, "reference", batch_sizes=(1, 2))
    found = verified(integer, reference, told=lambda *x: said.append(x))
    assert (found.differing, found.rounded, found.well) == (0, 0, True)
    assert found.values + found.rounded == 2 * 3 * 4 * 4 * (1 + 2)
    assert said[-1] == (4, 4)
    assert str(found) == f"verified: 0 of {found.values:,} values differ from the integer graph"
    other = copied(integer)
    bias = next(n for n in other.graph.nodes if str(n.target).endswith("bias"))
    attribute(other, str(bias.target)).add_(1000)
    wrong = verified(other, reference)
    assert wrong.differing > 0
    assert not wrong.well
    assert str(wrong).startswith("not verified: ")


def test_outputs_that_depend_on_float_operators_may_differ_by_a_little() -> None:
    gm, _ = stages()
    found = verified(gm, qpc.compile(gm, "reference"))
    assert (found.values, found.differing, found.well) == (0, 0, True)
    assert found.rounded > 0
    assert "more depend on float operators, and agree to 0.0e+00 of the greatest" in str(found)
    assert not Verified(0, 0, 10, greatest=0.5).well


def test_the_command_ends_with_3_if_it_is_not_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from qpc.commands import compile as command
    from qpc.terminal.reporter import Reporter

    gm, integer = stages()
    compiled = qpc.compile(integer)
    monkeypatch.setattr(
        "qpc.explanation.verification.verified", lambda *_, **__: Verified(9, 1, 0, 0.0)
    )
    with pytest.raises(VerificationError, match="another one than its graph, which is a bug"):
        command._verified(Reporter(), gm, compiled)
