"""What callers pass to a compiled model, as tensors whose memory can be read.

Compiled code gets addresses. Whatever has no memory of its own, or less than its shape says, or
would have to be changed while it is read, must be noticed here.
"""

from __future__ import annotations

from typing import Any, TypeGuard

import numpy as np
import torch
from torch import Tensor

from qpc.errors import BackendError
from qpc.runtime.inputs import plain_array


def plain_tensor(value: object, name: str) -> Tensor:
    """A contiguous tensor in the memory of this process with the values of an input.

    Raises BackendError, which names the input, for what has no such values.
    """
    if is_plain(value):
        return value
    if isinstance(value, np.ndarray):
        return _from_array(value, name)
    if not isinstance(value, Tensor):
        kind = type(value).__name__
        raise BackendError(f"input {name!r} is a {kind}, expected a torch tensor or a numpy array")
    with torch._C.DisableTorchFunction():  # subclasses answer as plain tensors do, if they can
        return _from_tensor(value, name)


def is_plain(value: object) -> TypeGuard[Tensor]:
    """Whether this is a tensor to be read where it is; small models notice how long this takes."""
    if type(value) is not Tensor:
        return False
    if value.is_nested or value.layout is not torch.strided or not value.is_cpu:
        return False
    if value.requires_grad or value.is_neg() or not value.is_contiguous():
        return False
    try:
        available, address = value.untyped_storage().nbytes(), value.data_ptr()
    except RuntimeError:  # how torch says that there is no such thing
        return False
    needed = value.storage_offset() * value.itemsize + value.nbytes
    return address != 0 and needed <= available and not value.is_quantized


def _from_array(value: np.ndarray[Any, Any], name: str) -> Tensor:
    array = plain_array(value, name)
    try:
        tensor = torch.from_numpy(np.require(array, requirements="W"))
    except TypeError as e:
        raise BackendError(
            f"input {name!r} is a numpy array of {array.dtype}, which torch does not have",
            fix="convert it with .astype(...)",
        ) from e
    _check_memory(tensor, name, type(value).__name__)
    return tensor


def _from_tensor(value: Tensor, name: str) -> Tensor:
    kind = type(value).__name__
    if value.device.type != "cpu":
        raise BackendError(f"input {name!r} is on {value.device}", fix="move it with .cpu()")
    if value.is_nested:
        raise BackendError(
            f"input {name!r} is a nested tensor, whose rows may differ in size",
            fix="make it a plain one with torch.nested.to_padded_tensor",
        )
    if value.layout is not torch.strided:
        raise BackendError(
            f"input {name!r} is a {value.layout} tensor", fix="make it dense with .to_dense()"
        )
    if value.is_quantized:
        raise BackendError(
            f"input {name!r} is a {value.dtype} tensor, with a scale of its own",
            fix="convert it with .dequantize(): the model knows its own scales",
        )
    _check_memory(value, name, kind)
    try:
        plain = value.detach().resolve_conj().resolve_neg().contiguous()
    except Exception as e:
        # Subclasses and modes of torch may raise anything.
        raise BackendError(
            f"input {name!r} is a {kind} that cannot be read: {e}",
            fix="pass a plain torch.Tensor, outside of modes of fake tensors",
        ) from e
    if plain is not value:
        _check_memory(plain, name, kind)
    return plain


def _check_memory(tensor: Tensor, name: str, kind: str) -> None:
    """Raise BackendError unless all values of a strided tensor are in memory."""
    if not tensor.numel():
        return
    pairs = zip(tensor.shape, tensor.stride(), strict=True)
    last = tensor.storage_offset() + sum((size - 1) * stride for size, stride in pairs)
    needed = (last + 1) * tensor.element_size()
    try:
        available, address = tensor.untyped_storage().nbytes(), tensor.data_ptr()
    except RuntimeError:  # how torch says that there is no such thing
        available, address = 0, 0
    if not address or available < needed:
        found = f"{available} bytes in memory, not {needed}" if address else "no memory"
        raise BackendError(
            f"input {name!r} is a {kind} with {found}: its values cannot be read",
            fix="pass a plain torch.Tensor with values, outside of torch.vmap, torch.func and modes"
            " of fake tensors",
        )
