import struct

import pytest

from qpc.backends.deploy import elf
from qpc.backends.deploy.elf import Object
from qpc.errors import BackendError
from tests.backends.deploy.objects import NARROW, WIDE, made_object


@pytest.mark.parametrize("layout", [WIDE, NARROW], ids=["64 bits", "32 bits"])
def test_what_is_written_is_read_again(layout: elf.Layout) -> None:
    first = made_object(layout)
    back = elf.read(elf.write(first))
    assert (back.machine, back.flags, back.layout) == (first.machine, first.flags, layout)
    assert back.sections == first.sections
    assert back.symbols == first.symbols


def test_written_files_are_the_same_every_time() -> None:
    assert elf.write(made_object(WIDE)) == elf.write(made_object(WIDE))


@pytest.mark.parametrize("raw", [b"", b"hello" * 100, b"\x7fELF\x02\x01\x01"])
def test_what_is_no_object_file_is_refused(raw: bytes) -> None:
    with pytest.raises(BackendError, match="did not emit an object file in the format ELF"):
        elf.read(raw)


def test_a_program_cannot_be_linked() -> None:
    raw = bytearray(elf.write(made_object(WIDE)))
    struct.pack_into("<H", raw, 16, 2)  # ET_EXEC
    with pytest.raises(BackendError, match="did not emit an object file that can be linked"):
        elf.read(bytes(raw))


def test_more_sections_than_the_format_can_count_are_refused() -> None:
    whole = made_object(WIDE)
    many = Object(whole.layout, whole.machine, whole.flags, whole.sections[:1] * 40000, [])
    with pytest.raises(BackendError, match="an object file cannot hold 40000 sections"):
        elf.write(many)
