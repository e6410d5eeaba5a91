"""A library that was changed, or is called otherwise than it was made for, is noticed."""

from __future__ import annotations

from qpc.runtime.seal import BLANK_NAME, is_sealed, sealed

LIBRARY = b"code " + BLANK_NAME.encode() + b"\0 more code"


def test_a_sealed_library_is_known_by_its_interface_and_its_bytes() -> None:
    library = sealed(LIBRARY, b"takes two")
    assert len(library) == len(LIBRARY)
    assert is_sealed(library, b"takes two")
    assert not is_sealed(library, b"takes three")
    assert not is_sealed(LIBRARY, b"takes two")
    for at in range(len(library)):
        changed = bytearray(library)
        changed[at] ^= 1
        assert not is_sealed(bytes(changed), b"takes two"), at


def test_a_library_can_be_sealed_again_but_not_twice() -> None:
    library = sealed(LIBRARY, b"takes two")
    assert sealed(library, b"takes two") == library
    assert is_sealed(sealed(library, b"takes three"), b"takes three")
    assert not is_sealed(library + library, b"takes two")
    assert not is_sealed(b"", b"")
