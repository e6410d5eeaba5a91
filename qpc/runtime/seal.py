"""A library says what it was made for, and is known not to have changed.

Machine code believes its caller: how large the arena is, where inputs and weights lie and what
shapes they have. So the name that a library bears inside (its SONAME) is a hash of all that its
callers must know, and of its own bytes. A manifest that tells another story is noticed before any
code runs. This finds damage and mistakes; whoever can change the library can seal it again.
"""

from __future__ import annotations

import re

from qpc.documents import sha256

BLANK_NAME = f"qpc-{'0' * 64}.so"
"""The name of a library that is not sealed yet."""
_NAME = re.compile(rb"qpc-[0-9a-f]{64}\.so\0")


def sealed(library: bytes, interface: bytes) -> bytes:
    """A library of any such name under that which belongs to its interface."""
    blank = _NAME.sub(BLANK_NAME.encode() + b"\0", library)
    name = f"qpc-{sha256(interface + sha256(blank).encode())}.so"
    return _NAME.sub(name.encode() + b"\0", library)


def is_sealed(library: bytes, interface: bytes) -> bool:
    """Whether a library was sealed with this interface, and not changed since."""
    return len(_NAME.findall(library)) == 1 and sealed(library, interface) == library
