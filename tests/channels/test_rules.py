"""The table of rules names operators that exist, and can be extended."""

from __future__ import annotations

import operator

from torch._ops import OpOverload

from qpc.calls import aten
from qpc.channels import layers as channel_layers
from qpc.channels import moves as channel_moves
from qpc.channels.rules import RULES
from qpc.registry import Role, registered


def test_every_rule_is_of_an_operator() -> None:
    assert all(isinstance(target, OpOverload) for target in RULES.keys() - {operator.getitem})


def test_spellings_of_one_kind_share_a_rule() -> None:
    assert RULES[aten.conv2d.default] is RULES[aten.linear.default] is channel_layers.layer
    assert RULES[aten.index.Tensor] is RULES[aten.index_select.default] is channel_moves.index


def test_every_operator_that_can_be_quantized_has_a_rule() -> None:
    quantized = [spec for spec in registered() if spec.role is not Role.RECURRENT]
    assert [spec.name for spec in quantized if spec.target not in RULES] == []
