from __future__ import annotations

import dataclasses
import io
import sys
from pathlib import Path

import pytest
import torch
from rich.console import Console
from torch import Tensor, nn
from torch.fx import GraphModule

import qpc.demo
from qpc.analysis.compare import Comparison, LayerError, compare
from qpc.backends.tvm import compat, compile_graph
from qpc.demo import (
    DemoResult,
    ModelResult,
    Row,
    count_differing,
    measure_model,
    next_steps,
    render,
    require_no_difference,
    run,
    run_demo,
)
from qpc.errors import BackendError, MissingDependencyError
from qpc.explanation.inspection import stage_of
from tests.conftest import Golden

FORMS = ("float PyTorch", "fake-quantized", "integer reference", "compiled int8")


def made_up_result() -> DemoResult:
    sizes, times, top1s = (2_810_000, 2_810_000, 710_000, 830_000), (2.0, 6.0, 9.0, 0.25), 0.94
    layers = tuple(LayerError(f"layer{i} (conv)", "conv2d", 20.0 + i, 0.99, 0.5) for i in range(9))
    comparison = Comparison(layers, (LayerError("output 0", "output", 36.75, 0.999, 0.1),))
    trained = ModelResult(
        "A small network",
        2500,
        25000,
        tuple(
            Row(form, size, latency, top1s, 0 if form == FORMS[-1] else None)
            for form, size, latency in zip(FORMS, sizes, times, strict=True)
        ),
        "9 of 10 convolution and linear layers quantized, the others are head",
        comparison,
    )
    large = ModelResult(
        "A large network",
        4,
        4000,
        (Row(FORMS[0], 46_800_000, 50.0), Row(FORMS[-1], 11_900_000, 8.0, differing=0)),
        "10 of 10 convolution and linear layers quantized",
        comparison,
    )
    return DemoResult(trained, large, "x86-64-avx2", 41.5)


def measure_tiny_model() -> ModelResult:
    images = torch.randn(6, 1, 8, 8)
    result, _ = measure_model(
        nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3)).eval(),
        title="tiny",
        calibration=[images],
        test=images,
        labels=torch.tensor([0, 1, 2, 0, 1, 2]),
        repeats=2,
    )
    return result


@pytest.fixture(autouse=True)
def _tvm_where_it_is_needed(request: pytest.FixtureRequest) -> None:
    if request.node.get_closest_marker("tvm"):
        pytest.importorskip("tvm_ffi", reason="Apache TVM is not installed")


