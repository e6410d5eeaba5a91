"""What is exported, whatever the form that it is written in."""

from __future__ import annotations

import keyword
import re
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt

from qpc.backends.common.plan import Place, Step
from qpc.backends.deploy.abi import ELEMENTS, ElementType
from qpc.backends.tvm.codegen.entry import EntryPlan
from qpc.errors import BackendError
from qpc.targets import Target

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Port:
    """An input or output.

    name: in the graph. scale, zero_point: of the grid of its values; of floats, of the grid that
    they are rounded to or come from. tolerance: None for an output that is the same bits
    everywhere; otherwise how far a value may be from PyTorch's.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    scale: float | None = None
    zero_point: int | None = None
    tolerance: float | None = None

    @property
    def element(self) -> ElementType:
        """What its elements are in C."""
        return ELEMENTS[self.dtype]

    @property
    def elements(self) -> int:
        """How many there are."""
        return prod(self.shape)

    @property
    def bytes(self) -> int:
        """All of them."""
        return self.elements * self.element.bytes

    def __str__(self) -> str:
        return f"{self.name}: {self.dtype}[{', '.join(map(str, self.shape))}]"


@dataclass(frozen=True)
class Case:
    """Inputs, and the outputs that they must give; as bytes lie in memory."""

    inputs: tuple[bytes, ...]
    outputs: tuple[bytes, ...]


@dataclass(frozen=True)
class Deployable:
    """A model for one batch size on one target.

    name: what all its symbols begin with. entry: the calls of kernels. weights: constants by name;
    weight_names: the name of each weight of `entry`. steps: what is known about each call. cases:
    test vectors. threads: how many may share a call. notes: what a user should know.
    """

    name: str
    target: Target
    entry: EntryPlan
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    weights: Mapping[str, Array]
    weight_names: tuple[str, ...]
    steps: tuple[Step, ...]
    cases: tuple[Case, ...]
    threads: int = 1
    notes: tuple[str, ...] = ()

    @property
    def run(self) -> str:
        """The name of the function."""
        return f"{self.name}_run"

    @property
    def macro(self) -> str:
        """What its constants begin with in C."""
        return self.name.upper()

    def weight_of(self, place: Place) -> str:
        """The name of the constant at a place."""
        return self.weight_names[place.start]


def checked_name(name: object) -> str:
    """The same; raises BackendError for what no name in C can begin with."""
    wrong = not isinstance(name, str) or not re.fullmatch(r"[a-z][a-z0-9_]{0,39}", name)
    if wrong or name in _RESERVED or keyword.iskeyword(str(name)):
        raise BackendError(
            f"a library cannot be called {name!r}",
            fix="use up to 40 lower-case letters, digits and underscores, a letter first, and no "
            "word of C: name='my_model'",
        )
    return str(name)


_WORDS = """
auto break case char class const continue default delete do double else enum extern float for goto
if int long main namespace new register return short signed sizeof static struct switch template
this typedef union unsigned void volatile while
"""
_RESERVED = frozenset(_WORDS.split())


def raw_bytes(array: Array) -> bytes:
    """Elements of an array, the least byte first."""
    return np.ascontiguousarray(array).astype(array.dtype.newbyteorder("<"), copy=False).tobytes()
