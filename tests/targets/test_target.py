from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from qpc.errors import UnsupportedTargetError
from qpc.targets import PRESETS, TARGETS, Target, cpu_features
from qpc.targets.data import Board

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
        cls.monkeypatch.setattr("qpc.targets.host._CPUINFO", cls.cpuinfo)
        cls.monkeypatch.setattr("platform.machine", lambda: architecture)
        cls.monkeypatch.setattr("platform.system", lambda: "Linux")
        cls.monkeypatch.setattr("qpc.targets.x86_64._may_use_matrices", lambda: cls.gives_matrices)


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


def test_a_machine_without_linux_is_an_error(
    machine: type[_Machine], monkeypatch: pytest.MonkeyPatch
) -> None:
    machine.has("")
    machine.cpuinfo.unlink()
    monkeypatch.setattr("platform.system", lambda: "Darwin")
    assert Target.parse("x86-64").runs_here() == "code is for Linux, this machine runs Darwin"
    with pytest.raises(UnsupportedTargetError, match="a 'x86_64' with Darwin") as caught:
        Target.native()
    assert caught.value.fix is not None
    assert "target='reference'" in caught.value.fix


def test_a_machine_that_does_not_say_what_it_can_do_runs_what_runs_everywhere(
    machine: type[_Machine],
) -> None:
    machine.has("")
    machine.cpuinfo.unlink()
    assert Target.parse("x86-64").runs_here() is None
    reason = Target.parse("x86-64-avx2").runs_here()
    assert reason is not None
    assert reason.endswith("which says what the CPU can do, cannot be read")
    with pytest.raises(UnsupportedTargetError, match="cannot see what this CPU can do: ") as caught:
        Target.native()
    assert caught.value.fix == "mount /proc, or choose a target: 'x86-64' runs on every one"


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


@pytest.mark.parametrize("target", PRESETS, ids=lambda target: target.name)
def test_every_cpu_and_board_can_be_named_and_is_one_of_a_family(target: Target) -> None:
    assert Target.parse(target.name) is target
    families = [each for each in TARGETS if each.architecture is target.architecture]
    if target.architecture.system == "Linux":
        assert any(each.isa == target.isa for each in families)


def test_no_two_targets_have_one_name() -> None:
    names = [target.name for target in (*TARGETS, *PRESETS)]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("x86_64", "x86-64"),
        ("X86-64-AVX2", "x86-64-avx2"),
        ("avx2", "x86-64-avx2"),
        ("amx", "x86-64-amx"),
        ("x86-64-avx512vnni", "x86-64-avx512-vnni"),
        ("nativ", "native"),
        ("host", "native"),
        ("refrence", "reference"),
        ("arm64", "aarch64"),
        ("Raspberry_Pi_4", "raspberry-pi-4"),
        ("rpi4", "raspberry-pi-4"),
        ("cortexm4", "cortex-m4"),
        ("apple-m2", "apple-m1"),
        ("graviton3", "neoverse-v1"),
        ("rv64gc", "riscv64"),
    ],
)
def test_a_misspelled_name_gets_the_nearest_one(name: str, near: str) -> None:
    with pytest.raises(UnsupportedTargetError, match=f"unknown target {name!r}") as error:
        Target.parse(name)
    assert error.value.fix is not None
    assert error.value.fix.startswith(f"{near!r} may be meant; else `qpc targets` lists them all")


@pytest.mark.parametrize("name", ["", "skylake"])
def test_a_name_that_is_near_to_none_gets_where_the_list_is(name: str) -> None:
    with pytest.raises(UnsupportedTargetError, match="unknown target") as error:
        Target.parse(name)
    assert error.value.fix is not None
    assert error.value.fix.startswith("`qpc targets` lists them all")


@pytest.mark.parametrize(
    ("names", "form"),
    [
        ("tensorrt TensorRT trt", "onnx-tensorrt"),
        ("onnx onnxruntime openvino", "onnx-qdq"),
        ("tflite lite-rt edgetpu", "tflite"),
    ],
)
def test_names_of_runtimes_get_the_form_that_they_read(names: str, form: str) -> None:
    for name in names.split():
        with pytest.raises(UnsupportedTargetError, match="is a runtime, not a machine") as error:
            Target.parse(name)
        assert str(error.value.fix).startswith(f"`qpc export --form {form}` writes a file for it")


@pytest.mark.parametrize(
    ("names", "family"),
    [
        ("cuda gpu mali-g52", "GPUs"),
        ("esp32 esp32-s3", "Xtensa"),
        ("x86_64-pc-windows-msvc", "Windows"),
    ],
)
def test_names_of_other_machines_are_not_supported_yet(names: str, family: str) -> None:
    for name in names.split():
        with pytest.raises(UnsupportedTargetError, match=f"no code for {family} yet: '{name}'"):
            Target.parse(name)


