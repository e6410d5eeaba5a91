from pathlib import Path

import pytest

from qpc.targets.host import CpuInfo


@pytest.fixture
def cpuinfo(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    file = tmp_path / "cpuinfo"
    monkeypatch.setattr("qpc.targets.host._CPUINFO", file)
    return file


def test_each_architecture_has_its_own_line_and_spellings(cpuinfo: Path) -> None:
    cpuinfo.write_text("processor\t: 0\nFeatures\t: fp asimd asimddp\nflags\t\t: avx2 abm\n")
    arm = CpuInfo("Features", {"neon": "asimd", "dotprod": "asimddp", "i8mm": "i8mm"})
    assert arm.available({"neon", "dotprod", "i8mm", "avx2"}) == {"neon", "dotprod"}
    assert CpuInfo("flags", {"lzcnt": "abm"}).available({"avx2", "lzcnt", "abm"}) == {
        "avx2",
        "lzcnt",
        "abm",
    }


def test_what_cannot_be_read_is_not_taken_for_a_cpu_without_features(cpuinfo: Path) -> None:
    host = CpuInfo("flags")
    assert host.available({"avx2"}) is None
    assert host.source == str(cpuinfo)
    cpuinfo.write_text("processor\t: 0\n")
    assert host.available({"avx2"}) == set()
