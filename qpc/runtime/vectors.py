"""Test vectors that a compiled model keeps: what it must give for inputs that are made of a number.

Neither inputs nor outputs are kept. Inputs are random, and the same ones everywhere, as they come
from the bits of a generator with a fixed definition (PCG64), by operations that IEEE 754 defines.
Of an output that depends on integers only, the hash of all bytes is kept, since it is the same on
every machine; of others some values, which may differ a bit.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from qpc.errors import BackendError
from qpc.runtime.arrays import Array, ArrayType

Ends: TypeAlias = "tuple[float, float] | None"
"""Between which numbers the values of an input lie; None: where its dtype says."""

_NORMAL = (-2.0, 2.0)  # of floats about which nothing is known
_FEW = (0.0, 1.0)  # of integers that may count or index something
_SAMPLED = 64
MOST_ROUNDED = 0.1
"""By how much a value may differ that depends on float operators, over the output's greatest: what
they round may move a value behind them by a step of a grid, which is far less."""
_LEAST = 1e-6
_FLOATS = ("float16", "float32", "float64")
_BYTES = {"uint8": (0.0, 255.0), "int8": (-128.0, 127.0)}
_FRACTION_BITS = 24
_MOST_VECTORS = 64


@dataclass(frozen=True)
class Expected:
    """What an output must be.

    sha256: of all its bytes, in hexadecimal. Else values: some of them, evenly spaced over the
    output, None where they are not finite; tolerance: by how much they may differ. With neither,
    nothing can be said of the output: float rounding decides between whole numbers, say.
    """

    sha256: str | None = None
    values: tuple[float | None, ...] | None = None
    tolerance: float = 0.0

    @classmethod
    def of(cls, output: Array, *, exact: bool) -> Expected:
        """What to keep of an output. exact: whether it is the same bits on every machine."""
        if exact:
            return cls(_hash(output))
        if output.dtype.kind != "f":
            return cls()
        values = _sampled(output)
        greatest = max((abs(v) for v in values if v is not None), default=0.0)
        return cls(None, values, max(greatest * MOST_ROUNDED, _LEAST))

    @property
    def known(self) -> bool:
        """Whether anything is known of the output."""
        return self.sha256 is not None or self.values is not None

    def agrees(self, output: Array) -> bool:
        """Whether an output is this, as far as it is known."""
        if self.sha256 is not None:
            return _hash(output) == self.sha256
        if self.values is None:
            return True
        found = _sampled(output)
        return len(found) == len(self.values) and all(
            a is b is None or (a is not None and b is not None and abs(a - b) <= self.tolerance)
            for a, b in zip(found, self.values, strict=True)
        )


@dataclass(frozen=True)
class Vector:
    """Inputs, and what the model must give for them. seed: what the inputs are made of."""

    batch: int
    seed: int
    ends: tuple[Ends, ...]
    outputs: tuple[Expected, ...]


@dataclass(frozen=True)
class Replayed:
    """How many outputs were compared, how many of them in all bytes, and which are wrong."""

    outputs: int
    exact: int
    wrong: tuple[str, ...]

    @property
    def well(self) -> bool:
        """Whether every output is what it must be."""
        return not self.wrong

    def __str__(self) -> str:
        if self.wrong:
            return f"not verified: {'; '.join(self.wrong)}"
        rest = self.outputs - self.exact
        parts = [f"{_outputs(self.exact)} equal in every byte"] if self.exact else []
        parts += [f"{_outputs(rest)} within what float operators may round"] if rest else []
        return f"verified with the test vectors that it keeps: {', '.join(parts) or 'it runs'}"


def random_input(kind: ArrayType, ends: Ends, generator: np.random.PCG64) -> Array:
    """Values of one type, spread evenly; bits of those that numpy does not have.

    ends: between which numbers, unless all bytes, or 0 and 1, or a few steps around 0 will do.
    """
    count = math.prod(kind.shape)
    raw = np.asarray(generator.random_raw(count), np.uint64).reshape(kind.shape)
    low, high = ends or _usual_ends(kind.dtype)
    unit = (raw >> np.uint64(64 - _FRACTION_BITS)).astype(np.float64) / 2.0**_FRACTION_BITS
    if kind.dtype in _FLOATS:
        return (low + unit * (high - low)).astype(kind.storage)
    if kind.dtype == "bfloat16":
        floats = (low + unit * (high - low)).astype(np.float32)
        return (floats.view(np.uint32) >> np.uint32(16)).astype(np.uint16)
    if kind.dtype.startswith("complex"):
        return (low + unit * (high - low)).astype(kind.storage)
    return np.floor(low + unit * (high - low + 1.0)).astype(kind.storage)


def inputs_of(vector: Vector, types: Sequence[ArrayType]) -> list[Array]:
    """The inputs of a test vector, for a model that takes these types."""
    generator = np.random.PCG64(vector.seed)
    return [random_input(t, e, generator) for t, e in zip(types, vector.ends, strict=True)]


def replay(
    vectors: Sequence[Vector],
    types: Mapping[int, Sequence[ArrayType]],
    run: Callable[[list[Array]], Sequence[Array] | None],
) -> Replayed:
    """Run test vectors and compare. types: of the inputs, by batch size; run: the model."""
    if not vectors:
        raise BackendError(
            "the model keeps no test vectors: it was saved by an older version, or its graph"
            " cannot run on random inputs",
            fix="compile and save it again, or compare it with its graph: qpc verify",
        )
    outputs = exact = 0
    wrong = []
    for vector in vectors:
        found = run(inputs_of(vector, types[vector.batch]))
        assert found is not None, "the inputs are of the types of the model"
        for number, (output, expected) in enumerate(zip(found, vector.outputs, strict=True)):
            outputs += expected.known
            exact += expected.sha256 is not None
            if not expected.agrees(output):
                wrong.append(f"output {number} of batch size {vector.batch} {_how(expected)}")
    return Replayed(outputs, exact, tuple(wrong))


# --- in a manifest --------------------------------------------------------------------------------


def encode_vectors(vectors: Sequence[Vector]) -> list[dict[str, Any]]:
    """Test vectors as JSON values."""
    return [
        {
            "batch": vector.batch,
            "seed": vector.seed,
            "ends": [None if ends is None else list(ends) for ends in vector.ends],
            "outputs": [_encode_expected(expected) for expected in vector.outputs],
        }
        for vector in vectors
    ]


def decode_vectors(value: object, inputs: int, outputs: Mapping[int, int]) -> tuple[Vector, ...]:
    """Test vectors from JSON values. inputs, outputs: how many there are, outputs by batch size.

    Vectors in a way that is not known here count as none: they check a model, which runs without.
    """
    if not isinstance(value, list) or len(value) > _MOST_VECTORS:
        return ()
    try:
        found = tuple(map(_decode_vector, value))
    except (AttributeError, LookupError, TypeError, ValueError, OverflowError):
        return ()
    fits = all(len(v.ends) == inputs and len(v.outputs) == outputs.get(v.batch) for v in found)
    return found if fits else ()


def _encode_expected(expected: Expected) -> dict[str, Any]:
    if expected.sha256 is not None:
        return {"sha256": expected.sha256}
    if expected.values is None:
        return {}
    return {"values": list(expected.values), "tolerance": expected.tolerance}


def _decode_vector(value: dict[str, Any]) -> Vector:
    batch, seed = value["batch"], value["seed"]
    if type(batch) is not int or type(seed) is not int or not 0 <= seed < 2**63:
        raise ValueError
    ends = tuple(None if e is None else (float(e[0]), float(e[1])) for e in value["ends"])
    if any(e is not None and not e[0] <= e[1] for e in ends):
        raise ValueError
    return Vector(batch, seed, ends, tuple(map(_decode_expected, value["outputs"])))


def _decode_expected(value: dict[str, Any]) -> Expected:
    if "sha256" in value:
        return Expected(str(value["sha256"]))
    if "values" not in value:
        return Expected()
    values = tuple(None if v is None else float(v) for v in value["values"])
    return Expected(None, values, float(value["tolerance"]))


# --- outputs --------------------------------------------------------------------------------------


def _hash(output: Array) -> str:
    return hashlib.sha256(np.ascontiguousarray(output).reshape(-1).view(np.uint8).data).hexdigest()


def _sampled(output: Array) -> tuple[float | None, ...]:
    flat = output.reshape(-1)
    count = min(_SAMPLED, flat.size)
    places = [number * flat.size // count for number in range(count)]
    return tuple(v if math.isfinite(v) else None for v in map(float, flat[places]))


def _usual_ends(dtype: str) -> tuple[float, float]:
    if dtype.startswith(("float", "bfloat", "complex")):
        return _NORMAL
    return _BYTES.get(dtype, _FEW)


def _outputs(count: int) -> str:
    return f"{count} output{'s' * (count != 1)}"


def _how(expected: Expected) -> str:
    if expected.sha256 is not None:
        return "has other bytes than the integer graph gives"
    return f"differs by more than {expected.tolerance:.1e} from the graph's"