ODD_FIELDS = [
    ({"name": 3}, "a target needs a name, got 3"),
    ({"name": ""}, "a target needs a name, got ''"),
    ({"features": ["avx2"]}, r"features of a target must be a tuple of .*, got \['avx2'\]"),
    ({"features": "avx2"}, "features of a target must be a tuple of names without a sign"),
    ({"features": ("+avx2",)}, "features of a target must be a tuple of names without a sign"),
    ({"features": (1,)}, "features of a target must be a tuple"),
    ({"tuning": ("prefer-256-bit",)}, r"tuning of a target must be a tuple of names with \+ or -"),
    ({"tuning": ("-avx2",)}, "that need nothing of the CPU"),
    ({"tuning": ("+sse4.1",)}, "that need nothing of the CPU"),
    ({"vector_lanes": 3}, "vector_lanes of a target must be one of 1, 2, 4, 8, 16, got 3"),
    ({"vector_lanes": 8.0}, "vector_lanes of a target must be one of"),
    ({"vector_lanes": True}, "vector_lanes of a target must be one of"),
    ({"isa": None}, "isa of a target must be a name, got None"),
    ({"activation": "int16"}, "activation of a target must be one of uint8, int8, got 'int16'"),
    ({"triple": "sparc-unknown-linux-gnu"}, "no code for 'sparc-unknown-linux-gnu'"),
    ({"triple": "x86_64-pc-windows-msvc"}, "a target is one of .*, x86_64 with Linux"),
    ({"triple": "thumbv7em-unknown-linux-gnu"}, "thumbv7em with bare metal, armv7a with Linux"),
    ({"triple": None}, "no code for None"),
    ({"cpu": 3}, "cpu of a target must be a name or None, got 3"),
    ({"abi": 1}, "abi of a target must be a name or None, got 1"),
    ({"counter": ()}, r"counter of a target must be a name or None, got \(\)"),
    ({"object_format": "pe"}, "object_format of a target must be one of elf, c, got 'pe'"),
    ({"board": 3}, "board of a target must be a Board, got 3"),
    ({"emulated": 3}, "emulated of a target must be a name or None, got 3"),
    ({"c_flags": ("mcpu",)}, "c_flags of a target must be a tuple of options"),
    ({"libraries": ["libc.so.6"]}, "libraries of a target must be a tuple of file names"),
]


@pytest.mark.parametrize(("field", "text"), ODD_FIELDS, ids=lambda value: str(value)[:30])
def test_a_target_with_an_odd_field_is_refused(field: dict[str, Any], text: str) -> None:
    with pytest.raises(UnsupportedTargetError, match=text):
        replace(Target.parse("x86-64-avx2"), **field)


def test_attributes_are_in_llvm_notation() -> None:
    assert Target.parse("x86-64").mattr == ()
    vnni = Target.parse("x86-64-avx512-vnni").mattr
    assert "+avx512vnni" in vnni
    assert "-prefer-256-bit" in vnni


def test_cores_without_a_line_of_flags_have_no_feature(machine: type[_Machine]) -> None:
    machine.has("")
    machine.cpuinfo.write_text("processor : 0\n")
    assert cpu_features(("avx2",)) == set()


def test_memory_of_a_board_is_a_number_of_bytes() -> None:
    with pytest.raises(UnsupportedTargetError, match="ram of a board must be a number of bytes"):
        Board(ram=0)


ARM_CORE = "processor\t: {}\nFeatures\t: fp asimd evtstrm crc32 cpuid{}\n"
_DOTS = " atomics fphp asimdhp asimdrdm lrcpc asimddp"


@pytest.mark.parametrize(
    ("architecture", "cpuinfo", "name"),
    [
        ("aarch64", ARM_CORE.format(0, "") + ARM_CORE.format(1, ""), "aarch64"),
        ("aarch64", ARM_CORE.format(0, _DOTS), "aarch64-dotprod"),
        ("aarch64", ARM_CORE.format(0, _DOTS) + ARM_CORE.format(1, ""), "aarch64"),
        ("arm64", ARM_CORE.format(0, f"{_DOTS} i8mm"), "aarch64-i8mm"),
        ("armv7l", "Features\t: half thumb fastmult vfp edsp neon vfpv3\n", "armv7-a"),
        ("riscv64", "hart\t: 0\nisa\t\t: rv64imafdc_zicsr\nhart\t: 1\nisa\t: rv64gc\n", "riscv64"),
    ],
)
def test_native_is_found_on_other_architectures_too(
    machine: type[_Machine], architecture: str, cpuinfo: str, name: str
) -> None:
    machine.has("", architecture=architecture)
    machine.cpuinfo.write_text(cpuinfo)
    assert Target.native().name == name


def test_a_riscv_machine_that_lacks_a_letter_is_told_so(machine: type[_Machine]) -> None:
    machine.has("", architecture="riscv64")
    machine.cpuinfo.write_text("isa\t: rv64imac\n")
    assert Target.parse("riscv64").runs_here() == "this CPU lacks d, f"


def test_nobody_compiles_on_a_microcontroller(machine: type[_Machine]) -> None:
    reason = Target.parse("cortex-m4").runs_here()
    assert reason == "code is for bare metal, this machine runs Linux"
    assert Target.parse("cortex-m4").architecture.host.available(set()) is None
