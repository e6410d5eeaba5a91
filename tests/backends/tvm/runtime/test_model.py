"""Calling compiled models: batch sizes, threads, arrays, measuring."""

from __future__ import annotations

import copy
import gc
import pickle
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("tvm_ffi", reason="Apache TVM is not installed")
import torch

from qpc.backends import reference, tvm
from qpc.backends.tvm.runtime.model import CompiledModel
from qpc.errors import ArtifactError, BackendError, UnsupportedTargetError
from qpc.runtime import threads
from qpc.runtime.pages import address
from qpc.targets import TARGETS, Target
from tests.backends.tvm.checking import assert_same_bits
from tests.generators import IntegerGraph, random_graph, random_inputs

pytestmark = pytest.mark.tvm


def _network(threads: int = 1) -> tuple[CompiledModel, reference.ReferenceModel]:
    g = IntegerGraph()
    q = g.quantize(g.input(3, 12, 12))
    q = g.add(g.conv2d(q, 16, padding=(1, 1)), g.conv2d(q, 16, (1, 1)))
    gm = g.module(g.dequantize(g.linear(g.mean(q, (2, 3)), 10)), q)
    sizes = (1, 4)
    return (
        tvm.compile_graph(gm, batch_sizes=sizes, threads=threads),
        reference.compile_graph(gm, batch_sizes=sizes),
    )


@pytest.fixture(scope="module")
def models() -> tuple[CompiledModel, reference.ReferenceModel]:
    return _network()


Models = tuple[CompiledModel, reference.ReferenceModel]


@pytest.mark.thorough
def test_torch_in_torch_out_numpy_in_numpy_out(models: Models) -> None:
    compiled, expected = models
    x = torch.randn(4, 3, 12, 12)
    first, second = compiled(x)
    assert torch.equal(first, expected(x)[0])
    assert torch.equal(second, expected(x)[1])
    arrays = compiled(x.numpy())
    assert [type(a) for a in arrays] == [np.ndarray, np.ndarray]
    assert (arrays[0] == first.numpy()).all()


def test_inputs_at_any_address_and_stride_are_fine(models: Models) -> None:
    compiled, expected = models
    memory = torch.randn(4 * 3 * 12 * 12 + 1)
    shifted = memory[1:].view(4, 3, 12, 12)
    assert shifted.data_ptr() % 64
    strided = shifted.permute(0, 1, 3, 2)
    for x in (shifted, strided, strided.requires_grad_()):
        assert torch.equal(compiled(x)[0], expected(x.detach())[0])


def test_results_of_earlier_calls_stay_as_they_were(models: Models) -> None:
    compiled, _ = models
    inputs = [torch.randn(1, 3, 12, 12) for _ in range(20)]
    kept = [compiled(x) for x in inputs]
    copies = [[t.clone() for t in results] for results in kept]
    for x in inputs:
        compiled(x)
    for results, earlier in zip(kept, copies, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(results, earlier, strict=True))


def test_a_model_says_what_it_takes(models: Models) -> None:
    (name,) = models[0].signature.names
    takes = f"{name}: float32[1, 3, 12, 12], or batches of 4"
    assert repr(models[0]) == f"<compiled model for {models[0].target.name}, takes {takes}>"


def test_another_batch_size_is_an_error(models: Models) -> None:
    with pytest.raises(
        BackendError, match=r"has shape \(2, 3, 12, 12\), expected \(1, 3, 12, 12\) or \(4, 3"
    ):
        models[0](torch.zeros(2, 3, 12, 12))


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_calls_from_several_threads_do_not_disturb_each_other(threads: int) -> None:
    compiled, expected = _network(threads)
    inputs = [torch.randn((1, 4)[i % 2], 3, 12, 12) for i in range(24)]
    wanted = [expected(x)[0] for x in inputs]
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda x: compiled(x)[0], inputs * 4))
    assert all(torch.equal(a, b) for a, b in zip(results, wanted * 4, strict=True))