@pytest.fixture(scope="module", params=[64, pytest.param(224, marks=pytest.mark.slow)])
def result(request: pytest.FixtureRequest) -> DemoResult:
    """Of the demonstration, with images of this size for the large network."""
    pytest.importorskip("tvm_ffi", reason="Apache TVM is not installed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(qpc.demo, "_LARGE_SIZE", request.param)
        return run_demo(quick=True)


@pytest.mark.tvm
@pytest.mark.thorough
def test_the_compiled_models_return_the_integer_reference_s_values(result: DemoResult) -> None:
    assert [row.form for row in result.trained.rows] == list(FORMS)
    assert [row.form for row in result.large.rows] == list(FORMS)
    assert result.trained.outputs == 200 * 10
    assert [row.differing for row in result.trained.rows] == [None, None, None, 0]
    assert [row.differing for row in result.large.rows] == [None, None, None, 0]


@pytest.mark.tvm
@pytest.mark.thorough
def test_integers_cost_hardly_any_accuracy(result: DemoResult) -> None:
    float_top1, *others = [row.top1 or 0.0 for row in result.trained.rows]
    assert float_top1 > 0.92
    assert others == pytest.approx([float_top1] * 3, abs=0.01)  # 2 of 200 images
    assert [row.top1 for row in result.large.rows] == [None] * 4


@pytest.mark.tvm
@pytest.mark.thorough
def test_every_layer_is_quantized_and_the_model_is_smaller(result: DemoResult) -> None:
    for model in (result.trained, result.large):
        assert model.layers == "21 of 21 convolution and linear layers quantized"
        floats, _, integers, compiled = (row.size for row in model.rows)
        assert integers < floats / 2
        assert compiled < floats / 2
        assert all(row.latency_ms > 0 for row in model.rows)


@pytest.mark.tvm
@pytest.mark.thorough
def test_the_titles_say_what_is_not_the_usual_network(result: DemoResult) -> None:
    assert "16 channels in the first stage instead of 64, CIFAR-style stem" in result.trained.title
    assert "trained on Fashion-MNIST" in result.trained.title
    assert "weights and images are random" in result.large.title


@pytest.mark.tvm
def test_one_wrong_value_stops_the_demonstration(monkeypatch: pytest.MonkeyPatch) -> None:
    def compile_wrongly(gm: torch.fx.GraphModule) -> object:
        model = compile_graph(gm)
        calls = 0

        def wrong(images: Tensor) -> Tensor:
            nonlocal calls
            calls += 1
            outputs: Tensor = model(images)
            return outputs if calls > 1 else outputs + torch.tensor([0.0, 1.0, 0.0])

        return wrong

    monkeypatch.setattr("qpc.demo.compile_graph", compile_wrongly)
    with pytest.raises(BackendError, match="differs from the integer reference in 1 of 18 output"):
        measure_tiny_model()


@pytest.mark.tvm
def test_a_model_is_measured_in_all_of_its_forms(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[tuple[str, str, int]] = []

    def heard(reference: GraphModule, other: GraphModule, images: Tensor) -> Comparison:
        compared.append((stage_of(reference), stage_of(other), len(images)))
        return compare(reference, other, images)

    monkeypatch.setattr("qpc.demo.compare", heard)
    result = measure_tiny_model()
    assert all(row.top1 is not None and (row.top1 * 6).is_integer() for row in result.rows)
    assert compared == [("float", "integer", 6)], "errors are those of the second"
    assert 0.0 < result.cpu_share < 1.5, "one thread, and clocks that tick in steps"
    assert (result.title, result.images, result.outputs) == ("tiny", 6, 18)
    assert result.layers == "2 of 2 convolution and linear layers quantized"


def test_values_differ_when_their_bits_do() -> None:
    nan = float("nan")
    reference = torch.tensor([1.0, 0.0, nan, 2.0])
    assert count_differing(reference, torch.tensor([1.0, -0.0, nan, 2.0000002])) == 2


def test_the_number_of_differing_values_is_in_the_error() -> None:
    require_no_difference(0, 25000)
    with pytest.raises(
        BackendError, match=r"differs .* in 1,500 of 25,000 output values"
    ) as caught:
        require_no_difference(1500, 25000)
    assert caught.value.fix == "report it, with the output of `qpc doctor`"


def test_without_tvm_it_says_so_before_doing_anything(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compat, "installed_version", lambda package: None)
    compat.require_tvm.cache_clear()
    said: list[str] = []
    with pytest.raises(MissingDependencyError, match="apache-tvm is not installed") as caught:
        run_demo(say=said.append)
    assert said == []
    assert caught.value.fix == "pip install 'quantize-prune-compiler[tvm]'"


def test_the_page_fits_eighty_columns(golden: Golden, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(qpc.demo, "next_steps", lambda folder: ("Next, this.",))
    file = io.StringIO()
    render(made_up_result(), Console(file=file, width=80))
    text = "\n".join(line.rstrip() for line in file.getvalue().splitlines())
    assert max(map(len, text.splitlines())) <= 80
    golden("demo", text)


def test_it_says_that_times_are_too_long_where_other_programs_ran() -> None:
    quiet = made_up_result()
    busy = dataclasses.replace(quiet, large=dataclasses.replace(quiet.large, cpu_share=0.56))
    pages = []
    for result in (quiet, busy):
        file = io.StringIO()
        render(result, Console(file=file, width=200))
        pages.append(file.getvalue())
    remark = "Other programs were running, and this one had 56% of a core: times are too long."
    assert [remark in page for page in pages] == [False, True]


def test_it_says_what_it_is_doing(monkeypatch: pytest.MonkeyPatch) -> None:
    def fake(*, quick: bool, say: qpc.demo.Say) -> DemoResult:
        say(f"quick is {quick}")
        return made_up_result()

    monkeypatch.setattr(qpc.demo, "run_demo", fake)
    file = io.StringIO()
    run(quick=True, console=Console(file=file, width=80))
    assert file.getvalue().startswith("[  0 s] quick is True\n")
    assert "A large network" in file.getvalue()


def test_the_next_step_is_an_example_where_there_are_examples(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert next_steps(tmp_path)[0] == "Next, try a model of your own, in Python:"
    example = tmp_path / "examples" / "01_quantize_and_compile.py"
    example.parent.mkdir()
    example.touch()
    assert "  python examples/01_quantize_and_compile.py" in next_steps(tmp_path)
    monkeypatch.setattr(sys, "executable", str(tmp_path / ".venv" / "bin" / "python"))
    assert "  .venv/bin/python examples/01_quantize_and_compile.py" in next_steps(tmp_path)
