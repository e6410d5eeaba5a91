from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import qpc
from qpc.errors import ArtifactError, ConfigError
from qpc.given.folder import FLOAT, GRAPH, ModelFolder
from qpc.given.model import Model, is_quantized, load_weights, model_of, module_of
from qpc.given.opened import open_model, preparation
from qpc.given.options import DataOptions, How, ModelOptions
from qpc.given.running import runnable
from qpc.quant.config import LayerConfig, QuantConfig
from qpc.terminal.reporter import Reporter
from qpc.training.checkpoint import save_checkpoint

MODULE = """
import torch
from torch import nn

class Two(nn.Module):
    def forward(self, a, b):
        return a + b

class Needy(nn.Module):
    def __init__(self, width):
        super().__init__()

def linear():
    torch.manual_seed(0)
    return nn.Linear(3, 2)

instance = nn.Linear(3, 2)

def text():
    return "a model"

def traced():
    import qpc
    return qpc.trace(linear(), torch.zeros(1, 3))
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "some_models.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def written(name: str) -> str:
    return f"some_models.py:{name}"


def test_a_model_may_be_an_onnx_file_with_the_integers_of_another_tool(folder: Path) -> None:
    pytest.importorskip("onnx")
    x = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    gm = qpc.trace(nn.Linear(3, 2).eval(), x)
    integers = qpc.quantize(gm, [x], QuantConfig(default=LayerConfig(results="integer")))
    qpc.export(gm, "float.onnx", form="onnx-float")
    qpc.export(integers, "int8.onnx")
    assert torch.allclose(model_of("float.onnx").require_float("it")(x), gm(x))
    for inputs in ((), ("2x3",)):
        found = model_of("int8.onnx", inputs)
        assert torch.equal(found.require_graph("it")(x), integers(x))
        assert found.folder is None
    with pytest.raises(ConfigError, match=r"'int8\.onnx' is a file \.onnx"):
        model_of("int8.onnx", (), folder / "weights.pt")


@pytest.mark.parametrize(
    ("name", "fix"),
    [
        ("net.pt", "pass module:function for the model, and this file as --weights"),
        ("net.tflite", "pass the model that this file was made from"),
        ("net.txt", "pass module:function, file.py:function, a file .onnx, or a folder"),
    ],
)
def test_a_file_of_another_kind_comes_with_what_to_pass(name: str, fix: str, folder: Path) -> None:
    (folder / name).touch()
    with pytest.raises(ConfigError, match="from which no model is read") as caught:
        ModelOptions(name).check()
    assert (caught.value.fix or "").startswith(fix)


def test_options_about_data_need_data() -> None:
    with pytest.raises(ConfigError, match="--samples is about data, and there is none"):
        DataOptions(samples=3).check()
    DataOptions(batch=3).check()  # a model may be made for batches of this size


def test_a_model_is_what_a_function_returns_or_a_module_itself_or_a_class_makes() -> None:
    for name in ("linear", "instance"):
        assert isinstance(module_of(written(name)), nn.Linear)
    model = model_of(written("Two"), ["a=1x3", "b=1x3"])
    assert model.graph is not None
    assert len(model.graph.graph.find_nodes(op="placeholder")) == 2
    assert isinstance(module_of("torch.nn:Identity"), nn.Identity)


def test_a_graph_needs_no_inputs() -> None:
    assert model_of(written("traced")).graph is not None


def test_what_is_no_model_is_refused(folder: Path) -> None:
    for name, problem in (
        ("text", "returned str, not a torch.nn.Module"),
        ("Needy", "cannot be called without arguments"),
        ("missing", "has nothing called 'missing'"),
        ("linear", "the shape of the inputs of 'some_models.py:linear' is not known"),
    ):
        with pytest.raises(ConfigError, match=problem):
            model_of(written(name))
    (folder / "weights.bin").touch()
    with pytest.raises(ConfigError, match="is a file, from which no model is read"):
        module_of("weights.bin")
    with pytest.raises(ConfigError, match="there is no module 'no_such_module'"):
        module_of("no_such_module:model")


def test_a_file_that_is_no_python_is_told_with_its_line(folder: Path) -> None:
    (folder / "wrong.py").write_text("def make(:\n")
    with pytest.raises(ConfigError, match=r"raised SyntaxError: .*, at .*wrong\.py:1"):
        model_of("wrong.py:make")


def test_weights_are_read_from_safetensors_and_from_files_of_torch(folder: Path) -> None:
    tensors = {"weight": torch.ones(2, 3), "bias": torch.zeros(2)}
    save_file(tensors, folder / "w.safetensors")
    torch.save(tensors, folder / "w.pth")
    for name in ("w.safetensors", "w.pth"):
        module = nn.Linear(3, 2)
        load_weights(module, folder / name)
        assert torch.equal(module.weight, torch.ones(2, 3))


def test_weights_of_another_model_and_files_that_hold_more_are_refused(folder: Path) -> None:
    save_file({"weight": torch.ones(2, 4), "scale": torch.ones(1)}, folder / "w.safetensors")
    problem = "it lacks 'bias'; the model has no 'scale'; 'weight' has shape .2, 4., the model's"
    with pytest.raises(ConfigError, match=problem):
        load_weights(nn.Linear(3, 2), folder / "w.safetensors")
    torch.save({"weight": nn.Linear(2, 2)}, folder / "code.pth")
    with pytest.raises(ConfigError, match=r"cannot read '.*code.pth' as tensors"):
        load_weights(nn.Linear(3, 2), folder / "code.pth")
    torch.save([torch.zeros(1)], folder / "list.pt")
    with pytest.raises(ConfigError, match="holds something else than tensors by name"):
        load_weights(nn.Linear(3, 2), folder / "list.pt")
    with pytest.raises(ConfigError, match=r"cannot read '.*none.safetensors'"):
        load_weights(nn.Linear(3, 2), folder / "none.safetensors")
    with pytest.raises(ConfigError, match=r"weights are read from .safetensors, .pt and .pth, not"):
        load_weights(nn.Linear(3, 2), folder / "w.h5")


def test_folders_are_opened_by_what_they_hold(folder: Path) -> None:
    gm = qpc.trace(nn.Linear(3, 2), torch.zeros(1, 3))
    int8 = qpc.quantize(gm, [torch.randn(4, 3)])
    qpc.save_graph(gm, folder / "saved")
    save_checkpoint(folder / "checkpoint", gm)
    kept = ModelFolder.begin(folder / "kept")
    qpc.save_graph(int8, kept.path / GRAPH)
    qpc.save_graph(gm, kept.path / FLOAT)
    assert model_of("saved").require_float("it") is not None
    assert model_of("checkpoint").graph is not None
    model = model_of("kept")
    assert model.graph is not None
    assert is_quantized(model.graph)
    assert model.original is not None
    with pytest.raises(ConfigError, match="it needs a model in float, and 'kept' is quantized"):
        model.require_float("it")
    (folder / "empty").mkdir()
    with pytest.raises(ArtifactError, match="holds neither a saved graph nor a compiled model"):
        model_of("empty")
    with pytest.raises(ConfigError, match="--weights is for models that come from a function"):
        model_of("saved", weights=folder / "w.pth")


def test_a_compiled_model_alone_has_no_graph() -> None:
    with pytest.raises(ConfigError, match="it needs a graph, and 'net' is a compiled model alone"):
        Model("net").require_graph("it")


def test_a_model_runs_compiled_if_it_is(folder: Path) -> None:
    model = model_of(written("traced"))
    assert runnable(model, None)[0] == "graph"
    with pytest.raises(ConfigError, match="is not compiled"):
        runnable(model, How.COMPILED)


def test_a_folder_to_write_to_holds_nothing_else(folder: Path) -> None:
    ModelFolder.begin(folder / "far" / "off")
    assert not (folder / "far").exists(), "nothing is left of what was not written"
    ModelFolder.begin(folder / "new").write_texts({"command": "quantize"}, {"a": 1})
    assert (folder / "new/settings.yaml").read_text() == "command: quantize\n"
    assert (folder / "new/result.json").read_text() == '{\n  "a": 1\n}\n'
    ModelFolder.begin(folder / "new")
    (folder / "new" / "thesis.tex").touch()
    with pytest.raises(ArtifactError, match=r"holds something else: 'thesis.tex'"):
        ModelFolder.begin(folder / "new")
    with pytest.raises(ArtifactError, match=r"cannot write to '.*some_models.py': File exists"):
        ModelFolder.begin(folder / "some_models.py")
    with pytest.raises(ArtifactError, match=r"cannot write '.*settings.yaml'"):
        ModelFolder(folder / "some_models.py").write_texts({}, {})


def test_inputs_are_taken_from_the_data_or_guessed_for_images(folder: Path) -> None:
    save_file({"input": torch.randn(5, 3).double()}, folder / "data.safetensors")
    options = DataOptions("data.safetensors", samples=3, batch=2)
    opened = open_model(Reporter(), ModelOptions(written("linear")), options)
    samples = opened.require_data("it")
    parts = list(samples.batches())
    assert [len(part) for part in parts] == [2, 1]
    assert parts[0].inputs[0].dtype is torch.float32, "in the dtype of the model"
    assert (samples.count, samples.number_of_batches()) == (3, 2)
    with pytest.raises(ConfigError, match="it needs data"):
        open_model(Reporter(), ModelOptions(written("traced"))).require_data("it")


def test_images_are_prepared_for_the_input_of_the_model() -> None:
    usual = preparation([(1, 3, 224, 224)], DataOptions())
    assert usual is not None
    assert str(usual) == "shorter side scaled to 256, the middle 224x224 cut out"
    grey = preparation([(1, 1, 28, 28)], DataOptions(stretch=True, mean="0.5", std="0.5"))
    assert grey is not None
    assert (grey.mean, grey.shorter, str(grey)) == ((0.5,), None, "scaled to 28x28")
    assert preparation([(1, 16)], DataOptions()) is None
    assert preparation([(1, 3, 8, 8), (1, 3, 8, 8)], DataOptions()) is None
    with pytest.raises(ConfigError, match="--std must be numbers, got 'x'"):
        preparation([(1, 3, 8, 8)], DataOptions(std="x"))
    with pytest.raises(ConfigError, match="--stretch scales to the model's size"):
        preparation([(1, 3, 8, 8)], DataOptions(stretch=True, resize=9))
