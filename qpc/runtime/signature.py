"""The inputs of a model and the nesting of its outputs, whatever kind of arrays these are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from qpc.errors import BackendError
from qpc.runtime.arrays import Array, ArrayType

Structure = int | list["Structure"] | dict[str, Any] | None
"""How outputs are nested. An int is the number of an output tensor, a list a tuple of outputs; a
dict is `{"list": [...]}` or `{"dict": {...}}` (JSON has no tuples, so the rarer kinds are marked).
"""


class Typed(Protocol):
    """The type of a tensor."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Its sizes."""


T = TypeVar("T", bound=Typed)


@dataclass(frozen=True)
class AnySignature(Generic[T]):
    """The inputs a model takes, by name and for each batch size, and the nesting of its outputs.

    Tensors are of a kind that subclasses know.
    """

    names: tuple[str, ...]
    inputs: Mapping[int, tuple[T, ...]]
    outputs: Structure

    @property
    def batch_sizes(self) -> tuple[int, ...]:
        """The batch sizes that the model takes, in the order in which they were asked for."""
        return tuple(self.inputs)

    def dtypes(self, tensor: Any, expected: T) -> tuple[str, str] | None:
        """The names of the dtypes that a tensor has and should have; None if they are the same."""
        raise NotImplementedError

    def conversion(self, wanted: str) -> str:
        """What to type in order to have a tensor of that dtype."""
        raise NotImplementedError

    def batch_of(self, tensors: Sequence[Any]) -> int:
        """The batch size whose shapes the inputs have; an error says what was expected."""
        if len(tensors) != len(self.names):
            wanted = ", ".join(self.names)
            raise BackendError(
                f"the model takes {len(self.names)} input(s) ({wanted}), got {len(tensors)}"
            )
        for batch, types in self.inputs.items():
            if all(tuple(t.shape) == e.shape for t, e in zip(tensors, types, strict=True)):
                self._check_dtypes(tensors, types)
                return batch
        raise self._wrong_shape(tensors)

    def names_of(self, given: Sequence[object]) -> list[str]:
        """One name per given input, even if there are too many of them."""
        extra = [f"#{i}" for i in range(len(self.names), len(given))]
        return [*self.names, *extra]

    def ordered(self, inputs: Sequence[Any], named: Mapping[str, Any]) -> list[Any]:
        """Inputs by position and by name, in order. Raises BackendError for other names."""
        names = self.names
        positional = dict(zip(names, inputs, strict=False))
        if twice := [n for n in named if n in positional]:
            raise BackendError(f"input {twice[0]!r} is given twice, by position and by name")
        if unknown := [n for n in named if n not in names]:
            raise BackendError(
                f"unexpected input {unknown[0]!r}: the model takes {', '.join(names)}"
            )
        rest = [named[n] for n in names[len(positional) :] if n in named]
        return [*inputs, *rest]

    def _check_dtypes(self, tensors: Sequence[Any], types: Sequence[T]) -> None:
        for name, tensor, expected in zip(self.names, tensors, types, strict=True):
            if different := self.dtypes(tensor, expected):
                got, wanted = different
                raise BackendError(
                    f"input {name!r} is {got}, expected {wanted}", fix=self.conversion(wanted)
                )

    def _wrong_shape(self, tensors: Sequence[Any]) -> BackendError:
        for i, (name, tensor) in enumerate(zip(self.names, tensors, strict=True)):
            allowed = dict.fromkeys(types[i].shape for types in self.inputs.values())
            if tuple(tensor.shape) not in allowed:
                wanted = " or ".join(map(str, allowed))
                return BackendError(
                    f"input {name!r} has shape {tuple(tensor.shape)}, expected {wanted}",
                    fix="compile for other batch sizes with batch_sizes=(...)"
                    if all(tuple(tensor.shape)[1:] == shape[1:] for shape in allowed)
                    else None,
                )
        shapes = ", ".join(str(tuple(t.shape)) for t in tensors)
        return BackendError(f"inputs of shapes {shapes} have different batch sizes")


class ArraySignature(AnySignature[ArrayType]):
    """That of a model which takes numpy arrays."""

    def __str__(self) -> str:
        first, *others = self.batch_sizes
        inputs = zip(self.names, self.inputs[first], strict=True)
        takes = ", ".join(f"{name}: {kind}" for name, kind in inputs)
        return f"{takes}, or batches of {' or '.join(map(str, others))}" if others else takes

    def dtypes(self, tensor: Array, expected: ArrayType) -> tuple[str, str] | None:
        """See `AnySignature`."""
        if tensor.dtype == expected.storage:
            return None
        wanted = expected.storage.name
        bits = "" if expected.is_numpy else f" (the bits of {expected.dtype})"
        return tensor.dtype.name, wanted + bits

    def conversion(self, wanted: str) -> str:
        """See `AnySignature`."""
        name, _, of_bits = wanted.partition(" ")
        return "pass its bits" if of_bits else f"convert it with .astype({name!r})"


def nest(structure: Structure, flat: Sequence[object]) -> Any:
    """Outputs, nested as the model nests them."""
    if structure is None:
        return None
    if isinstance(structure, int):
        return flat[structure]
    if isinstance(structure, list):
        return tuple(nest(s, flat) for s in structure)
    if "list" in structure:
        return [nest(s, flat) for s in structure["list"]]
    return {k: nest(s, flat) for k, s in structure["dict"].items()}
