from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("tvm", reason="needs Apache TVM")

from qpc.backends.tvm.kernels.isa.choose import isa_for
from qpc.errors import UnsupportedTargetError
from qpc.targets import TARGETS, Target
from qpc.targets.costs import Costs

pytestmark = pytest.mark.tvm


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_every_target_has_instructions(target: Target) -> None:
    isa = isa_for(target)
    assert isa.name == target.isa
    assert isa.lanes == target.vector_lanes


def own(lanes: int, isa: str, *features: str) -> Target:
    return Target("mine", "x86_64-unknown-linux-gnu", features, lanes, isa)


@pytest.mark.parametrize(
    "target",
    [
        own(16, "generic"),
        own(4, "sse4.1", "sse4.1"),
        own(8, "avx2", "avx2"),
        own(8, "avx-vnni", "avxvnni"),
        own(8, "avx-vnni", "avx512bw", "avx512vl", "avx512vnni"),
        own(16, "avx512-vnni", "avx512bw", "avx512vl", "avx512vnni"),
    ],
    ids=lambda target: f"{target.isa} {target.features}",
)
def test_a_target_of_the_user_needs_little(target: Target) -> None:
    assert isa_for(target).lanes == target.vector_lanes


@pytest.mark.parametrize(
    ("target", "text"),
    [
        (own(4, "altivec"), "unknown isa 'altivec' of target 'mine'"),
        (own(4, "neon", "neon"), "isa 'neon' is for aarch64, target 'mine' is for x86_64"),
        (
            replace(Target.parse("armv7-a"), isa="neon"),
            "isa 'neon' is for aarch64, target 'armv7-a' is for armv7l",
        ),
        (own(16, "avx2", "avx2"), "works on vectors of 8 lanes, .* has vector_lanes=16"),
        (own(8, "avx2"), "isa 'avx2' needs the features avx2, which target 'mine' lacks"),
        (own(8, "avx-vnni", "avx2"), "needs the features avxvnni or avx512bw, avx512vl, avx512vnn"),
        (own(16, "avx512", "avx512bw"), "needs the features avx512bw, avx512vl"),
        (own(16, "amx", "avx512bw", "avx512vl", "avx512vnni"), "amx-int8, amx-tile, avx512bw"),
    ],
    ids=lambda value: value.isa if isinstance(value, Target) else "",
)
def test_what_would_end_the_process_inside_of_llvm_is_refused(target: Target, text: str) -> None:
    with pytest.raises(UnsupportedTargetError, match=text):
        isa_for(target)


def test_instructions_that_multiply_unsigned_bytes_refuse_signed_activations() -> None:
    target = replace(own(8, "avx2", "avx2"), activation="int8")
    message = "isa 'avx2' multiplies uint8 by int8, target 'mine' has activation='int8'"
    with pytest.raises(UnsupportedTargetError, match=message) as caught:
        isa_for(target)
    assert caught.value.fix == "activation='uint8', or isa='generic', which takes both"


@pytest.mark.parametrize("isa", ["generic", "plain-matrices"])
def test_plain_arithmetic_takes_both_types_of_activations(isa: str) -> None:
    for activation in ("uint8", "int8"):
        made = isa_for(replace(own(16, isa), activation=activation))
        assert made.activation == made.x_type == activation


def test_costs_of_a_target_reach_all_of_its_instructions() -> None:
    costs = replace(Costs(), scratch_bytes=1024)
    for target in TARGETS:
        isa = isa_for(replace(target, costs=costs))
        for each in (isa, isa.words, *isa.exact_for(np.ones(1, np.int8))):
            assert each is None or each.costs.scratch_bytes == 1024
