"""`qpc demo`: one small trained network and one large one, from float PyTorch to int8 machine code.

`run_demo` measures and returns numbers, `render` prints them.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from rich.text import Text
from torch import Tensor, nn

from qpc.analysis.compare import Comparison, compare
from qpc.assets import DemoMetadata, load_demo_images, load_demo_model
from qpc.backends.compiled import measure
from qpc.backends.tvm import compile_graph
from qpc.backends.tvm.compat import require_tvm
from qpc.base import PassContext
from qpc.capture.trace import trace
from qpc.errors import BackendError
from qpc.models import resnet18
from qpc.passes import ConvertToInteger
from qpc.recipes import post_training_quantization, to_integer

Say = Callable[[str], None]

_BATCH = 25  # images at a time where only the outputs count; more do not fit the cache
_COMPARED_IMAGES = 64  # for the error of each layer
_LARGE_IMAGES = 4
_LARGE_SIZE = 224  # pixels each way
_WORST = 3
_QUIET = 0.9  # share of a core from which times mean something


@dataclass(frozen=True)
class Row:
    """One form of the model.

    size: bytes of all tensors; of the compiled model, bytes of everything that `.save` writes.
    latency_ms: median time for one image.
    top1: share of the images that it gets right; None without labels.
    differing: output values that are not the integer reference's; None where that is not the point.
    """

    form: str
    size: int
    latency_ms: float
    top1: float | None = None
    differing: int | None = None


@dataclass(frozen=True)
class ModelResult:
    """What became of one model.

    outputs: number of output values that were compared with the reference.
    layers: how many layers were quantized, in words.
    cpu_share: of the time in which latency was measured; less than 1 if other programs ran too.
    """

    title: str
    images: int
    outputs: int
    rows: tuple[Row, ...]
    layers: str
    comparison: Comparison
    cpu_share: float = 1.0


@dataclass(frozen=True)
class DemoResult:
    """Both models, the target they were compiled for, and how long it all took."""

    trained: ModelResult
    large: ModelResult
    target: str
    seconds: float


def run(*, quick: bool = False, console: Console | None = None) -> None:
    """Run the demonstration and print it; `quick` uses 200 images instead of all.

    Raises MissingDependencyError without TVM, and BackendError if the compiled model returns
    anything but the reference's bits.
    """
    console = console or Console()
    start = time.perf_counter()

    def say(what: str) -> None:
        console.print(Text(f"[{time.perf_counter() - start:3.0f} s] {what}", "dim"))

    render(run_demo(quick=quick, say=say), console)


def run_demo(*, quick: bool = False, say: Say = lambda what: None) -> DemoResult:
    """Quantize, compile and measure both models; raises like `run`."""
    require_tvm()  # rather than after half a minute
    with _one_thread():  # steadier times, and no slower where other programs run too
        return _run_demo(quick=quick, say=say)


def _run_demo(*, quick: bool, say: Say) -> DemoResult:
    start = time.perf_counter()
    model, metadata = load_demo_model()
    images = load_demo_images()
    shown = 200 if quick else len(images.test)
    trained, target = measure_model(
        model,
        title=_trained_title(model, metadata),
        calibration=images.calibration.split(64),
        test=images.test[:shown],
        labels=images.labels[:shown],
        repeats=20 if quick else 200,
        say=say,
    )
    large, _ = _measure_large(repeats=5 if quick else 30, say=say)
    return DemoResult(trained, large, target, time.perf_counter() - start)


def _trained_title(model: nn.Module, metadata: DemoMetadata) -> str:
    return (
        f"Narrow ResNet-18 ({metadata.width} channels in the first stage instead of 64, CIFAR-style"
        f" stem, {_parameters(model)} parameters), trained on Fashion-MNIST, 28x28"
    )


def _measure_large(*, repeats: int, say: Say) -> tuple[ModelResult, str]:
    torch.manual_seed(0)
    model = resnet18().eval()
    size = _LARGE_SIZE
    images = torch.randn(_LARGE_IMAGES, 3, size, size)
    return measure_model(
        model,
        title=f"Full ResNet-18 (torchvision's layout, {_parameters(model)} parameters),"
        f" {size}x{size}; its weights and images are random, so only the times mean something",
        calibration=torch.randn(4, 3, size, size).split(1),
        test=images,
        labels=None,
        repeats=repeats,
        say=say,
    )


def measure_model(
    model: nn.Module,
    *,
    title: str,
    calibration: Sequence[Tensor],
    test: Tensor,
    labels: Tensor | None,
    repeats: int,
    say: Say = lambda what: None,
) -> tuple[ModelResult, str]:
    """Quantize, compile, run and measure one model; return the result and the target's name.

    calibration, test: images[n, channels, size, size], the first in batches.
    labels: int64[n], of the test images; None if there is nothing to be right about.
    repeats: how often each form runs to measure its latency.
    """
    name = f"{test.shape[-1]}x{test.shape[-1]}"
    say(f"{name}: tracing, quantizing and compiling")
    ctx = PassContext()
    traced = trace(model, test[:1])
    fake = post_training_quantization(calibration).run(traced, ctx)
    integer = to_integer().run(fake, ctx)
    layers = next(r.summary for r in ctx.reports if r.name == ConvertToInteger.name)
    compiled = compile_graph(integer)
    say(f"{name}: running {len(test):,} images; the integer reference is slow")
    with torch.inference_mode():
        reference = _in_batches(integer, test, _BATCH)
        outputs = (
            _in_batches(model, test, _BATCH),
            _in_batches(fake, test, _BATCH),
            reference,
            _in_batches(compiled, test, 1),
        )
    differing = count_differing(reference, outputs[-1])
    require_no_difference(differing, reference.numel())
    say(f"{name}: measuring latency")
    one = test[:1]
    forms: tuple[tuple[str, Callable[[Tensor], Tensor], int], ...] = (
        ("float PyTorch", model, _tensor_bytes(model)),
        ("fake-quantized", fake, _tensor_bytes(fake)),
        ("integer reference", integer, _tensor_bytes(integer)),
        ("compiled int8", compiled, _saved_bytes(compiled.save)),
    )
    clock = time.process_time(), time.perf_counter()
    rows = tuple(
        Row(
            form,
            size,
            latency_ms=_latency_ms(call, one, repeats),
            top1=None if labels is None else _top1(output, labels),
            differing=differing if call is compiled else None,
        )
        for (form, call, size), output in zip(forms, outputs, strict=True)
    )
    share = (time.process_time() - clock[0]) / (time.perf_counter() - clock[1])
    comparison = compare(traced, integer, test[:_COMPARED_IMAGES])
    result = ModelResult(title, len(test), reference.numel(), rows, layers, comparison, share)
    return result, compiled.target.name


def count_differing(reference: Tensor, other: Tensor) -> int:
    """Return how many values are not bit for bit the same; NaN equals the same NaN."""
    return int((reference.view(torch.int32) != other.view(torch.int32)).sum())


def require_no_difference(differing: int, outputs: int) -> None:
    """Raise BackendError unless the compiled model returned exactly the reference's values."""
    if differing:
        raise BackendError(
            f"the compiled model differs from the integer reference in {differing:,} of {outputs:,}"
            " output values, which is a bug in QPC",
            fix="report it, with the output of `qpc doctor`",
        )


