from __future__ import annotations

import json

import numpy as np
import pytest

from qpc.errors import BackendError
from qpc.runtime.arrays import Array, ArrayType
from qpc.runtime.vectors import (
    Expected,
    Vector,
    decode_vectors,
    encode_vectors,
    inputs_of,
    random_input,
    replay,
)

FLOATS = ArrayType((2, 3), "float32")
EXACT = Expected.of(np.arange(4, dtype=np.uint8), exact=True)
ROUNDED = Expected.of(np.array([1.0, -10.0, np.nan], np.float32), exact=False)
VECTOR = Vector(2, 7, ((-1.0, 3.0),), (EXACT, ROUNDED))


def test_the_same_number_gives_the_same_inputs_everywhere() -> None:
    (x,) = inputs_of(VECTOR, [FLOATS])
    assert [float(value).hex() for value in x.reshape(-1)] == [  # in saved models, so for good
        "0x1.8019040000000p+0",
        "0x1.4b5f9a0000000p+1",
        "0x1.0d26ac0000000p+1",
        "-0x1.9634c00000000p-4",
        "0x1.9af6400000000p-3",
        "0x1.3f42640000000p+1",
    ]


def test_values_lie_between_the_ends_and_meet_all_integers() -> None:
    wide = random_input(ArrayType((4000,), "uint8"), None, np.random.PCG64(0))
    assert set(wide.tolist()) == set(range(256))
    signed = random_input(ArrayType((4000,), "int8"), None, np.random.PCG64(0))
    assert set(signed.tolist()) == set(range(-128, 128))
    for dtype in ("int64", "bool"):
        few = random_input(ArrayType((50,), dtype), None, np.random.PCG64(0))
        assert set(few.astype(int).tolist()) == {0, 1}
    floats = random_input(FLOATS, (-1.0, 3.0), np.random.PCG64(0))
    assert -1.0 <= floats.min() < floats.max() < 3.0


def test_numbers_that_numpy_does_not_have_are_bits() -> None:
    bits = random_input(ArrayType((8,), "bfloat16"), (1.0, 2.0), np.random.PCG64(0))
    values = (bits.astype(np.uint32) << 16).view(np.float32)
    assert values.min() >= 1.0
    assert values.max() <= 2.0


def test_a_byte_that_differs_is_found_where_all_are_known() -> None:
    assert EXACT.agrees(np.arange(4, dtype=np.uint8))
    assert not EXACT.agrees(np.array([0, 1, 2, 4], np.uint8))


def test_rounded_values_may_differ_by_their_tolerance_and_nan_stays_nan() -> None:
    assert ROUNDED.agrees(np.array([1.5, -9.5, np.nan], np.float32))
    assert not ROUNDED.agrees(np.array([3.0, -10.0, np.nan], np.float32))
    assert not ROUNDED.agrees(np.array([1.0, -10.0, 0.0], np.float32))
    assert not ROUNDED.agrees(np.array([1.0, np.nan, np.nan], np.float32))
    assert not ROUNDED.agrees(np.array([1.0], np.float32))


def test_nothing_is_known_of_numbers_that_rounding_decides() -> None:
    unknown = Expected.of(np.array([3]), exact=False)  # the place of a maximum, say
    assert not unknown.known
    assert unknown.agrees(np.array([4]))


def test_replaying_counts_and_names_what_is_wrong() -> None:
    right: list[Array] = [np.arange(4, dtype=np.uint8), np.array([1.0, -10.0, np.nan], np.float32)]
    found = replay([VECTOR], {2: [FLOATS]}, lambda inputs: right)
    assert (found.well, found.outputs, found.exact) == (True, 2, 1)
    assert str(found) == (
        "verified with the test vectors that it keeps: 1 output equal in every byte, "
        "1 output within what float operators may round"
    )
    wrong = [np.ones_like(right[0]), -right[1]]
    found = replay([VECTOR], {2: [FLOATS]}, lambda inputs: wrong)
    assert not found.well
    assert str(found) == (
        "not verified: output 0 of batch size 2 has other bytes than the integer graph gives; "
        "output 1 of batch size 2 differs by more than 1.0e+00 from the graph's"
    )


def test_without_vectors_there_is_nothing_to_verify() -> None:
    with pytest.raises(BackendError, match=r"keeps no test vectors: .* older version"):
        replay([], {}, lambda inputs: [])


def test_vectors_survive_a_manifest() -> None:
    unknown = Vector(1, 0, (None,), (Expected(), EXACT))
    for vector in (VECTOR, unknown):
        text = json.dumps(encode_vectors([vector]), allow_nan=False)
        assert decode_vectors(json.loads(text), 1, {vector.batch: 2}) == (vector,)


@pytest.mark.parametrize(
    "change",
    [
        {"batch": 3},
        {"batch": "2"},
        {"seed": -1},
        {"ends": [[3.0, -1.0]]},
        {"ends": ["x"]},
        {"ends": []},
        {"outputs": [{"values": "x", "tolerance": 0}] * 2},
        {"outputs": 3},
    ],
    ids=str,
)
def test_vectors_without_sense_are_none(change: dict[str, object]) -> None:
    (known,) = encode_vectors([VECTOR])
    assert decode_vectors([known], 1, {2: 2})
    assert decode_vectors([known | change], 1, {2: 2}) == ()
    assert decode_vectors([7], 1, {2: 2}) == decode_vectors(None, 1, {2: 2}) == ()