@pytest.mark.parametrize("threads", [1, 2])
def test_clones_run_at_the_same_time_on_the_same_weights(threads: int) -> None:
    compiled, expected = _network(threads)
    clones = [compiled.clone() for _ in range(3)]
    inputs = [torch.randn((1, 4)[i % 2], 3, 12, 12) for i in range(24)]
    wanted = [expected(x)[0] for x in inputs]
    models = [compiled, *clones]
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda i: models[i % 4](inputs[i])[0], range(24)))
    assert all(torch.equal(a, b) for a, b in zip(results, wanted, strict=True))
    for clone in clones:
        assert clone._parts.weights is compiled._parts.weights
        assert clone._parts.code is compiled._parts.code
        assert (clone.threads, clone.target, clone.report) == (
            threads,
            compiled.target,
            compiled.report,
        )
    arenas = {address(model._program._calls[1]._kept[0]) for model in models if model._program}
    assert len(arenas) == 4


def test_clones_are_measured_as_models_are(models: Models) -> None:
    clone = models[0].clone()
    assert clone.benchmark(repeats=1).runs == 1
    assert len(clone.profile(repeats=1).calls) == len(models[0].profile(repeats=1).calls)


@pytest.mark.thorough
def test_a_clone_outlives_its_model() -> None:
    compiled, expected = _network()
    clone = compiled.clone()
    del compiled
    gc.collect()
    x = torch.randn(1, 3, 12, 12)
    assert torch.equal(clone(x)[0], expected(x)[0])


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy])
def test_a_copy_is_a_clone(
    models: Models, copied: Callable[[CompiledModel], CompiledModel]
) -> None:
    compiled, expected = models
    found, x = copied(compiled), torch.randn(1, 3, 12, 12)
    assert found is not compiled
    assert found._program is not compiled._program
    assert torch.equal(found(x)[0], expected(x)[0])


@pytest.mark.parametrize("threads", [1, 2])
def test_pickles_hold_the_files_of_the_model(threads: int) -> None:
    compiled, expected = _network(threads)
    found, x = pickle.loads(pickle.dumps(compiled)), torch.randn(4, 3, 12, 12)
    assert torch.equal(found(x)[0], expected(x)[0])
    assert found.threads == threads


def test_a_damaged_pickle_is_noticed(models: Models) -> None:
    make, (files,) = models[0].__reduce__()
    damaged = dict(files) | {"kernels.so": files["kernels.so"][:-1] + b"."}
    with pytest.raises(ArtifactError, match=r"kernels\.so.* a pickle"):
        make(damaged)


def test_code_for_another_cpu_is_cloned_and_copied_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Target, "runs_here", lambda self: "this CPU lacks magic")
    g = IntegerGraph()
    clone = copy.copy(tvm.compile_graph(g.module(g.linear(g.image(8), 4)), TARGETS[-1]))
    with pytest.raises(UnsupportedTargetError, match="this CPU lacks magic"):
        clone(torch.zeros(1, 8, dtype=torch.uint8))


class Liar:
    """An array in all but memory."""

    shape, dtype = (1, 3, 12, 12), np.dtype(np.float32)
    flags = np.zeros(1).flags
    __array_interface__ = {"data": (8, False)}  # noqa: RUF012


class Subclass(np.ndarray[Any, Any]):
    @property
    def __array_interface__(self) -> dict[str, Any]:
        return {"data": (8, False)}


def test_the_address_of_an_array_is_not_believed_from_anyone(models: Models) -> None:
    compiled, expected = models
    with pytest.raises(BackendError, match="input 'x' is a Liar, expected a torch tensor or"):
        compiled(Liar())  # type: ignore[arg-type]  # wrong on purpose
    x = np.ones((1, 3, 12, 12), np.float32)
    assert (compiled(x.view(Subclass))[0] == expected(x)[0]).all()
    with pytest.raises(BackendError, match="input 'x' is a int, expected a torch tensor or"):
        compiled(3)  # type: ignore[arg-type]  # likewise


def test_outputs_are_in_memory_whatever_the_default_device_is(models: Models) -> None:
    compiled, expected = models
    x = torch.randn(1, 3, 12, 12)
    wanted = expected(x)[0]
    with torch.device("meta"):
        assert compiled(x)[0].tolist() == wanted.tolist()


@pytest.mark.thorough
def test_models_with_different_numbers_of_threads_work_side_by_side() -> None:
    gm = random_graph(5)
    (x,) = random_inputs(gm, 2)
    expected = reference.compile_graph(gm, batch_sizes=(2,))(x)
    compiled = [tvm.compile_graph(gm, batch_sizes=(2,), threads=n) for n in (1, 2, 4)]
    for _ in range(3):
        for model in compiled:
            for got, wanted in zip(model(x), expected, strict=True):
                assert torch.equal(got, wanted)


