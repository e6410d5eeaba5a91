"""What the homes of operators say of them."""

from __future__ import annotations

from qpc.calls import aten
from qpc.registry import OpSpec, Quantization, registered

SPECS = {spec.target: spec for spec in registered()}


def can_be_integer(spec: OpSpec) -> bool:
    known = spec.quantization
    return not isinstance(known, Quantization) or known.convert is not None


def test_spellings_of_one_kind_share_a_rule() -> None:
    one, other = SPECS[aten.conv2d.default], SPECS[aten.conv_transpose2d.input]
    assert one.channels_together is not None
    assert one.channels_together is other.channels_together
    assert SPECS[aten.index.Tensor].channels is SPECS[aten.index_select.default].channels


def test_every_operator_that_can_be_quantized_has_a_rule_for_channels() -> None:
    quantized = [spec for spec in registered() if can_be_integer(spec)]
    assert len(quantized) > 60
    assert [spec.name for spec in quantized if not spec.follows_channels] == []


def test_every_operator_of_qpc_is_exact_but_for_those_that_lead_there_or_sum_floats() -> None:
    ours = [spec.target for spec in registered() if spec.target.namespace == "qpc"]
    floats = [str(target) for target in ours if not SPECS[target].exact]
    assert floats == [
        "qpc.observe.default",
        "qpc.fake_quantize.default",
        "qpc.unfold_step.default",
        "qpc.round_bias.default",
        "qpc.weight_only_linear.default",
    ]


def test_the_numbers_of_every_integer_operator_are_checked() -> None:
    ours = [spec for spec in registered() if spec.target.namespace == "qpc" and spec.exact]
    assert [spec.name for spec in ours if spec.check is None] == []
