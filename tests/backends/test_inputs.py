"""Whatever is passed in place of a plain tensor: the right values, or one clear error."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from qpc.backends.inputs import plain_tensor
from qpc.errors import BackendError

X = torch.arange(6.0).reshape(2, 3)


def _same(value: object) -> bool:
    found = plain_tensor(value, "x")
    return type(found) is Tensor and found.is_contiguous() and torch.equal(found, X)


def test_a_plain_tensor_is_taken_as_it_is() -> None:
    assert plain_tensor(X, "x") is X


class Renamed(Tensor):
    """A subclass that changes nothing."""


class Refusing(Tensor):
    @classmethod
    def __torch_function__(cls, *args: Any, **kwargs: Any) -> Any:
        raise ZeroDivisionError


class Wrapper(Tensor):
    """A subclass without memory."""

    @staticmethod
    def __new__(cls, like: Tensor) -> Wrapper:
        made: Wrapper = Tensor._make_wrapper_subclass(cls, like.shape, dtype=like.dtype)
        return made

    @classmethod
    def __torch_dispatch__(cls, *args: Any, **kwargs: Any) -> Any:
        raise ZeroDivisionError("it cannot do that")


def _matrix() -> np.ndarray[Any, Any]:
    return X.numpy().view(np.matrix)


GOOD = {
    "parameter": torch.nn.Parameter(X.clone()),
    "subclass": X.as_subclass(Renamed),
    "subclass that refuses every call": X.as_subclass(Refusing),
    "transposed": X.t().contiguous().t(),
    "part": torch.stack([X, -X], 2)[..., 0],
    "negative view": torch._neg_view(-X),
    "imaginary part of a conjugate": torch.complex(X, -X).conj().imag,
    "array": X.numpy(),
    "big-endian": X.numpy().astype(">f4"),
    "transposed array": X.numpy().T.copy().T,
    "misaligned": np.frombuffer(b"." + X.numpy().tobytes(), np.float32, offset=1).reshape(2, 3),
}


@pytest.mark.parametrize("kind", GOOD)
def test_values_are_read(kind: str) -> None:
    assert _same(GOOD[kind])


def test_subclasses_of_arrays_are_read_as_arrays() -> None:
    assert _same(_matrix())


def test_a_read_only_array_is_copied() -> None:
    array = X.numpy().copy()
    array.flags.writeable = False
    assert _same(array)


def test_repeated_values_are_written_out() -> None:
    found = plain_tensor(torch.ones(1, 1).expand(2, 3), "x")
    assert found.untyped_storage().nbytes() == 24
    assert found.tolist() == [[1, 1, 1]] * 2
    assert plain_tensor(np.broadcast_to(np.float32(1), (2, 3)), "x").tolist() == [[1, 1, 1]] * 2


@pytest.mark.parametrize("shape", [(), (0, 3)])
def test_tensors_of_no_dimension_or_no_value_are_fine(shape: tuple[int, ...]) -> None:
    assert plain_tensor(torch.zeros(shape), "x").shape == shape
    assert plain_tensor(np.zeros(shape), "x").shape == shape


def test_a_tensor_of_inference_mode_is_read() -> None:
    with torch.inference_mode():
        x = X.clone()
    assert _same(x)


def _resized(size: int, x: Tensor) -> Tensor:
    x.untyped_storage().resize_(size)
    return x


def _fake() -> Tensor:
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        return torch.empty(2, 3)


def _masked() -> Tensor:
    from torch.masked import masked_tensor

    made: Tensor = masked_tensor(X.clone(), X > 2)
    return made


class Liar:
    """What has the attributes of an array, and no memory."""

    shape, dtype = (2, 3), np.dtype(np.float32)
    __array_interface__ = {"data": (8, False), "shape": (2, 3), "typestr": "<f4", "version": 3}  # noqa: RUF012


NO_MEMORY = "its values cannot be read"
BAD = {
    "fake": (_fake, rf"is a FakeTensor with no memory: {NO_MEMORY}"),
    "functional": (lambda: torch._to_functional_tensor(X), f"a Tensor with no memory: {NO_MEMORY}"),
    "zero": (lambda: torch._efficientzerotensor((2, 3)), f"a Tensor with no memory: {NO_MEMORY}"),
    "wrapper": (lambda: Wrapper(X), "is a Wrapper with no memory"),
    "masked": (_masked, "is a MaskedTensor with no memory"),
    "freed": (lambda: _resized(0, X.clone()), "with no memory"),
    "cut off": (lambda: _resized(8, X.clone()), "is a Tensor with 8 bytes in memory, not 24"),
    "cut off, with strides": (
        lambda: _resized(40, torch.zeros(2, 600)[:, ::2][:, :3]),
        "is a Tensor with 40 bytes in memory, not 2420",
    ),
    "subclass that cannot be read": (
        lambda: X.as_subclass(type("Odd", (Wrapper,), {})),
        "is a Odd that cannot be read: it cannot do that",
    ),
    "nested": (lambda: torch.nested.nested_tensor([X]), "is a nested tensor"),
    "jagged": (lambda: torch.nested.nested_tensor([X], layout=torch.jagged), "is a nested tensor"),
    "sparse": (lambda: X.to_sparse(), "is a torch.sparse_coo tensor"),
    "of oneDNN": (lambda: X.to_mkldnn(), "is a torch._mkldnn tensor"),
    "quantized": (
        lambda: torch.quantize_per_tensor(X, 1.0, 0, torch.quint8),
        "is a torch.quint8 tensor, with a scale of its own",
    ),
    "meta": (lambda: X.to("meta"), "is on meta"),
    "masked array": (lambda: np.ma.masked_less(X.numpy(), 2), "is a masked array"),
    "long double": (
        lambda: X.numpy().astype(np.longdouble),
        "is a numpy array of float128, which torch does not have",
    ),
    "complex": (lambda: X.numpy().astype(complex), "numpy array of complex128, not of numbers"),
    "objects": (lambda: X.numpy().astype(object), "numpy array of object, not of numbers"),
    "records": (lambda: np.zeros(2, [("a", "f4")]), r"numpy array of \[\('a', '<f4'\)\], not of"),
    "liar": (Liar, "is a Liar, expected a torch tensor or a numpy array"),
    "list": (X.tolist, "is a list, expected a torch tensor or a numpy array"),
    "number": (lambda: np.float32(1), "is a float32, expected a torch tensor or a numpy array"),
    "nothing": (lambda: None, "is a NoneType, expected a torch tensor or a numpy array"),
}


@pytest.mark.parametrize("kind", BAD)
@pytest.mark.filterwarnings("ignore")  # torch warns of what it means to take away one day
def test_what_cannot_be_read_is_one_clear_error(kind: str) -> None:
    make, message = BAD[kind]
    with pytest.raises(BackendError, match=f"^input 'x' .*{message}") as caught:
        plain_tensor(make(), "x")
    assert re.match("input 'x' ", caught.value.what)


@pytest.mark.filterwarnings("ignore")
def test_inside_a_transformation_of_functions_there_are_no_values() -> None:
    with pytest.raises(BackendError, match=NO_MEMORY) as caught:
        torch.vmap(lambda x: plain_tensor(x, "x"))(X)
    assert "outside of torch.vmap" in str(caught.value.fix)
    with pytest.raises(BackendError, match=NO_MEMORY):
        torch.func.grad(lambda x: plain_tensor(x, "x").sum())(X)


def test_modes_of_torch_do_not_matter() -> None:
    with torch.device("meta"):
        assert plain_tensor(X.t(), "x").tolist() == X.t().tolist()
        assert _same(X.numpy())