def _in_batches(call: Callable[[Tensor], Tensor], images: Tensor, size: int) -> Tensor:
    return torch.cat([call(batch) for batch in images.split(size)])


def _latency_ms(call: Callable[[Tensor], Tensor], one: Tensor, repeats: int) -> float:
    with torch.inference_mode():
        return measure(lambda: call(one), warmup=max(repeats // 5, 2), repeats=repeats).median_ms


@contextmanager
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _top1(outputs: Tensor, labels: Tensor) -> float:
    return float((outputs.argmax(1) == labels).double().mean())


def _tensor_bytes(model: nn.Module) -> int:
    return sum(t.numel() * t.element_size() for t in [*model.parameters(), *model.buffers()])


def _saved_bytes(save: Callable[[Path], None]) -> int:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model")
        save(path)
        return sum(file.stat().st_size for file in path.iterdir())


def _parameters(model: nn.Module) -> str:
    return f"{sum(p.numel() for p in model.parameters()) / 1e6:.1f} million"


# --- printing -------------------------------------------------------------------------------------


def render(result: DemoResult, console: Console) -> None:
    """Print a result, and what to type next."""
    for model in (result.trained, result.large):
        console.print()
        console.print(Text(model.title, "bold"))
        console.print(_table(model))
        for line in _remarks(model):
            console.print(Text(line))
    console.print()
    for line in _conditions(result):
        console.print(Text(line, "dim"))
    console.print()
    for line in next_steps(Path.cwd()):
        console.print(Text(line), soft_wrap=True)


def _table(model: ModelResult) -> Table:
    table = Table()
    table.add_column("")
    with_labels = model.rows[0].top1 is not None
    headings = (["top-1"] if with_labels else []) + ["size", "latency", "differing outputs"]
    for heading in headings:
        table.add_column(heading, justify="right")
    for row in model.rows:
        top1 = [] if row.top1 is None else [f"{row.top1:.2%}"]
        latency = f"{row.latency_ms:.2f} ms"
        table.add_row(row.form, *top1, _size(row.size), latency, _differing(row, model.outputs))
    return table


def _differing(row: Row, outputs: int) -> str:
    return "" if row.differing is None else f"{row.differing:,} of {outputs:,}"


def _size(count: int) -> str:
    return f"{count / 1e6:.2f} MB"


def _remarks(model: ModelResult) -> list[str]:
    plain, compiled = model.rows[0], model.rows[-1]
    faster, smaller = plain.latency_ms / compiled.latency_ms, plain.size / compiled.size
    lines = [
        f"{model.layers}.",
        f"Compiled int8 is {faster:.1f} times as fast as float PyTorch"
        f" and {smaller:.1f} times smaller.",
    ]
    if plain.top1 is None:
        return lines  # errors of a random network say nothing
    rows = [*model.comparison.layers[:_WORST], *model.comparison.outputs]
    lines.append("Largest errors of the integers, as signal-to-noise ratio against float:")
    return lines + [f"  {row.sqnr_db:5.1f} dB  {row.name}" for row in rows]


def _conditions(result: DemoResult) -> tuple[str, ...]:
    share = min(result.trained.cpu_share, result.large.cpu_share)
    busy = (
        f"Other programs were running, and this one had {share:.0%} of a core: times are too long.",
    )
    return (
        "differing outputs: output values that are not bit for bit the integer reference's, of all"
        f" values for {result.trained.images:,} and {result.large.images} images",
        "latency: median for one image on one thread; float PyTorch runs eagerly. Compare times"
        " within one run only.",
        "size: of all tensors; compiled, of the saved model with its machine code",
        f"target: {result.target}. Everything took {result.seconds:.0f} s.",
        *(busy if share < _QUIET else ()),
    )


def next_steps(folder: Path) -> tuple[str, ...]:
    """What to type next, for a user who is in `folder`."""
    own = (
        "  import qpc",
        "  gm = qpc.trace(model, example_inputs)   # a graph in plain operators",
        "  int8 = qpc.quantize(gm, batches)        # integer operators; still runs in PyTorch",
        "  compiled = qpc.compile(int8)            # machine code",
        "  print(compiled.benchmark())",
        '  compiled.save("my-model")',
    )
    if not (folder / "examples" / "01_quantize_and_compile.py").is_file():
        return ("Next, try a model of your own, in Python:", "", *own)
    python = Path(sys.executable)
    program = os.path.relpath(python, folder) if python.is_relative_to(folder) else "python"
    return (
        "Next, see how it is done:",
        "",
        f"  {program} examples/01_quantize_and_compile.py",
        "",
        "and try a model of your own, in Python:",
        "",
        *own,
    )
