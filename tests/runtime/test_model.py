"""What runs a saved model is the same below `qpc.load`; here it is used by itself."""

from __future__ import annotations

import copy
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("tvm_ffi", reason="Apache TVM is not installed")
import torch

from qpc import runtime
from qpc.backends import tvm
from qpc.calls import aten
from qpc.errors import ArtifactError, BackendError
from qpc.runtime import ArrayType, Model
from qpc.targets import Target
from tests.forging import forge
from tests.generators import IntegerGraph
from tests.robustness.small_models import Answers, small_model
from tests.sharing import sharing_freely

pytestmark = pytest.mark.tvm

ROOT = Path(__file__).parents[2]
THREADS = pytest.mark.parametrize("threads", [1, 2], ids=["one-thread", "two-threads"])


@pytest.fixture(scope="module")
def answers() -> Answers:
    return Answers(6)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    parent = tmp_path_factory.mktemp("models")
    for threads in (1, 2):
        small_model(threads).save(parent / str(threads))
    return {threads: parent / str(threads) for threads in (1, 2)}


@pytest.fixture(scope="module")
def models(folders: dict[int, Path]) -> dict[int, Model]:
    return {threads: runtime.load(folder) for threads, folder in folders.items()}


def right(answers: Answers, number: int, outputs: Any) -> bool:
    return answers.right(number, [torch.from_numpy(y) for y in outputs])


def test_a_model_verifies_itself_with_what_its_graph_gave(models: dict[int, Model]) -> None:
    for model in (*models.values(), models[1].clone()):
        found = model.verify()
        assert found.well
        assert found.exact == found.outputs > 0


@THREADS
def test_results_are_the_reference_backends(
    models: dict[int, Model], answers: Answers, threads: int
) -> None:
    for number, x in enumerate(answers.inputs):
        assert right(answers, number, models[threads](x.numpy()))


def test_a_model_says_what_it_takes_and_gives(models: dict[int, Model]) -> None:
    model = models[2]
    assert (model.batch_sizes, model.threads) == ((1,), 2)
    assert model.input_types(1) == (ArrayType((1, 3, 12, 12), "float32"),)
    assert [t.dtype for t in model.output_types(1)] == ["float32", "uint8"]
    assert model.target == Target.native().name
    assert set(model.versions) == {"qpc", "apache-tvm", "apache-tvm-ffi"}
    (name,) = model.input_names
    wanted = f"<compiled model for {model.target}, takes {name}: float32[1, 3, 12, 12]>"
    assert repr(model) == wanted
    with pytest.raises(BackendError, match="the model takes batches of 1, not of 3"):
        model.input_types(3)


def test_inputs_come_by_name_and_in_any_order_of_memory(
    models: dict[int, Model], answers: Answers
) -> None:
    (name,) = models[1].input_names
    x = answers.inputs[0].numpy()
    read_only = x.copy()
    read_only.flags.writeable = False
    for given in (np.asfortranarray(x), x.astype(">f4"), x[:, ::-1][:, ::-1], read_only):
        assert right(answers, 0, models[1](**{name: given}))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ((), r"the model takes 1 input\(s\)"),
        ((np.zeros((2, 3, 12, 12), np.float32),), "expected .1, 3, 12, 12."),
        ((np.zeros((1, 3, 12, 12)),), "is float64, expected float32"),
        (([1.0],), "is a list, expected a numpy array"),
        ((np.ma.masked_array(np.zeros(3)),), "is a masked array"),
        ((np.array(["a"]),), "is a numpy array of <U1, not of numbers"),
    ],
)
def test_what_does_not_fit_is_one_clear_error(
    models: dict[int, Model], given: tuple[Any, ...], message: str
) -> None:
    with pytest.raises(BackendError, match=message):
        models[1](*given)


def test_a_conversion_is_told(models: dict[int, Model]) -> None:
    with pytest.raises(BackendError) as caught:
        models[1](np.zeros((1, 3, 12, 12)))
    assert caught.value.fix == "convert it with .astype('float32')"


def test_outputs_are_nested_as_the_model_nests_them(tmp_path: Path) -> None:
    g = IntegerGraph()
    x = g.input(2, 3)
    y = g.call(aten.reshape.default, x, [-1, 6])
    gm = g.module(x, y)
    (output,) = [node for node in gm.graph.nodes if node.op == "output"]
    output.args = ({"both": [x, (y, None)]},)
    gm.recompile()
    tvm.compile_graph(gm).save(tmp_path / "model")
    found = runtime.load(tmp_path / "model")(np.ones((1, 2, 3), np.float32))
    first, (second, nothing) = found["both"]
    assert (type(found["both"]), nothing) == (list, None)
    assert (first.shape, second.shape) == ((1, 2, 3), (1, 6))


