"""The C program of the examples runs saved models, with the same bits, and says what is wrong."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("tvm_ffi", reason="Apache TVM is not installed")
import torch

from qpc import runtime
from qpc.backends import tvm
from qpc.targets import Target
from tests.forging import forge
from tests.generators import IntegerGraph
from tests.robustness.small_models import small_graph
from tests.sharing import sharing_freely

pytestmark = [
    pytest.mark.thorough,
    pytest.mark.tvm,
    pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler"),
]
EXAMPLE = Path(__file__).parents[2] / "examples" / "c_runtime"


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = Path(shutil.copytree(EXAMPLE, tmp_path_factory.mktemp("c") / "c_runtime"))
    subprocess.run(["make", "-C", str(folder)], check=True, capture_output=True)
    return folder / "run"


def run(program: Path, *words: object) -> subprocess.CompletedProcess[str]:
    command = [str(program), *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("threads", [1, 2])
def test_outputs_are_those_of_python(program: Path, threads: int, tmp_path: Path) -> None:
    target = sharing_freely(Target.native())
    tvm.compile_graph(small_graph(), target, batch_sizes=(1, 3), threads=threads).save(
        tmp_path / "model"
    )
    model = runtime.load(tmp_path / "model")
    x = torch.randn(3, 3, 12, 12).numpy()
    x.tofile(tmp_path / "x")
    done = run(program, tmp_path / "model", 3, tmp_path / "x", tmp_path / "y", tmp_path / "q")
    assert (done.returncode, done.stderr) == (0, "")
    for name, wanted in zip("yq", model(x), strict=True):
        found = np.fromfile(tmp_path / name, wanted.dtype)
        assert np.array_equal(found, wanted.reshape(-1))


@pytest.mark.parametrize(("kernel", "places"), [(3, {36}), (1, {1})])
def test_weights_of_16_bits_are_made_again(
    program: Path, kernel: int, places: set[int], tmp_path: Path
) -> None:
    if reason := Target.parse("x86-64-avx2").runs_here():
        pytest.skip(reason)
    g = IntegerGraph()
    window = ([1, 1], [kernel // 2] * 2, [1, 1], 1, 3, 4, 0, 255)
    layer = g.layer((32, 32, kernel, kernel), extreme=False)
    image = g.image(32, 16, 16)
    y = g.call(torch.ops.qpc.conv2d.default, image, *layer, *window)
    tvm.compile_graph(g.module(y), "x86-64-avx2").save(tmp_path / "model")
    model = runtime.load(tmp_path / "model")
    assert set(model._saved.manifest.places.values()) == places
    x = np.random.default_rng(0).integers(0, 255, (1, 32, 16, 16), np.uint8)
    x.tofile(tmp_path / "x")
    assert run(program, tmp_path / "model", 1, tmp_path / "x", tmp_path / "y").stderr == ""
    assert np.array_equal(np.fromfile(tmp_path / "y", np.uint8), model(x).reshape(-1))


def test_what_is_wrong_is_said(program: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    tvm.compile_graph(small_graph()).save(folder)
    (tmp_path / "x").write_bytes(b"short")
    words = (1, tmp_path / "x", tmp_path / "y", tmp_path / "q")
    assert run(program, tmp_path, *words).stderr == f"{tmp_path}: there is no manifest.json\n"
    assert "1728 bytes are needed" in run(program, folder, *words).stderr
    assert "takes no batches of 9" in run(program, folder, 9, *words[1:]).stderr
    assert "has 1 inputs and 2 outputs" in run(program, folder, 1).stderr
    (folder / "weights.safetensors").write_bytes(b"")
    assert "weights.safetensors is damaged" in run(program, folder, *words).stderr
    forge(folder / "manifest.json", lambda d: d["target"].update(features=["avx99"]))
    assert "this CPU lacks avx99" in run(program, folder, *words).stderr
    forge(folder / "manifest.json", lambda d: d.update(abi=3))
    assert "no model with the ABI number 2" in run(program, folder, *words).stderr
