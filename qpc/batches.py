"""Batches of data for calibration and comparison, matched to the inputs of a graph."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from qpc.errors import CalibrationError
from qpc.meta import info
from qpc.types import BatchDim, Shape, format_shape

Batch = Tensor | Sequence[Tensor] | Mapping[str, Tensor]
"""A tensor, tensors in the order of the graph's inputs, or tensors by input name."""


def checked_batches(batches: object, what: str = "calibration") -> Iterable[Batch]:
    """`batches`, which must be an iterable of batches, not one of them.

    what: needs them, for messages. Raises CalibrationError for anything else.
    """
    fix = "pass a list of tensors or a DataLoader"
    if isinstance(batches, Tensor | np.ndarray):
        kind = "tensor" if isinstance(batches, Tensor) else "array"
        got = f"one {kind} of shape {tuple(batches.shape)}"
        fix = "pass [batch], or batch.split(32) for many samples"
        if not isinstance(batches, Tensor):
            fix = "pass [torch.from_numpy(batch)]"
    elif isinstance(batches, Mapping):
        got, fix = f"one mapping of {', '.join(map(repr, batches))}", "pass [batch]"
    elif isinstance(batches, str | bytes) or not isinstance(batches, Iterable):
        got = type(batches).__name__
    else:
        return batches
    raise CalibrationError(f"{what} needs an iterable of batches, got {got}", fix=fix)


def inputs_of(gm: GraphModule, batch: Batch, number: int) -> list[Tensor]:
    """The tensors of `batch` in the order of the graph's inputs.

    For a graph of one input a sequence may go on after it, as (images, labels) do. number: of the
    batch, for messages. Raises CalibrationError if a tensor is missing or has another shape or
    dtype than the input, or is on another device than the graph.
    """
    wanted = [n for n in gm.graph.nodes if n.op == "placeholder"]
    names = [n.name for n in wanted]
    if isinstance(batch, Tensor):
        given: list[object] = [batch]
    elif isinstance(batch, Mapping):
        keys = [n.target if n.target in batch else n.name for n in wanted]
        if missing := [key for key in keys if key not in batch]:
            raise _misfit(
                number,
                f"has no {missing[0]!r}",
                f"inputs {names}",
                fix=f"name the tensors so: {{{', '.join(f'{name!r}: ...' for name in names)}}}",
            )
        given = [batch[str(key)] for key in keys]
    elif isinstance(batch, Sequence):
        given = list(batch)
    else:
        raise _misfit(number, f"is {type(batch).__name__}", "tensors", fix=_fix_kind(batch))
    if len(wanted) == 1 and not isinstance(batch, Mapping):
        given = given[:1]
    if len(given) != len(wanted):
        raise _misfit(number, f"has {len(given)} tensors", f"{len(wanted)} inputs {names}")
    own = next((t.device for t in [*gm.parameters(), *gm.buffers()]), None)
    found = [_fitting(node, value, number, own) for node, value in zip(wanted, given, strict=True)]
    _check_equal_lengths(wanted, found, number)
    return found


def _fitting(node: Node, value: object, number: int, device: torch.device | None) -> Tensor:
    about = info(node)
    if not isinstance(value, Tensor):
        what = f"holds {type(value).__name__} for {node.name!r}"
        raise _misfit(number, what, "a tensor", fix=_fix_kind(value))
    if about.shape is not None and not _fits(tuple(value.shape), about.shape):
        alone = _fits((1, *value.shape), about.shape)
        raise _misfit(
            number,
            f"has shape {tuple(value.shape)} for {node.name!r}",
            f"{format_shape(about.shape)}, where N is any batch size"
            if any(isinstance(d, BatchDim) for d in about.shape)
            else format_shape(about.shape),
            fix="give it an axis for the batch: x[None], or stack several" if alone else None,
        )
    if device is not None and value.device != device:
        raise _misfit(number, f"is on {value.device} for {node.name!r}", f"tensors on {device}")
    if value.dtype is not about.dtype:
        fix = None if about.dtype is None else f"convert it: x.to({about.dtype})"
        if about.dtype is torch.float32 and not value.is_floating_point():
            fix = None  # pixels, perhaps, which are to be normalised
        raise _misfit(number, f"has {value.dtype} for {node.name!r}", str(about.dtype), fix=fix)
    return value


def _check_equal_lengths(inputs: Sequence[Node], values: Sequence[Tensor], number: int) -> None:
    """Inputs whose first axis is the batch must agree on its size."""
    lengths = {
        node.name: len(value)
        for node, value in zip(inputs, values, strict=True)
        if (shape := info(node).shape) and shape[0] == BatchDim()
    }
    if len(set(lengths.values())) > 1:
        found = ", ".join(f"{length} for {name!r}" for name, length in lengths.items())
        raise _misfit(number, f"has different numbers of samples, {found}", "equal ones")


def _fix_kind(value: object) -> str | None:
    return "torch.from_numpy(array)" if isinstance(value, np.ndarray) else None


def _fits(actual: tuple[int, ...], wanted: Shape) -> bool:
    return len(actual) == len(wanted) and all(
        isinstance(w, BatchDim) or a == w for a, w in zip(actual, wanted, strict=True)
    )


def _misfit(number: int, found: str, wanted: str, *, fix: str | None = None) -> CalibrationError:
    return CalibrationError(
        f"batch {number} {found}; the graph takes {wanted}",
        fix=fix or "preprocess the data exactly like the model's inputs",
    )


def batch_length(batch: Batch) -> int:
    """How many samples a batch holds: the length of its first tensor."""
    if isinstance(batch, Tensor):
        return len(batch) if batch.dim() else 1
    tensors = list(batch.values() if isinstance(batch, Mapping) else batch)
    return batch_length(tensors[0]) if tensors else 0
