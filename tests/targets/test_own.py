from dataclasses import replace
from pathlib import Path

import pytest

from qpc.errors import UnsupportedTargetError
from qpc.targets import Target
from qpc.targets.data import Board
from qpc.targets.own import read_target, size_in_bytes


def written(folder: Path, text: str) -> str:
    path = folder / "board.yaml"
    path.write_text(text)
    return str(path)


def test_a_file_says_what_differs_from_a_known_target(tmp_path: Path) -> None:
    path = written(tmp_path, "name: mine\nlike: cortex-m4\nflash: 512 KiB\nram: 98304\n")
    board = Board(flash=512 * 1024, ram=98304)
    assert Target.parse(path) == replace(Target.parse("cortex-m4"), name="mine", board=board)


def test_a_file_may_say_everything(tmp_path: Path) -> None:
    lines = ["name: mine", "triple: aarch64-unknown-linux-gnu", "features: [neon, dotprod]"]
    path = written(tmp_path, "\n".join([*lines, "vector_lanes: 4", "isa: generic"]))
    features = ("neon", "dotprod")
    expected = Target("mine", "aarch64-unknown-linux-gnu", features, 4, "generic", libraries=())
    assert read_target(path) == replace(expected, counter=None)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("like: cortex-m4", "a target needs a name, in"),
        ("- cortex-m4", "a target is a list of fields, .* in"),
        ("{", "cannot read the target in"),
        ("name: a\nlike: cortex-m5", "unknown target 'cortex-m5', in"),
        ("name: a\nlike: other.yaml", "like one that has a name, not like a file"),
        ("name: a\nlike: cortex-m4\nflsh: 3", "a target has no field 'flsh', in"),
        ("name: a\nlike: cortex-m4\nflash: much", "'much' is no size: .*, in"),
        ("name: a\nlike: cortex-m4\nram: 0", "0 is no size: .*, in"),
        ("name: a\nlike: cortex-m4\nvector_lanes: 3", "vector_lanes of a target must be one of"),
        ("name: a\ntriple: aarch64-unknown-linux-gnu", "target.features: Field required, in"),
    ],
)
def test_what_is_no_target_is_refused_with_the_name_of_the_file(
    tmp_path: Path, text: str, error: str
) -> None:
    with pytest.raises(UnsupportedTargetError, match=error) as caught:
        read_target(written(tmp_path, text))
    assert "board.yaml" in str(caught.value)


def test_a_misspelled_field_gets_the_nearest_one(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedTargetError) as caught:
        read_target(written(tmp_path, "name: a\nlike: cortex-m4\nflsh: 3"))
    assert caught.value.fix == "'flash' may be meant"


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedTargetError, match=r"cannot read the target in .*none\.yaml"):
        Target.parse(str(tmp_path / "none.yaml"))


@pytest.mark.parametrize(
    ("written", "size"),
    [(1000, 1000), ("1 KB", 1000), ("1K", 1024), ("1.5 MiB", 1572864), ("2GB", 2 * 10**9)],
)
def test_sizes_have_units(written: object, size: int) -> None:
    assert size_in_bytes(written) == size
