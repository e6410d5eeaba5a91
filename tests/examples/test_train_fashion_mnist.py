from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
import torch

from examples import train_fashion_mnist as script
from qpc.assets import IMAGES_FILE, MODEL_FILE, load_demo_images, load_demo_model

DATA = Path("/usr/share/datasets/fashion-mnist")


def write_idx(path: Path, values: np.ndarray[tuple[int, ...], np.dtype[np.int64]]) -> None:
    header = bytes([0, 0, 8, values.ndim]) + np.array(values.shape, ">u4").tobytes()
    path.write_bytes(gzip.compress(header + values.astype(np.uint8).tobytes()))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data set of the same form: the label is the brightest of ten rows."""
    folder = tmp_path / "data"
    folder.mkdir()
    for name, count in (("train", 640), ("t10k", 100)):
        labels = np.arange(count) % 10
        images = np.random.randint(0, 60, (count, 28, 28))
        images[np.arange(count), 4 + 2 * labels] = 255
        write_idx(folder / f"{name}-images-idx3-ubyte.gz", images)
        write_idx(folder / f"{name}-labels-idx1-ubyte.gz", labels)
    return folder


def test_the_script_writes_what_the_package_loads(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    script.main(["--data", str(data), "--out", str(out), "--epochs", "2", "--width", "4"])

    printed = capsys.readouterr().out
    assert "epoch 2/2: loss" in printed
    assert {path.name for path in out.iterdir()} == {MODEL_FILE, IMAGES_FILE}
    model, metadata = load_demo_model(out)
    assert metadata.width == 4
    assert f"top-1 on all 100 test images: {metadata.top1:.4f}" in printed
    images = load_demo_images(out)
    assert images.calibration.shape == (512, 1, 28, 28)
    assert images.labels[:12].tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1]
    right = (model(images.test).argmax(1) == images.labels).float().mean().item()
    assert right == pytest.approx(metadata.top1)


@pytest.mark.thorough
def test_the_same_seed_gives_the_same_weights_and_another_seed_others(
    data: Path, tmp_path: Path
) -> None:
    files = []
    for number, seed in enumerate(("1", "1", "2")):
        out = tmp_path / str(number)
        options = ["--epochs", "1", "--width", "2", "--seed", seed]
        script.main(["--data", str(data), "--out", str(out), *options])
        files.append((out / MODEL_FILE).read_bytes())
    assert files[0] == files[1]
    assert files[1] != files[2]


def test_a_file_that_is_not_idx_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "images.gz"
    path.write_bytes(gzip.compress(b"\x00\x00\x0d\x01 floats"))
    with pytest.raises(ValueError, match=r"images.gz is not an idx file of bytes: it starts with"):
        script.read_idx(path)


@pytest.mark.slow
@pytest.mark.skipif(not DATA.exists(), reason="the package dataset-fashion-mnist is not installed")
def test_the_shipped_weights_are_as_accurate_on_all_test_images_as_they_claim() -> None:
    model, metadata = load_demo_model()
    # Two images may be so near the boundary that the order of float sums decides.
    assert script.accuracy(model, script.read_split(DATA, "t10k")) == pytest.approx(
        metadata.top1, abs=2e-4
    )


@pytest.mark.slow
@pytest.mark.skipif(not DATA.exists(), reason="the package dataset-fashion-mnist is not installed")
def test_the_shipped_images_are_the_first_of_the_data_set(tmp_path: Path) -> None:
    path = tmp_path / IMAGES_FILE
    script.save_images(path, script.read_split(DATA, "train"), script.read_split(DATA, "t10k"))
    fresh, shipped = load_demo_images(tmp_path), load_demo_images()
    assert torch.equal(fresh.calibration, shipped.calibration)
    assert torch.equal(fresh.test, shipped.test)
    assert torch.equal(fresh.labels, shipped.labels)
