from __future__ import annotations

import copy
import pickle
from collections.abc import Callable

import numpy as np
import pytest
import torch

from qpc.backends import reference
from qpc.errors import BackendError
from tests.generators import IntegerGraph, random_graph, random_inputs


def _pickled(model: reference.ReferenceModel) -> reference.ReferenceModel:
    found: reference.ReferenceModel = pickle.loads(pickle.dumps(model))
    return found


def _doubler() -> reference.ReferenceModel:
    g = IntegerGraph()
    x = g.input(3)
    return reference.compile_graph(
        g.module(g.call(torch.ops.aten.add.Tensor, x, x)), batch_sizes=(1, 4)
    )


def test_gives_what_the_graph_gives() -> None:
    gm = random_graph(3)
    inputs = random_inputs(gm, batch=2)
    results = reference.compile_graph(gm, batch_sizes=(2,))(*inputs)
    expected = gm(*inputs)
    assert type(results) is type(expected)
    for got, wanted in zip(results, expected, strict=True):
        assert torch.equal(got, wanted)


def test_later_changes_of_the_graph_do_not_reach_the_model() -> None:
    g = IntegerGraph()
    gm = g.module(g.call(torch.ops.aten.mul.Tensor, g.input(2), g.constant(torch.ones(2))))
    model = reference.compile_graph(gm)
    gm.get_buffer("constant0").fill_(5)
    assert model(torch.ones(1, 2)).tolist() == [[1, 1]]


def test_numpy_in_gives_numpy_out() -> None:
    result = _doubler()(np.ones((4, 3), np.float32))
    assert isinstance(result, np.ndarray)
    assert result.tolist() == [[2, 2, 2]] * 4


def test_inputs_may_be_given_by_name() -> None:
    assert _doubler()(x=torch.ones(1, 3)).tolist() == [[2, 2, 2]]


def test_read_only_and_strided_arrays_are_fine() -> None:
    frozen = np.arange(6, dtype=np.float32).reshape(1, 6)[:, ::2]
    frozen.flags.writeable = False
    assert _doubler()(frozen).tolist() == [[0, 4, 8]]


@pytest.mark.parametrize(
    ("inputs", "named", "message"),
    [
        ((torch.ones(2, 3),), {}, r"input 'x' has shape \(2, 3\), expected \(1, 3\) or \(4, 3\)"),
        ((torch.ones(1, 3).double(),), {}, "input 'x' is float64, expected float32"),
        ((), {}, r"the model takes 1 input\(s\) \(x\), got 0"),
        ((torch.ones(1, 3),) * 2, {}, r"the model takes 1 input\(s\) \(x\), got 2"),
        ((), {"y": torch.ones(1, 3)}, "unexpected input 'y': the model takes x"),
        ((torch.ones(1, 3),), {"x": torch.ones(1, 3)}, "input 'x' is given twice, by position"),
        (([1.0],), {}, "input 'x' is a list, expected a torch tensor or a numpy array"),
        ((np.array(["a"]),), {}, "input 'x' is a numpy array of <U1, not of numbers"),
        ((torch.ones(1, 3, device="meta"),), {}, "input 'x' is on meta"),
    ],
)
def test_a_wrong_input_is_an_error_that_says_what_was_expected(
    inputs: tuple[object, ...], named: dict[str, object], message: str
) -> None:
    with pytest.raises(BackendError, match=message):
        _doubler()(*inputs, **named)  # type: ignore[arg-type]  # wrong on purpose


def test_another_batch_size_has_a_fix() -> None:
    with pytest.raises(BackendError) as caught:
        _doubler()(torch.ones(2, 3))
    assert caught.value.fix == "compile for other batch sizes with batch_sizes=(...)"


def test_inputs_of_different_batch_sizes_are_refused() -> None:
    g = IntegerGraph()
    gm = g.module(g.call(torch.ops.aten.add.Tensor, g.input(2), g.input(2)))
    model = reference.compile_graph(gm, batch_sizes=(1, 2))
    with pytest.raises(BackendError, match=r"shapes \(1, 2\), \(2, 2\) have different batch sizes"):
        model(torch.ones(1, 2), torch.ones(2, 2))


@pytest.mark.parametrize("sizes", [(), (0,), (1.5,)])
def test_batch_sizes_are_positive_numbers(sizes: tuple[int, ...]) -> None:
    g = IntegerGraph()
    gm = g.module(g.input(2))
    with pytest.raises(BackendError, match="batch sizes must be positive numbers, got"):
        reference.compile_graph(gm, batch_sizes=sizes)


