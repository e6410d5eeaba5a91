from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from qpc.errors import ConfigError
from qpc.given.data import Arrays, Batches, Data, ImageFolder, Part, chosen, data_of
from qpc.images import Preparation, read_image

Image = pytest.importorskip("PIL.Image", reason="Pillow is not installed")
HOW = Preparation((4, 4), shorter=5)


def draw(path: Path, value: int = 128, size: tuple[int, int] = (10, 6)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (value, value, value)).save(path)


def given(written: object, names: tuple[str, ...] = ("x",), classes: Path | None = None) -> Data:
    return data_of(str(written), HOW, names, classes)


def whole(data: Data) -> Part:
    (part,) = data.parts(100)
    return part


# --- images ---------------------------------------------------------------------------------------


def test_folders_are_classes_in_alphabetical_order(tmp_path: Path) -> None:
    for name in ("dog/1.png", "cat/1.png", "cat/2.jpg", "cat/notes.txt", "empty/.keep"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        draw(path) if path.suffix in (".png", ".jpg") else path.touch()
    data = given(tmp_path)
    assert isinstance(data, ImageFolder)
    assert (data.count, data.labelled) == (3, True)
    part = whole(data)
    assert part.inputs[0].shape == (3, 3, 4, 4)
    assert part.labels is not None
    assert part.labels.tolist() == [0, 0, 1]


def test_folders_that_are_called_by_numbers_or_by_a_file_s_names_have_those_classes(
    tmp_path: Path,
) -> None:
    for name in ("7", "207"):
        draw(tmp_path / "numbers" / name / "1.png")
    labels = whole(given(tmp_path / "numbers")).labels
    assert labels is not None
    assert labels.tolist() == [207, 7], "folders are read in alphabetical order"
    draw(tmp_path / "names" / "dog" / "1.png")
    (tmp_path / "classes.txt").write_text("cat\ndog\n")
    labels = whole(given(tmp_path / "names", classes=tmp_path / "classes.txt")).labels
    assert labels is not None
    assert labels.tolist() == [1]
    draw(tmp_path / "names" / "emu" / "1.png")
    with pytest.raises(ConfigError, match="the folder 'emu' is called like none of the classes"):
        given(tmp_path / "names", classes=tmp_path / "classes.txt")
    with pytest.raises(ConfigError, match=r"cannot read '.*none.txt'"):
        given(tmp_path / "names", classes=tmp_path / "none.txt")


def test_images_in_one_folder_have_no_labels(tmp_path: Path) -> None:
    draw(tmp_path / "1.png")
    assert whole(given(tmp_path)).labels is None


def test_the_middle_is_cut_out_after_the_shorter_side_was_scaled(tmp_path: Path) -> None:
    picture = np.zeros((8, 16, 3), np.uint8)
    picture[:, 4:12] = 255
    Image.fromarray(picture).save(tmp_path / "wide.png")
    plain = Preparation((8, 8), (0.0,) * 3, (1.0,) * 3, 8)
    assert torch.equal(read_image(tmp_path / "wide.png", plain), torch.ones(3, 8, 8))
    squeezed = Preparation((8, 8), (0.0,) * 3, (1.0,) * 3)
    assert not torch.equal(read_image(tmp_path / "wide.png", squeezed), torch.ones(3, 8, 8))


def test_images_are_normalised_and_read_as_grey_for_one_channel(tmp_path: Path) -> None:
    draw(tmp_path / "1.png", 51)  # 0.2 of the greatest value
    value = read_image(tmp_path / "1.png", Preparation((2, 2), (0.1,), (0.5,)))
    assert torch.allclose(value, torch.full((1, 2, 2), 0.2))


def test_of_many_samples_some_are_drawn_once_from_all_classes(tmp_path: Path) -> None:
    assert chosen(4, None).tolist() == [0, 1, 2, 3]
    few = chosen(1000, 10)
    assert torch.equal(few, chosen(1000, 10))
    assert few.max() > 500, "not the first ones, which are all of one class"
    for number in range(4):
        draw(tmp_path / f"{number}.png")
    assert [len(part) for part in given(tmp_path).parts(2, 3)] == [2, 1]


@pytest.mark.parametrize(
    ("how", "problem"),
    [
        (lambda: Preparation((4, 4), (0.1, 0.2)), "must have 1 or 3 values each, got 2 and 3"),
        (lambda: Preparation((8, 8), shorter=7), "8x8 pixels cannot be cut out of images"),
    ],
)
def test_preparations_that_cannot_be_are_refused(
    how: Callable[[], Preparation], problem: str
) -> None:
    with pytest.raises(ConfigError, match=problem):
        how()


def test_folders_without_images_and_files_that_are_none_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"there are no images in '.*', nor in folders of it"):
        given(tmp_path)
    (tmp_path / "1.png").write_bytes(b"no image")
    with pytest.raises(ConfigError, match=r"1.png' cannot be read as an image"):
        whole(given(tmp_path))
    with pytest.raises(ConfigError, match="is a folder, of images, and the model takes no images"):
        data_of(str(tmp_path), None, ("x",), None)


# --- files ----------------------------------------------------------------------------------------


def test_arrays_come_from_three_kinds_of_files(tmp_path: Path) -> None:
    values = torch.randn(6, 2)
    np.save(tmp_path / "a.npy", values.numpy())
    np.savez(tmp_path / "a.npz", x=values.numpy(), labels=np.arange(6))
    save_file({"x": values, "y": torch.arange(6)}, tmp_path / "a.safetensors")
    for name, labelled in (("a.npy", False), ("a.npz", True), ("a.safetensors", True)):
        data = given(tmp_path / name)
        assert (data.count, data.labelled) == (6, labelled)
        assert torch.equal(whole(data).inputs[0], values)