def test_the_callers_thread_keeps_its_cores() -> None:
    import os

    before = os.sched_getaffinity(0)
    compiled, _ = _network(threads=2)
    compiled(torch.zeros(1, 3, 12, 12))
    assert os.sched_getaffinity(0) == before


@pytest.mark.thorough
def test_a_model_starts_no_more_threads_than_it_uses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda process: set(range(16)))
    gc.collect()  # models of earlier tests take their threads with them, in their own time
    before = _threads_of_the_process()
    compiled, _ = _network(threads=2)
    compiled(torch.zeros(1, 3, 12, 12))
    assert _threads_of_the_process() <= before + 2  # one that calls TVM, and one worker of TVM


def test_a_model_with_nothing_to_share_runs_in_the_thread_of_its_caller() -> None:
    g = IntegerGraph()
    gm = g.module(g.linear(g.quantize(g.input(8)), 4))
    compiled = assert_same_bits(gm, threads=2)
    assert compiled.threads == 2
    assert compiled._program is not None
    assert compiled._program._worker is None


def _threads_of_the_process() -> int:
    return len(list(Path("/proc/self/task").iterdir()))


@pytest.mark.thorough
def test_threads_of_a_model_end_with_it() -> None:
    compiled, _ = _network(threads=2)
    compiled(torch.zeros(1, 3, 12, 12))
    names = [t for t in threading.enumerate() if t.name == threads.THREAD_NAME]
    assert names
    del compiled
    gc.collect()
    for thread in names:
        thread.join(timeout=20)
        assert not thread.is_alive()


def test_an_error_in_a_worker_reaches_the_caller() -> None:
    compiled, _ = _network(threads=2)
    assert compiled._program is not None
    worker = compiled._program._worker
    assert worker is not None
    with pytest.raises(ZeroDivisionError):
        worker.run(lambda: 1 // 0)
    assert len(compiled(torch.zeros(1, 3, 12, 12))) == 2


def test_benchmark_takes_the_first_batch_size_or_given_inputs(models: Models) -> None:
    compiled, _ = models
    assert compiled.benchmark(warmup=1, repeats=3).runs == 3
    assert compiled.benchmark([torch.zeros(4, 3, 12, 12)], repeats=2).median_ms > 0


def test_the_report_lists_kernels_fusion_and_stages(models: Models) -> None:
    report = models[0].report
    assert [len(use.nodes) for use in report.kernels] == [1, 1, 2, 1, 1, 1]
    assert report.fused == (report.kernels[2],)
    assert report.others == ()
    assert set(report.seconds) == {
        "lower",
        "float operators",
        "kernels",
        "memory plan",
        "entry points",
        "link",
        "test vectors",
    }
    text = str(report)
    assert text.startswith("6 integer kernels, 0 other operators\n  int8   qpc_quantize_")
    assert "conv2d_default_1 + add_default" in text


def test_equal_layers_share_code_and_equal_weights_are_stored_once() -> None:
    g = IntegerGraph()
    x = g.image(8, 9, 9)
    weight, bias, multiplier = g.layer((8, 8, 3, 3), extreme=False)
    window = ([1, 1], [1, 1], [1, 1], 1, 3)
    for zero_point in (4, 4, 7):
        x = g.call(
            torch.ops.qpc.conv2d.default, x, weight, bias, multiplier, *window, zero_point, 0, 255
        )
    compiled = tvm.compile_graph(g.module(x), batch_sizes=(1, 2))
    assert len({use.kernel for use in compiled.report.kernels}) == 1
    # Without VNNI, kernels take weights of int16.
    weights = compiled._parts.weights.values()
    assert len([t for t in weights if t.type.dtype in ("int8", "int16")]) == 1


def test_code_for_another_cpu_compiles_but_does_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    strongest = TARGETS[-1]
    monkeypatch.setattr(Target, "runs_here", lambda self: "this CPU lacks magic")
    g = IntegerGraph()
    compiled = tvm.compile_graph(g.module(g.linear(g.image(8), 4)), strongest)
    with pytest.raises(UnsupportedTargetError, match="this CPU lacks magic") as caught:
        compiled(torch.zeros(1, 8, dtype=torch.uint8))
    assert caught.value.fix is not None


def test_a_model_says_what_it_was_compiled_for(models: Models) -> None:
    compiled, _ = models
    assert (compiled.target, compiled.threads) == (Target.native(), 1)
    assert compiled.batch_sizes == (1, 4)