@THREADS
def test_clones_are_called_at_the_same_time(
    models: dict[int, Model], answers: Answers, threads: int
) -> None:
    clones = [models[threads], models[threads].clone(), copy.deepcopy(models[threads])]
    with ThreadPoolExecutor(6) as pool:
        results = list(pool.map(lambda i: clones[i % 3](answers.inputs[i % 6].numpy()), range(60)))
    assert all(right(answers, i % 6, result) for i, result in enumerate(results))


@THREADS
def test_a_model_survives_a_pickle_and_a_save(
    models: dict[int, Model], answers: Answers, threads: int, tmp_path: Path
) -> None:
    again = pickle.loads(pickle.dumps(models[threads]))
    again.save(tmp_path / "again")
    for model in (again, runtime.load(tmp_path / "again"), tvm.load(tmp_path / "again")):
        assert right(answers, 1, model(answers.inputs[1].numpy()))


@THREADS
def test_a_forked_process_has_memory_and_threads_of_its_own(
    models: dict[int, Model], answers: Answers, threads: int
) -> None:
    from tests.robustness.test_forks import Child

    def wrong() -> int:
        return sum(
            not right(answers, i % 6, models[threads](answers.inputs[i % 6].numpy()))
            for i in range(30)
        )

    children = [Child(wrong) for _ in range(2)]
    assert wrong() == 0
    assert [child.result() for child in children] == [0, 0]


# --- what cannot be loaded ------------------------------------------------------------------------


def test_a_model_that_calls_tvm_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small_model().save(tmp_path / "model")
    borrowed = property(lambda library: ["TVMFFIFunctionCall"])
    monkeypatch.setattr("qpc.runtime.library.Library.borrowed", borrowed)
    wanted = r"model' cannot be loaded: the model calls functions of TVM: TVMFFIFunctionCall"
    with pytest.raises(ArtifactError, match=wanted) as caught:
        runtime.load(tmp_path / "model")
    assert caught.value.fix == "load it with qpc.load where QPC and TVM are installed"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "kernels.so").unlink(), "kernels.so of .* is missing"),
        (lambda folder: (folder / "weights.safetensors").write_bytes(b""), "it has 0 bytes, not"),
        (lambda folder: (folder / "manifest.json").write_text("{"), "it is not JSON"),
        (
            lambda folder: forge(folder / "manifest.json", lambda d: d.update(abi=99)),
            "has the ABI number 99, this version of QPC knows 1, 2",
        ),
        (
            lambda folder: forge(
                folder / "manifest.json", lambda d: d["target"].update(features=["avx99"])
            ),
            "this CPU lacks avx99",
        ),
    ],
)
def test_damage_is_one_clear_error(
    folders: dict[int, Path], tmp_path: Path, damage: Callable[[Path], object], message: str
) -> None:
    import shutil

    folder = Path(shutil.copytree(folders[1], tmp_path / "model"))
    damage(folder)
    with pytest.raises(ArtifactError, match=message) as caught:
        runtime.load(folder)
    assert caught.value.fix


# --- alone ----------------------------------------------------------------------------------------

_ALONE = """
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "tvm", "tvm_ffi", "pydantic", "safetensors"):
            raise ImportError(f"{name} is not needed")

sys.meta_path.insert(0, Refuse())
import numpy as np
from qpc import runtime

for folder in sys.argv[1:]:
    model = runtime.load(folder)
    outputs = model(np.load("x.npy"))
    print(*(y.tobytes().hex() for y in outputs))
"""


def test_neither_torch_nor_tvm_is_needed(
    folders: dict[int, Path], models: dict[int, Model], answers: Answers, tmp_path: Path
) -> None:
    x = answers.inputs[0].numpy()
    np.save(tmp_path / "x.npy", x)
    command = [sys.executable, "-P", "-c", _ALONE, *map(str, folders.values())]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PATH": ""}
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    wanted = " ".join(y.tobytes().hex() for y in models[1](x))
    assert done.stdout.splitlines() == [wanted, wanted]


def test_threads_take_part(folders: dict[int, Path]) -> None:
    """Parts of the work are done by the workers, not only by the thread that calls."""
    target = sharing_freely(Target.native())
    assert target.name == Target.native().name
    model = runtime.load(folders[2])
    assert model._loaded.library.shares_work
    assert not runtime.load(folders[1])._loaded.library.shares_work