def test_several_inputs_are_taken_by_their_names(tmp_path: Path) -> None:
    a, b = torch.zeros(3, 1), torch.ones(3, 2)
    save_file({"b": b, "a": a}, tmp_path / "two.safetensors")
    part = whole(given(tmp_path / "two.safetensors", ("a", "b")))
    assert [value.shape for value in part.inputs] == [(3, 1), (3, 2)]


@pytest.mark.parametrize(
    ("tensors", "problem"),
    [
        ({"x": torch.zeros(2, 1), "z": torch.zeros(2, 1)}, "holds 'x', 'z', the model takes 'v'"),
        ({"v": torch.zeros(2, 1), "y": torch.arange(3)}, "different numbers of samples: 2, 3"),
        ({"v": torch.zeros(2, 1), "y": torch.zeros(2)}, "must be integers along one axis"),
    ],
)
def test_tensors_that_do_not_go_together_are_refused(
    tensors: dict[str, torch.Tensor], problem: str
) -> None:
    with pytest.raises(ConfigError, match=problem):
        Arrays.of(tensors, ("v",), "the file")


def test_files_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    for name in ("a.npy", "a.npz", "a.safetensors"):
        (tmp_path / name).write_bytes(b"nothing")
        with pytest.raises(ConfigError, match=f"cannot read '.*{name}'"):
            given(tmp_path / name)
    with pytest.raises(ConfigError, match=r"a\.npy': it is no file of numpy"):  # nor of pickle
        given(tmp_path / "a.npy")
    np.save(tmp_path / "objects.npy", np.array([{}]), allow_pickle=True)
    with pytest.raises(ConfigError, match="cannot read"):
        given(tmp_path / "objects.npy")
    (tmp_path / "a.csv").touch()
    with pytest.raises(ConfigError, match=r"a.csv' is no data that QPC reads"):
        given(tmp_path / "a.csv")


# --- functions ------------------------------------------------------------------------------------

MODULE = """
import torch

def tensor(): return torch.zeros(5, 2)
def pair(): return torch.zeros(5, 2), torch.arange(5)
def named(): return {"x": torch.zeros(5, 2), "labels": torch.arange(5)}
def batches():
    for _ in range(2):
        yield torch.zeros(3, 2), torch.arange(3)
def number(): return 3
def nothing(): return []
def texts(): return [("a", "b")]
def fails(): raise OSError("the disk is gone")
"""


def test_functions_return_tensors_or_batches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "source_of_data.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    for name, count, labelled in (
        ("tensor", 5, False),
        ("pair", 5, True),
        ("named", 5, True),
        ("batches", 6, True),
    ):
        data = given(f"source_of_data.py:{name}")
        assert (data.count, data.labelled) == (count, labelled)
    assert isinstance(data, Batches)
    assert [len(part) for part in data.parts(2, 5)] == [2, 1, 2]
    for name, problem in (
        ("number", "returned int, which is no data"),
        ("nothing", "returned no batches"),
        ("texts", "a batch of 'source_of_data.py:texts' holds str, str; the model takes 1 input"),
        ("fails", r"raised OSError: the disk is gone, at .*source_of_data.py:13"),
    ):
        with pytest.raises(ConfigError, match=problem):
            given(f"source_of_data.py:{name}")


def _zipped(content: bytes, **fields: int) -> bytes:
    """An archive of one array; fields: bytes of its local header and their places by name."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("x.npy", content)
    made = bytearray(buffer.getvalue())
    entry = made.find(b"PK\x01\x02")
    for name, value in fields.items():
        place = {"flags": 6, "method": 8}[name]
        made[place] = made[entry + place + 2] = value
    return bytes(made)


def _array(header: str) -> bytes:
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode() + bytes(64)


HUGE = "{'descr': '<f4', 'fortran_order': False, 'shape': (%s,)}\n"
HOSTILE = {
    "huge.npy": _array(HUGE % 10**15),
    "overflow.npy": _array(HUGE % 10**23),
    "deep.npy": _array("(" * 9000),
    "huge.npz": _zipped(_array(HUGE % 10**15)),
    "cut.npz": _zipped(_array(HUGE % 16))[:-30],
    "encrypted.npz": _zipped(_array(HUGE % 16), flags=1),
    "method.npz": _zipped(_array(HUGE % 16), method=99),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_arrays_are_refused_in_one_way(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(HOSTILE[name])
    with pytest.raises(ConfigError, match=f"cannot read .*{name}"):
        data_of(str(tmp_path / name), None, ["x"], None)


def test_an_image_that_scaling_would_blow_up_is_refused(tmp_path: Path) -> None:
    Image.new("L", (1, 30000)).save(tmp_path / "thin.png")
    with pytest.raises(ConfigError, match="with a shorter side of 256 it would have 256x7680000"):
        read_image(tmp_path / "thin.png", Preparation((224, 224), shorter=256))


def test_folders_whose_names_are_longer_than_numbers_are_names(tmp_path: Path) -> None:
    for name in ("9" * 30, "1" * 30):
        (tmp_path / name).mkdir()
        Image.new("L", (8, 8)).save(tmp_path / name / "a.png")
    data = data_of(str(tmp_path), Preparation((8, 8)), ["x"], None)
    assert isinstance(data, ImageFolder)
    assert data.numbers == (0, 1)
