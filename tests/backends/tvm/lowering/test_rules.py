from __future__ import annotations

import pytest
import torch

pytest.importorskip("tvm", reason="Apache TVM is not installed")

from qpc.backends.common.traits import MemoryOrder
from qpc.backends.tvm import CustomKernel, KernelRequest, custom, register_kernel
from qpc.backends.tvm.lowering.rules import FLOATS, KERNELS, kernel_rules, trait_table
from qpc.calls import aten
from qpc.registry import registered

pytestmark = pytest.mark.tvm

ON_THE_WAY = {
    "qpc.observe.default",
    "qpc.fake_quantize.default",
    "qpc.round_bias.default",
    "qpc.unfold_step.default",
}
"""Operators that conversion to integers removes."""


def test_every_integer_operator_has_a_kernel() -> None:
    registered()  # which defines them
    names = [n for n in torch._C._dispatch_get_all_op_names() if n.startswith("qpc::")]
    own = {f"{name.replace('::', '.')}.default" for name in names}
    assert own - set(map(str, KERNELS)) == ON_THE_WAY


def test_no_float_operator_is_one_of_integers() -> None:
    for target in KERNELS.keys() & FLOATS.keys():
        assert KERNELS[target].traits.moves, f"{target} has the same meaning for every type"


def test_only_kernels_of_images_and_of_single_values_work_in_place() -> None:
    for target, traits in trait_table().items():
        if traits.in_place:
            assert traits.order in (MemoryOrder.IMAGES, MemoryOrder.KEPT), target
        if traits.epilogue:
            assert traits.constants == ("weight", "bias", "multiplier"), target


def _never(request: KernelRequest) -> CustomKernel:
    raise AssertionError("no graph is compiled")


def test_what_packages_register_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(custom, "_kernels", {})
    moves = kernel_rules()[aten.flip.default]
    register_kernel(aten.flip.default, _never, order=MemoryOrder.IMAGES)
    assert kernel_rules()[aten.flip.default] is not moves
    assert trait_table()[aten.flip.default].order is MemoryOrder.IMAGES
