"""Every numbered example runs as a user would run it, in a process of its own, in any folder."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "examples"


@pytest.fixture(autouse=True)
def _tvm_where_it_is_needed(request: pytest.FixtureRequest) -> None:
    if request.node.get_closest_marker("tvm"):
        pytest.importorskip("tvm_ffi", reason="Apache TVM is not installed")


def output_of(name: str, folder: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", str(FOLDER / name)],
        cwd=folder,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert list(folder.iterdir()) == [], "an example leaves nothing behind"
    return done.stdout


def answers(output: str, form: str) -> int:
    found = re.search(rf"^{form} +gets (\d+) of 500 images right$", output, re.MULTILINE)
    assert found, output
    return int(found[1])


@pytest.mark.thorough
@pytest.mark.tvm
def test_01_compiles_a_model_that_is_as_right_as_the_float_one(tmp_path: Path) -> None:
    output = output_of("01_quantize_and_compile.py", tmp_path)
    assert "21 of 21 convolution and linear layers quantized" in output
    assert re.search(r"^compiled for x86-64\S*: \d+\.\d+ ms \(", output, re.MULTILINE), output
    assert "same bits as the integer graph in PyTorch: True\n" in output
    assert answers(output, "float") > 460
    assert abs(answers(output, "int8") - answers(output, "float")) <= 5


@pytest.mark.thorough
def test_02_names_what_stays_in_float_and_improves_the_worst_layers(tmp_path: Path) -> None:
    output = output_of("02_inspect_declines_and_layer_errors.py", tmp_path)
    assert output.startswith("left alone: softmax (softmax): softmax has no integer form\n")
    decibels = [
        float(text) for text in re.findall(r"^output 0 +output +(\S+)", output, re.MULTILINE)
    ]
    decibels += [float(text) for text in re.findall(r"(\S+) dB at the output", output)]
    assert len(decibels) == 3
    assert decibels == sorted(decibels)
    assert decibels[1] > decibels[0] + 3


@pytest.mark.thorough
def test_03_runs_a_pass_from_outside_the_package(tmp_path: Path) -> None:
    output = output_of("03_custom_pass.py", tmp_path)
    assert "  declined 3 (conv2d_1): pads by (0, 1, 0, 1) with 0\n" in output
    assert output.count("aten.constant_pad_nd") == 1
    assert output.endswith("same output: True\n")


def test_03_uses_nothing_private() -> None:
    text = (FOLDER / "03_custom_pass.py").read_text(encoding="utf-8")
    imports = re.findall(r"^(?:from|import) .*$", text, re.MULTILINE)
    assert [line for line in imports if re.search(r"\b_[a-z]", line)] == []
    assert [line for line in imports if "qpc.passes" in line] == []


@pytest.mark.thorough
@pytest.mark.tvm
def test_04_loads_what_it_saved_and_refuses_what_was_damaged(tmp_path: Path) -> None:
    output = output_of("04_load_and_run_artifact.py", tmp_path)
    assert "same bits as before saving: True\n" in output
    assert "same bits as the integer graph in PyTorch: True\n" in output
    assert "it sees: ankle boot, pullover, trouser, trouser\n" in output
    assert "\nkernels.so of '" in output
    assert output.endswith(
        "fashion-int8' is damaged: it does not match its hash\n"
        "  fix: copy the folder again, or compile and save the model again\n"
    )


def test_every_numbered_example_has_a_test() -> None:
    tests = Path(__file__).read_text(encoding="utf-8")
    examples = sorted(path.name for path in FOLDER.glob("[0-9]*.py"))
    assert [int(name[:2]) for name in examples] == [1, 2, 3, 4, 5]
    assert [name for name in examples if f'output_of("{name}"' not in tests] == []


@pytest.mark.thorough
@pytest.mark.tvm
def test_05_prunes_repairs_and_compiles(tmp_path: Path) -> None:
    output = output_of("05_prune_and_compile.py", tmp_path)
    # How many go where depends on the CPU, for which they are chosen.
    masked = r"units of channels masked in \d+ groups; (29\.[5-9]|30\.[0-5])% of the macs go"
    assert re.search(rf"\d+ of 730 {masked}; 1\.\d\d times as fast, by the kernels for x86", output)
    found = dict(re.findall(r"^(\w+) +top-1 +(\d+\.\d) %$", output, re.MULTILINE))
    assert float(found["repaired"]) > float(found["dense"]) - 4
    assert float(found["repaired"]) > float(found["pruned"]) + 10
    assert re.search(r"^int8 machine code is \d\.\d\d times as fast", output, re.MULTILINE)


@pytest.mark.thorough
@pytest.mark.tvm
@pytest.mark.models
def test_the_notebook_runs_and_shows_its_pictures() -> None:
    nbformat = pytest.importorskip("nbformat", reason="Jupyter is not installed")
    nbclient = pytest.importorskip("nbclient", reason="Jupyter is not installed")
    pytest.importorskip("ipykernel", reason="Jupyter is not installed")
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    notebook = nbformat.read(FOLDER / "notebook.ipynb", as_version=4)
    codes = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell.outputs == [] for cell in codes), "kept without outputs"
    where = {"metadata": {"path": str(FOLDER.parent)}}
    nbclient.NotebookClient(notebook, timeout=300, resources=where).execute()
    shown = [set(output.data) for cell in codes for output in cell.outputs if "data" in output]
    assert sum("image/png" in kinds for kinds in shown) == 3
    assert sum("text/html" in kinds for kinds in shown) == 2
