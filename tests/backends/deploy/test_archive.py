import shutil
import subprocess
from pathlib import Path

import pytest

from qpc.backends.deploy.archive import archive
from tests.backends.deploy.objects import function

LONG = "a_member_with_a_long_name.o"


def test_an_archive_says_which_member_has_a_symbol() -> None:
    data = archive({"net.o": function("run", "memcpy"), LONG: function("other")})
    assert data.startswith(b"!<arch>\n/ ")
    count = int.from_bytes(data[68:72], "big")
    places = [int.from_bytes(data[72 + 4 * i : 76 + 4 * i], "big") for i in range(count)]
    assert data[72 + 4 * count :].startswith(b"run\0other\0")
    assert data[places[0] :].startswith(b"net.o/ ")
    assert data[places[1] :].startswith(b"/0 ")
    assert f"{LONG}/\n".encode() in data
    assert all(place % 2 == 0 for place in places)


@pytest.mark.skipif(shutil.which("ar") is None, reason="there is no ar to read it")
def test_ar_and_nm_read_it(tmp_path: Path) -> None:
    path = tmp_path / "libnet.a"
    path.write_bytes(archive({"net.o": function("run", "memcpy"), LONG: function("other")}))

    def said(*command: str) -> str:
        return subprocess.run([*command, path], check=True, capture_output=True, text=True).stdout

    assert said("ar", "t").split() == ["net.o", LONG]
    assert "run in net.o" in said("nm", "-s")


def test_the_same_objects_make_the_same_archive() -> None:
    assert archive({"a.o": function("run")}) == archive({"a.o": function("run")})
