from pathlib import Path

import pytest

from qpc.errors import UnsupportedTargetError
from qpc.target import TARGETS, Target, cpu_features

_SSE4_FLAGS = "cx16 popcnt pni ssse3 sse4_1 sse4_2"
_AVX2_FLAGS = f"{_SSE4_FLAGS} avx avx2 bmi1 bmi2 f16c fma abm movbe"
_AVX512_FLAGS = f"{_AVX2_FLAGS} avx512f avx512bw avx512cd avx512dq avx512vl"


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> "type[_Machine]":
    _Machine.monkeypatch, _Machine.cpuinfo = monkeypatch, tmp_path / "cpuinfo"
    return _Machine


class _Machine:
    """Pretend to be another machine."""

    monkeypatch: pytest.MonkeyPatch
    cpuinfo: Path
    gives_matrices = True

    @classmethod
    def has(cls, *flags_of_each_core: str, architecture: str = "x86_64") -> None:
        cls.cpuinfo.write_text("".join(f"model : x\nflags\t\t: {f}\n" for f in flags_of_each_core))
        cls.monkeypatch.setattr("qpc.target._CPUINFO", cls.cpuinfo)
        cls.monkeypatch.setattr("platform.machine", lambda: architecture)
        cls.monkeypatch.setattr("qpc.target._may_use_matrices", lambda: cls.gives_matrices)


@pytest.mark.parametrize(
    ("flags", "name"),
    [
        ("fpu sse sse2", "x86-64"),
        (_SSE4_FLAGS, "x86-64-sse4"),
        (_AVX2_FLAGS, "x86-64-avx2"),
        (_AVX512_FLAGS, "x86-64-avx512"),
        (f"{_AVX512_FLAGS} avx512_vnni", "x86-64-avx512-vnni"),
        (f"{_AVX512_FLAGS} avx512_vnni avx512vbmi", "x86-64-avx512-vnni-vbmi"),
        (f"{_AVX512_FLAGS} avx512_vnni avx512vbmi amx_tile amx_int8", "x86-64-amx"),
        (f"{_AVX512_FLAGS} avx512_vnni avx512vbmi amx_tile", "x86-64-avx512-vnni-vbmi"),
        (_AVX512_FLAGS.replace("avx512vl", "avx512_vnni"), "x86-64-avx2"),
        (f"{_AVX2_FLAGS} avx_vnni", "x86-64-avx-vnni"),
        (f"{_AVX512_FLAGS} avx512_vnni avx_vnni", "x86-64-avx512-vnni"),
    ],
)
def test_native_is_the_best_target_that_the_flags_allow(
    machine: type[_Machine], flags: str, name: str
) -> None:
    machine.has(flags)
    assert Target.native().name == name
    assert Target.parse("native") == Target.native()


def test_a_feature_must_be_on_every_core(machine: type[_Machine]) -> None:
    machine.has(_AVX512_FLAGS, _AVX2_FLAGS)
    assert Target.native().name == "x86-64-avx2"


def test_a_machine_without_a_target_is_an_error(machine: type[_Machine]) -> None:
    machine.has("", architecture="s390x")
    with pytest.raises(UnsupportedTargetError, match="no target for this machine, a 's390x'"):
        Target.native()


def test_says_why_code_does_not_run_here(machine: type[_Machine]) -> None:
    machine.has(_AVX512_FLAGS)
    reason = Target.parse("x86-64-avx512-vnni-vbmi").runs_here()
    assert reason == "this CPU lacks avx512vbmi, avx512vnni"
    machine.has("", architecture="aarch64")
    reason = Target.parse("x86-64").runs_here()
    assert reason == "code is for x86_64, this machine is aarch64"


def test_the_operating_system_may_refuse_the_registers_of_amx(
    machine: type[_Machine], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "gives_matrices", False)
    machine.has(f"{_AVX512_FLAGS} avx512_vnni avx512vbmi amx_tile amx_int8")
    reason = Target.parse("x86-64-amx").runs_here()
    assert reason == "the operating system does not let this process use the registers of AMX"
    assert Target.native().name == "x86-64-avx512-vnni-vbmi"


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_every_target_can_be_named(target: Target) -> None:
    assert Target.parse(target.name) is target


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(UnsupportedTargetError, match="unknown target 'x86'") as error:
        Target.parse("x86")
    assert error.value.fix is not None
    assert error.value.fix.startswith("use one of: native, x86-64, x86-64-sse4")


def test_attributes_are_in_llvm_notation() -> None:
    assert Target.parse("x86-64").mattr == ()
    vnni = Target.parse("x86-64-avx512-vnni").mattr
    assert "+avx512vnni" in vnni
    assert "-prefer-256-bit" in vnni


def test_flags_without_a_flags_line_mean_no_feature(tmp_path: Path) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("processor : 0\n")
    assert cpu_features(("avx2",), cpuinfo) == set()
