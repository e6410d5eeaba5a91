from __future__ import annotations

import builtins
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from qpc.compression.samples import ImageSamples, TensorSamples
from qpc.errors import ConfigError, MissingDependencyError


def test_tensors_are_picked_by_number() -> None:
    samples = TensorSamples(
        torch.arange(6.0).reshape(3, 2), torch.tensor([0, 1, 0], dtype=torch.uint8)
    )
    assert samples.inputs(torch.tensor([2, 0])).tolist() == [[4.0, 5.0], [0.0, 1.0]]
    assert samples.labels.dtype == torch.int64


@pytest.mark.parametrize(
    ("values", "labels", "problem"),
    [
        ([1.0], torch.zeros(1).long(), "inputs must be a tensor, got list"),
        (
            torch.zeros(1, 2).byte(),
            torch.zeros(1).long(),
            "inputs must be float32, got torch.uint8",
        ),
        (torch.zeros(1, 2), torch.zeros(1), r"labels must be int64\[n\], got torch.float32\[1\]"),
        (torch.zeros(1, 2), torch.zeros(2).long(), r"2 labels for inputs of shape \[1, 2\]"),
        (torch.zeros(0, 2), torch.zeros(0).long(), "there are no samples"),
    ],
)
def test_tensors_that_do_not_go_together_are_refused(
    values: Any, labels: Tensor, problem: str
) -> None:
    with pytest.raises(ConfigError, match=problem):
        TensorSamples(values, labels)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    image = pytest.importorskip("PIL.Image", reason="Pillow is not installed")
    for name, colour in (("cat", (255, 0, 0)), ("dog", (0, 255, 0))):
        (tmp_path / name).mkdir()
        for number in range(2):
            image.new("RGB", (6, 4), colour).save(tmp_path / name / f"{number}.png")
    (tmp_path / "cat" / "notes.txt").write_text("not an image")
    return tmp_path


def test_folders_are_classes_in_alphabetical_order(images: Path) -> None:
    samples = ImageSamples(images, (2, 3), (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    assert samples.classes == ("cat", "dog")
    assert samples.labels.tolist() == [0, 0, 1, 1]
    found = samples.inputs(torch.tensor([0, 3]))
    assert found.shape == (2, 3, 2, 3)
    assert found[:, :, 0, 0].tolist() == [[1.0, -1.0, -1.0], [-1.0, 1.0, -1.0]]


def test_one_channel_reads_grey(images: Path) -> None:
    samples = ImageSamples(images, (2, 2), (0.0,), (1.0,))
    found = samples.inputs(torch.tensor([0, 3]))[:, 0, 0, 0]
    torch.testing.assert_close(found, torch.tensor([76 / 255, 149 / 255]), atol=0.01, rtol=0)


def test_what_cannot_be_read_is_told(images: Path) -> None:
    (images / "cat" / "0.png").write_bytes(b"no picture")
    samples = ImageSamples(images, (2, 2), (0.0,), (1.0,))
    with pytest.raises(ConfigError, match=r"0\.png' cannot be read as an image"):
        samples.inputs(torch.tensor([0]))


def test_folders_without_images_are_refused(images: Path) -> None:
    with pytest.raises(ConfigError, match="there is no folder"):
        ImageSamples(images / "none", (2, 2), (0.0,), (1.0,))
    with pytest.raises(ConfigError, match="there are no images in the folders of"):
        ImageSamples(images / "cat", (2, 2), (0.0,), (1.0,))
    with pytest.raises(ConfigError, match="mean and std must have 1 or 3 values each, got 2 and 2"):
        ImageSamples(images, (2, 2), (0.0, 0.0), (1.0, 1.0))


def test_without_pillow_the_error_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any, **options: Any) -> Any:
        if name.startswith("PIL"):
            raise ImportError(name)
        return real(name, *args, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingDependencyError, match="Pillow, which is not installed") as error:
        ImageSamples(tmp_path, (2, 2), (0.0,), (1.0,))
    assert error.value.fix == "pip install 'quantize-prune-compiler[images]'"
