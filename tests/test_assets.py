from __future__ import annotations

from pathlib import Path

import pytest
import torch

import qpc.assets
from qpc.assets import (
    IMAGES_FILE,
    MODEL_FILE,
    DemoImages,
    DemoMetadata,
    load_demo_images,
    load_demo_model,
    normalise,
)
from qpc.models import ResNet

FOLDER = Path(qpc.assets.__file__).parent


@pytest.fixture(scope="module")
def images() -> DemoImages:
    return load_demo_images()


@pytest.fixture(scope="module")
def demo_model() -> tuple[ResNet, DemoMetadata]:
    return load_demo_model()


def test_the_images_are_normalised_floats_with_a_label_for_each_test_image(
    images: DemoImages,
) -> None:
    assert images.calibration.shape == (512, 1, 28, 28)
    assert images.test.shape == (2500, 1, 28, 28)
    assert images.labels.shape == (2500,)
    assert (images.calibration.dtype, images.test.dtype) == (torch.float32, torch.float32)
    assert images.labels.dtype == torch.int64
    assert abs(images.test.mean().item()) < 0.05
    assert abs(images.test.std().item() - 1.0) < 0.05


def test_every_class_occurs_about_equally_often(images: DemoImages) -> None:
    counts = torch.bincount(images.labels, minlength=10)
    assert counts.shape == (10,)
    assert counts.min() >= 200


def test_the_images_to_calibrate_with_are_not_those_to_test_with(images: DemoImages) -> None:
    both = torch.cat([images.calibration, images.test]).flatten(1)
    assert len(torch.unique(both, dim=0)) == len(both)


def test_the_model_is_in_eval_mode_and_knows_its_classes(
    demo_model: tuple[ResNet, DemoMetadata],
) -> None:
    model, metadata = demo_model
    assert not model.training
    assert metadata.width == 16
    assert model.conv1.weight.shape == (16, 1, 3, 3)
    assert len(metadata.classes) == 10
    assert metadata.classes[9] == "ankle boot"
    assert metadata.data_licence == "MIT, copyright 2017 Zalando SE (Fashion-MNIST)"
    assert (metadata.pixel_mean, metadata.pixel_std) == (0.286, 0.353)


@pytest.mark.thorough
def test_the_model_is_as_accurate_on_the_shipped_images_as_it_claims_to_be_on_all(
    demo_model: tuple[ResNet, DemoMetadata], images: DemoImages
) -> None:
    model, metadata = demo_model
    assert metadata.top1 > 0.92
    with torch.no_grad():
        right = (model(images.test).argmax(1) == images.labels).float().mean().item()
    # A quarter of the images: two standard deviations of the difference are about 0.01.
    assert abs(right - metadata.top1) < 0.01


def test_the_shipped_files_stay_small() -> None:
    sizes = {path.name: path.stat().st_size for path in FOLDER.iterdir() if path.is_file()}
    assert sizes.keys() >= {MODEL_FILE, IMAGES_FILE, "LICENSE-fashion-mnist.txt"}
    assert sum(sizes.values()) < 10_000_000


def test_black_and_white_are_normalised_by_the_data_s_mean_and_deviation() -> None:
    pixels = torch.tensor([[[0, 255]]], dtype=torch.uint8)
    normalised = normalise(pixels)
    assert normalised.shape == (1, 1, 1, 2)
    assert normalised.dtype == torch.float32
    assert normalised.flatten().tolist() == pytest.approx([-0.286 / 0.353, 0.714 / 0.353], 1e-6)