def test_a_model_of_one_batch_size_says_so() -> None:
    g = IntegerGraph()
    x = g.input(2)
    from qpc.meta import update_info

    update_info(x, shape=(8, 2))
    with pytest.raises(BackendError, match="the model takes one batch size only"):
        reference.compile_graph(g.module(x), batch_sizes=(1, 2))


def test_an_input_without_a_shape_is_an_error() -> None:
    g = IntegerGraph()
    x = g.graph.placeholder("x")
    with pytest.raises(BackendError, match="the shape of an input is not known"):
        reference.compile_graph(g.module(x))


def test_outputs_keep_their_nesting() -> None:
    g = IntegerGraph()
    x = g.input(1)
    y = g.call(torch.ops.aten.neg.default, x)
    g.graph.output({"both": (x, [y, None]), "first": x})
    from torch.fx import GraphModule

    model = reference.compile_graph(GraphModule(g.root, g.graph))
    one = torch.ones(1, 1)
    result = model(one)
    assert set(result) == {"both", "first"}
    assert result["both"][0].tolist() == result["first"].tolist() == [[1]]
    assert isinstance(result["both"], tuple)
    assert [v if v is None else v.tolist() for v in result["both"][1]] == [[[-1]], None]


def test_an_output_that_is_no_tensor_is_an_error() -> None:
    from torch.fx import GraphModule

    g = IntegerGraph()
    g.graph.output((g.input(1), 3))
    with pytest.raises(BackendError, match="the model returns 3, which is not a tensor"):
        reference.compile_graph(GraphModule(g.root, g.graph))


def test_benchmark_reports_the_time_of_one_call() -> None:
    result = _doubler().benchmark(warmup=1, repeats=7)
    assert result.runs == 7
    assert 0 < result.p10_ms <= result.median_ms <= result.p90_ms
    assert str(result).endswith("7 runs)")
    assert _doubler().benchmark([torch.ones(4, 3)], repeats=1).iqr_ms == 0


def test_benchmark_makes_inputs_of_every_type() -> None:
    g = IntegerGraph()
    gm = g.module(g.image(2), g.input(2))
    assert reference.compile_graph(gm).benchmark(repeats=1).runs == 1


@pytest.mark.parametrize(("warmup", "repeats"), [(-1, 1), (0, 0)])
def test_benchmark_refuses_impossible_counts(warmup: int, repeats: int) -> None:
    with pytest.raises(ValueError, match="repeats must be at least 1 and warmup at least 0"):
        _doubler().benchmark(warmup=warmup, repeats=repeats)


def test_arrays_of_another_byte_order_are_fine() -> None:
    foreign = np.arange(3, dtype=np.float32).reshape(1, 3).astype(">f4")
    assert _doubler()(foreign).tolist() == [[0, 2, 4]]


def test_benchmarks_one_array_without_a_list_around_it() -> None:
    for value in (torch.ones(1, 3), np.ones((1, 3), np.float32)):
        assert _doubler().benchmark(value, repeats=1).runs == 1


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, _pickled])
def test_models_can_be_copied_and_pickled(
    copied: Callable[[reference.ReferenceModel], reference.ReferenceModel],
) -> None:
    for seed in range(3):
        gm = random_graph(seed)
        model = reference.compile_graph(gm, batch_sizes=(2,))
        inputs = random_inputs(gm, batch=2)
        for got, wanted in zip(copied(model)(*inputs), model(*inputs), strict=True):
            assert torch.equal(got, wanted)


def test_numpy_arrays_in_need_outputs_that_numpy_knows() -> None:
    g = IntegerGraph()
    gm = g.module(g.call(torch.ops.aten.to.dtype, g.input(2), torch.bfloat16))
    model = reference.compile_graph(gm)
    assert model(torch.ones(1, 2)).dtype is torch.bfloat16
    with pytest.raises(BackendError, match="numpy has no type for an output, which is bfloat16"):
        model(np.ones((1, 2), np.float32))


def test_refuses_a_sparse_tensor() -> None:
    with pytest.raises(BackendError, match=r"input 'x' is a torch.sparse_coo tensor"):
        _doubler()(torch.ones(1, 3).to_sparse())


@pytest.mark.parametrize("given", [[], [torch.ones(1, 3)] * 2])
def test_another_number_of_inputs_is_refused_when_timed_too(given: list[torch.Tensor]) -> None:
    with pytest.raises(BackendError, match=rf"takes 1 input\(s\) \(x\), got {len(given)}"):
        _doubler().benchmark(given)
