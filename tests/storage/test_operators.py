"""What QPC knows can be saved; what writes, reads files or looks at foreign memory cannot."""

from __future__ import annotations

import operator

import pytest
import torch
from torch._ops import OpOverload

from qpc.registry import registered
from qpc.storage.aten import ATEN
from qpc.storage.operators import RefusedCallError, check_call, find, name_of

aten = torch.ops.aten


def test_every_operator_that_qpc_knows_can_be_saved() -> None:
    known = [spec.target for spec in registered()]
    assert len(known) > 150
    for target in known:
        assert find(name_of(target)) is target
    assert find(name_of(operator.floordiv)) is operator.floordiv


def test_the_list_has_functional_operators_of_pytorch_only() -> None:
    for name in ATEN:
        packet = getattr(aten, name)
        allowed = []
        for overload in packet.overloads():
            try:
                allowed.append(find(f"aten.{name}.{overload}"))
            except RefusedCallError:
                continue
        assert allowed, name
        for target in allowed:
            assert isinstance(target, OpOverload)
            assert not target._schema.is_mutable


@pytest.mark.parametrize(
    "name",
    """
    aten.from_file.default aten.as_strided.default aten.empty.memory_format aten.set.source_Storage
    aten.resize.default aten.new_empty.default aten.empty_like.default aten.item.default
    aten.nonzero.default aten.relu_.default aten.add_.Tensor aten.record_stream.default
    inductor._reinterpret_tensor.default prims.as_strided.default quantized.conv2d.new
    debugprims.load_tensor.default aten.relu aten.relu.overloads aten.__class__.default
    qpc.__class__.default qpc.nothing.default operator.attrgetter builtins.eval x
    """.split(),  # noqa: SIM905
)
def test_nothing_else_is_found(name: str) -> None:
    with pytest.raises(RefusedCallError, match=r"is no (operator|arithmetic)"):
        find(name)


def test_what_pytorch_takes_for_a_type_is_taken() -> None:
    for args in ([1.0, 2], [1.0, 2.0]):
        check_call(aten.add.Tensor, args, {"alpha": 1})
    check_call(aten.avg_pool2d.default, [1.0, [2], [], 0, False, True, None], {})
    check_call(aten.avg_pool2d.default, [1.0, 2], {})
    check_call(aten.index.Tensor, [1.0, [None, 1.0]], {})
    check_call(aten.arange.default, [3], {"dtype": torch.int64, "device": torch.device("cpu")})
    with pytest.raises(RefusedCallError, match=r"takes List\[int\] for 'dims'"):
        check_call(aten.permute.default, [1.0, 2], {})
