"""Odd tensors and arrays as inputs of compiled models: right values, or one clear error."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("tvm_ffi", reason="Apache TVM is not installed")
import torch
from torch import Tensor
from torch.fx import GraphModule

import qpc
from qpc.backends import reference, tvm
from qpc.backends.compiled import CallableModel
from qpc.errors import BackendError
from tests.generators import IntegerGraph

pytestmark = pytest.mark.tvm

X = torch.linspace(-1, 1, 2 * 24).reshape(2, 24)
ARRAY = X.numpy()


@pytest.fixture(scope="module", params=["reference", "one-thread", "two-threads"])
def model(request: pytest.FixtureRequest) -> CallableModel:
    gm = _graph()
    if request.param == "reference":
        return reference.compile_graph(gm, batch_sizes=(2,))
    threads = 1 if request.param == "one-thread" else 2
    return tvm.compile_graph(gm, batch_sizes=(2,), threads=threads)


def _graph() -> GraphModule:
    g = IntegerGraph()
    return g.module(g.dequantize(g.linear(g.quantize(g.input(24)), 5)))


class Subclass(Tensor):
    pass


class Silent(Tensor):
    """Answers every call with a tensor of another size."""

    @classmethod
    def __torch_function__(cls, *args: Any, **kwargs: Any) -> Any:
        return torch.zeros(0)


class Noisy(np.ndarray[Any, Any]):
    """Says that it lies elsewhere."""

    @property
    def __array_interface__(self) -> dict[str, Any]:
        return {"data": (8, False)}


GOOD: dict[str, Callable[[], Tensor | np.ndarray[Any, Any]]] = {
    "not contiguous": lambda: X.t().contiguous().t(),
    "every second": lambda: torch.stack([X, X + 1], 2).reshape(2, 48)[:, ::2],
    "not aligned": lambda: torch.cat([torch.zeros(1), X.flatten()])[1:].view(2, 24),
    "negative": lambda: torch._neg_view(-X),
    "imaginary part of a conjugate": lambda: torch.complex(X, -X).conj().imag,
    "trained": lambda: torch.nn.Parameter(X.clone()),
    "result of a layer": lambda: torch.nn.Parameter(X.clone()) * 1,
    "subclass": lambda: X.as_subclass(Subclass),
    "silent subclass": lambda: X.as_subclass(Silent),
    "in shared memory": lambda: X.clone().share_memory_(),
    "array": X.numpy,
    "big-endian": lambda: X.numpy().astype(">f4"),
    "columns first": lambda: np.asfortranarray(X.numpy()),
    "backwards": lambda: X.numpy()[:, ::-1].copy()[:, ::-1],
    "matrix": lambda: X.numpy().view(np.matrix),
    "noisy array": lambda: X.numpy().view(Noisy),
    "not aligned array": lambda: np.frombuffer(
        b"." + X.numpy().tobytes(), np.float32, offset=1
    ).reshape(2, 24),
}


@pytest.mark.parametrize("kind", GOOD)
def test_values_are_right(model: CallableModel, kind: str) -> None:
    wanted = model(X)
    found = model(GOOD[kind]())
    assert torch.equal(torch.as_tensor(found), wanted)
    assert isinstance(found, np.ndarray) == isinstance(GOOD[kind](), np.ndarray)


def test_repeated_values_are_right(model: CallableModel) -> None:
    row = X[:1]
    wanted = model(torch.cat([row, row]))
    assert torch.equal(model(row.expand(2, 24)), wanted)
    repeated = np.broadcast_to(row.numpy(), (2, 24))  # read-only, with a stride of 0
    assert torch.equal(torch.from_numpy(model(repeated)), wanted)


def test_a_mapped_file_is_an_array(model: CallableModel, tmp_path: Any) -> None:
    np.save(tmp_path / "x.npy", X.numpy())
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    assert torch.equal(torch.from_numpy(model(mapped)), model(X))


class Looks:
    """Like an array, from the outside."""

    shape, dtype = (2, 24), np.dtype(np.float32)
    flags = np.zeros(1).flags
    __array_interface__ = {"data": (8, False), "shape": (2, 24), "typestr": "<f4", "version": 3}  # noqa: RUF012


class LooksWithoutFlags:
    shape, dtype = (2, 24), np.dtype(np.float32)


def _fake() -> Tensor:
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        return torch.empty(2, 24)


def _freed() -> Tensor:
    x = X.clone()
    x.untyped_storage().resize_(0)
    return x


BAD: dict[str, tuple[Callable[[], object], str]] = {
    "looks like an array": (Looks, "is a Looks, expected a torch tensor or a numpy array"),
    "without flags": (LooksWithoutFlags, "is a LooksWithoutFlags, expected a torch tensor"),
    "fake": (_fake, "is a FakeTensor with no memory"),
    "freed": (_freed, "is a Tensor with no memory"),
    "functional": (lambda: torch._to_functional_tensor(X), "is a Tensor with no memory"),
    "zero": (lambda: torch._efficientzerotensor((2, 24)), "is a Tensor with no memory"),
    "meta": (lambda: X.to("meta"), "is on meta"),
    "nested": (lambda: torch.nested.nested_tensor([X[0], X[1]]), "is a nested tensor"),
    "masked": (lambda: np.ma.masked_less(X.numpy(), 0), "is a masked array"),
    "long double": (lambda: X.numpy().astype(np.longdouble), "which torch does not have"),
    "double": (lambda: X.double(), "is float64, expected float32"),
    "complex": (lambda: torch.complex(X, X).conj(), "is complex64, expected float32"),
    "no batch": (lambda: X[:0], r"has shape \(0, 24\), expected \(2, 24\)"),
    "no dimension": (lambda: torch.tensor(1.0), r"has shape \(\), expected \(2, 24\)"),
    "number": (lambda: np.float32(1), "is a float32, expected a torch tensor"),
}


@pytest.mark.parametrize("kind", BAD)
@pytest.mark.filterwarnings("ignore")  # torch warns of what it means to take away one day
def test_what_has_no_right_values_is_one_clear_error(model: CallableModel, kind: str) -> None:
    make, message = BAD[kind]
    with pytest.raises(BackendError, match=f"input 'x' {message}|input 'x' .*{message}"):
        model(make())  # type: ignore[arg-type]  # wrong on purpose


@pytest.mark.filterwarnings("ignore")
def test_modes_and_transformations_of_torch_are_noticed_or_do_not_matter(
    model: CallableModel,
) -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode

    wanted = model(X)
    with torch.inference_mode(), torch.autocast("cpu"):
        assert torch.equal(model(X.clone()), wanted)
    with torch.device("meta"):
        assert model(X).tolist() == wanted.tolist()
    with FakeTensorMode():
        with pytest.raises(BackendError, match="is a FakeTensor with no memory"):
            model(torch.empty(2, 24))
        with pytest.raises(BackendError, match="is a ndarray with no memory"):
            model(np.asfortranarray(ARRAY))
    with pytest.raises(BackendError, match="with no memory"):
        torch.vmap(model)(X.expand(3, 2, 24))


def test_models_and_graphs_move_in_and_out_of_files_in_any_mode(tmp_path: Path) -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode

    graph = _graph()
    with FakeTensorMode():
        model = qpc.compile(graph, batch_sizes=(2,), cache=tmp_path / "cache")
        model.save(tmp_path / "model")
        qpc.save_graph(graph, tmp_path / "graph")
        models = [
            model,
            model.clone(),
            qpc.load(tmp_path / "model"),
            pickle.loads(pickle.dumps(model)),
        ]
        loaded = qpc.load_graph(tmp_path / "graph")
    wanted = graph(X)
    assert torch.equal(loaded(X), wanted)
    assert all(torch.equal(one(X), wanted) for one in models)


@pytest.mark.parametrize("threads", [1, 2])
def test_outputs_without_memory_are_an_error_before_anything_runs(threads: int) -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode

    model = tvm.compile_graph(_graph(), batch_sizes=(2,), threads=threads)
    with FakeTensorMode(), pytest.raises(BackendError, match="such as FakeTensorMode"):
        model(X)  # itself it has memory
    with FakeTensorMode():
        assert model(ARRAY).shape == (2, 5)
