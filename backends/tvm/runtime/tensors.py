"""Compiled programs on PyTorch's tensors, which lend them their memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor

from qpc.backends.inputs import is_plain
from qpc.errors import BackendError
from qpc.runtime.arrays import Array, ArrayType, Stored
from qpc.runtime.program import Loaded, Program
from qpc.types import TensorType, dtype_name, dtype_of


class TensorProgram(Program):
    """A program whose inputs and outputs may be tensors."""

    def __init__(self, loaded: Loaded, threads: int) -> None:
        super().__init__(loaded, threads)
        self._outputs = {b: [tensor_type(t) for t in e.outputs] for b, e in loaded.entries.items()}
        entries, inputs = loaded.entries.values(), loaded.inputs.values()
        types = [t for types in (*(e.outputs for e in entries), *inputs) for t in types]
        self._numpy_knows_all = all(t.is_numpy for t in types)
        self._batches = {
            tuple((t.shape, dtype_of(t.dtype)) for t in types): batch
            for batch, types in loaded.inputs.items()
        }

    def run(
        self, batch: int, inputs: Sequence[Tensor], stamps: Tensor | None = None
    ) -> list[Tensor]:
        """The outputs for one batch.

        stamps: where to note the counter of time before the first and after every step; see
        `empty_stamps`.
        """
        outputs = [torch.empty(t.shape, dtype=t.dtype, device="cpu") for t in self._outputs[batch]]
        if any(type(tensor) is not Tensor for tensor in outputs):
            raise BackendError(
                "the model is called inside a mode of torch in which tensors have no memory, such"
                " as FakeTensorMode",
                fix="call it outside of the mode",
            )
        tensors = (*inputs, *outputs)
        places = [tensor.data_ptr() for tensor in tensors]
        if stamps is None:
            self.run_at(batch, tensors, places)
        else:
            self.run_at(batch, (*tensors, stamps), places, stamps.data_ptr())
        return outputs

    def run_plain(self, inputs: Sequence[object]) -> list[Tensor] | list[Array] | None:
        """The outputs for plain tensors or arrays of the types of a batch size, else None."""
        types = []
        for x in inputs:
            if not is_plain(x):
                return self.run_arrays(inputs)
            types.append((x.shape, x.dtype))
        batch = self._batches.get(tuple(types))
        return None if batch is None else self.run(batch, cast("Sequence[Tensor]", inputs))

    def run_arrays(self, inputs: Sequence[object]) -> list[Array] | None:
        """See `Program`; None, too, where numpy would see bits in place of values."""
        return super().run_arrays(inputs) if self._numpy_knows_all else None

    def empty_stamps(self, batch: int) -> Tensor:
        """Zeros for the time stamps of one run, int64[steps + 1]."""
        steps = self.loaded.entries[batch].steps
        return torch.zeros(steps + 1, dtype=torch.int64, device="cpu")


def tensor_type(kind: ArrayType) -> TensorType:
    """The type with a dtype of PyTorch's."""
    dtype = dtype_of(kind.dtype)
    assert dtype is not None, "arrays have dtypes by PyTorch's names"
    return TensorType(kind.shape, dtype)


def array_type(tensor: TensorType) -> ArrayType:
    """The type with a dtype by name."""
    return ArrayType(tensor.shape, dtype_name(tensor.dtype))


def stored(tensor: Tensor) -> Stored:
    """A tensor's values, in its memory if they lie there one after the other."""
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    if flat.numel() < 2:  # which may have any stride, and is contiguous all the same
        flat = flat.new_empty(flat.shape).copy_(flat)
    data = flat.view(torch.uint8).numpy()
    return Stored(ArrayType(tuple(tensor.shape), dtype_name(tensor.dtype)), data)
