from __future__ import annotations

import json
from pathlib import Path

import pytest
from torch.fx import GraphModule

pytest.importorskip("tvm", reason="Apache TVM is not installed")

import qpc
from qpc.backends.deploy.instruction_sets import named_by_content
from qpc.backends.tvm.codegen.llvm_dispatch import needed_bits
from qpc.errors import BackendError, UnsupportedTargetError
from qpc.targets import Target
from tests.backends.deploy.conftest import small_graph
from tests.backends.deploy.models import deployable
from tests.emulation import require_tools, run
from tests.generators import IntegerGraph

pytestmark = pytest.mark.tvm
ALL = ["aarch64", "aarch64-dotprod", "aarch64-i8mm"]


def linear() -> GraphModule:
    g = IntegerGraph()
    return g.module(g.linear(g.image(8), 4))


def test_the_report_is_of_what_the_best_cpu_runs(tmp_path: Path) -> None:
    g = IntegerGraph()
    gm = g.module(g.conv2d(g.image(4, 4, 4), 9))
    made = qpc.export_library(gm, ALL, tmp_path / "net", name="net")
    alone = [qpc.export_library(gm, each, tmp_path / each, name="net").footprint for each in ALL]
    assert made.footprint.layers == alone[2].layers != alone[1].layers
    *_, sets, layers = made.report.splitlines()
    assert sets == (
        "  instruction sets: aarch64, aarch64-dotprod, aarch64-i8mm; each call takes the last that"
        " the CPU has"
    )
    assert layers == "  layers and their constants are those of aarch64-i8mm"
    assert made.report.startswith("net for aarch64, batch size 1\n")
    told = json.loads((tmp_path / "net" / "library.json").read_text())
    assert told["settings"]["instruction_sets"] == ALL


@pytest.mark.arm
@pytest.mark.thorough
def test_every_cpu_gives_the_same_bytes(tmp_path: Path) -> None:
    require_tools("aarch64")
    out = tmp_path / "net"
    made = qpc.export_library(small_graph(), ALL, out, name="net")
    assert "getauxval" in made.needs
    assert "instruction sets: aarch64, aarch64-dotprod, aarch64-i8mm; each call" in made.report
    assert json.loads((out / "library.json").read_text())["settings"]["instruction_sets"] == ALL
    for cpu in ("cortex-a53", "cortex-a76", "max"):  # the first has no sdot, the second no smmla
        assert run(out, cpu=cpu).tolerances == (None, None)
    alone = [
        qpc.export_library(small_graph(), target, tmp_path / target, name="net") for target in ALL
    ]
    constants = [each.footprint.constants for each in alone]
    assert max(constants) < made.footprint.constants < sum(constants)  # some are shared


def test_linux_says_what_instructions_need() -> None:
    assert needed_bits(Target.parse("aarch64")) == {16: 1 << 1}
    bits = needed_bits(Target.parse("aarch64-i8mm"))
    assert bits[26] == 1 << 13
    assert bits[16] >> 20 & 1


def test_constants_are_called_by_what_they_hold() -> None:
    model = deployable()
    one, other = (named_by_content(model, name) for name in ("one", "other"))
    assert one.weights.keys() == other.weights.keys()
    assert (one.run, len(one.weight_names)) == ("one_run", len(model.weight_names))
    assert all(name.startswith("constant_") for name in one.weights)


@pytest.mark.parametrize(
    ("targets", "text"),
    [
        (["x86-64", "x86-64-avx2"], "a library for 'x86-64' cannot ask what its CPU can do"),
        (["cortex-m4", "cortex-m55"], "a library for 'cortex-m4' cannot ask"),
        (["aarch64", "armv7-a"], "'aarch64' and 'armv7-a' have different architectures"),
        (ALL[::-1], "'aarch64-dotprod' needs nothing that 'aarch64-i8mm' does not"),
    ],
)
def test_targets_that_do_not_fit_are_refused(tmp_path: Path, targets: list[str], text: str) -> None:
    with pytest.raises(UnsupportedTargetError, match=text):
        qpc.export_library(linear(), targets, tmp_path / "net", name="net")


def test_features_that_linux_does_not_tell_are_refused(tmp_path: Path) -> None:
    target = Target.parse("aarch64-i8mm")
    unknown = Target(**{**vars(target), "name": "odd", "features": (*target.features, "sme")})
    with pytest.raises(UnsupportedTargetError, match="does not say whether a CPU has sme, which"):
        qpc.export_library(linear(), ["aarch64", unknown], tmp_path / "net", name="net")


@pytest.mark.parametrize("settings", [{"form": "c"}, {"threads": 2}])
def test_c_and_threads_are_refused(tmp_path: Path, settings: dict[str, object]) -> None:
    with pytest.raises(BackendError, match="are in machine code for one thread only"):
        qpc.export_library(linear(), ALL, tmp_path / "net", name="net", **settings)  # type: ignore[arg-type]  # values of several types


def test_no_target_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BackendError, match="there is no target"):
        qpc.export_library(linear(), [], tmp_path / "net", name="net")
