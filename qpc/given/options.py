"""The options about models and data, which many commands have.

A command takes one of these classes in place of their fields. Nothing heavy is imported here.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from qpc.errors import ConfigError

_MODEL = (
    "module:function or file.py:function that returns a model, a file .onnx, or a folder that QPC"
    " wrote."
)
_INPUT = "An input, such as 1x3x224x224, 1x16:int64 or tokens=1x16:int64; once for each input."
_WEIGHTS = "Tensors for a model that comes from a function: .safetensors, .pt or .pth."
_DATA = "A folder of images, a file .npy, .npz or .safetensors, or module:function."
_PANEL = "Images"
_FIX = "pass module:function, file.py:function, a file .onnx, or a folder that QPC wrote"
_WEIGHTS_FIX = "pass module:function for the model, and this file as --weights"
_FIXES = {".pt": _WEIGHTS_FIX, ".pth": _WEIGHTS_FIX, ".safetensors": _WEIGHTS_FIX}
_FIXES |= dict.fromkeys((".tflite", ".pt2"), "pass the model that this file was made from")
DATA_FIX = "pass a folder of images, a file .npy, .npz or .safetensors, or module:function"


FloatOption = Annotated[
    str | None,
    typer.Option(
        "--float",
        help="The float model, written like MODEL, if the folder does not hold it.",
        metavar="MODEL",
    ),
]
FolderOption = Annotated[
    Path, typer.Option("--out", "-o", help="Folder for the graph and all about it.")
]
TimeOption = Annotated[
    bool, typer.Option("--time/--no-time", help="Compile and profile the model, too.")
]


class How(StrEnum):
    """How a model runs."""

    COMPILED = "compiled"
    GRAPH = "graph"


@dataclass(frozen=True)
class ModelOptions:
    """A model, as it is written."""

    model: Annotated[str, typer.Argument(help=_MODEL, metavar="MODEL", show_default=False)]
    input: Annotated[list[str] | None, typer.Option(help=_INPUT, metavar="SHAPE")] = None
    weights: Annotated[Path | None, typer.Option(help=_WEIGHTS)] = None

    def check(self) -> None:
        """Raise ConfigError for what cannot be a model."""
        path = Path(self.model)
        if path.is_dir() or is_onnx(path) or (":" in self.model and not path.is_file()):
            return
        fix = _FIXES.get(path.suffix, _FIX) if path.is_file() else _FIX
        raise ConfigError(_no_model(self.model), fix=fix)


@dataclass(frozen=True)
class DataOptions:
    """Data, as it is written, and how many of it are used in pieces of which size."""

    data: Annotated[str | None, typer.Option(help=_DATA, metavar="DATA")] = None
    samples: Annotated[
        int | None, typer.Option(min=1, help="How many samples to use, drawn once.")
    ] = None
    batch: Annotated[int | None, typer.Option(min=1, help="Samples in a batch.")] = None
    resize: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Pixels of the shorter side before the middle is cut out; 8/7 of the model's size"
            " by default.",
            rich_help_panel=_PANEL,
        ),
    ] = None
    stretch: Annotated[
        bool,
        typer.Option(
            "--stretch", help="Scale both sides instead; cut nothing out.", rich_help_panel=_PANEL
        ),
    ] = False
    mean: Annotated[
        str | None,
        typer.Option(
            help="Mean of each channel, from 0 to 1; ImageNet's by default.",
            metavar="R,G,B",
            rich_help_panel=_PANEL,
        ),
    ] = None
    std: Annotated[
        str | None,
        typer.Option(
            help="Standard deviation of each channel.", metavar="R,G,B", rich_help_panel=_PANEL
        ),
    ] = None
    classes: Annotated[
        Path | None,
        typer.Option(
            help="Names of the classes, one a line, as folders of images are called.",
            rich_help_panel=_PANEL,
        ),
    ] = None

    def check(self) -> None:
        """Raise ConfigError for data that is not there, and for what is said about none."""
        if self.data is None:
            about = ("samples", "resize", "stretch", "mean", "std", "classes")
            if said := [name for name in about if getattr(self, name)]:
                raise ConfigError(
                    f"--{said[0]} is about data, and there is none",
                    fix=f"add --data, or leave --{said[0]} out",
                )
        elif ":" not in self.data and not Path(self.data).exists():
            raise ConfigError(f"there is no data at {self.data!r}", fix=DATA_FIX)


def is_onnx(path: Path) -> bool:
    """Whether this is a file that is called as ONNX models are."""
    return path.suffix == ".onnx" and path.is_file()


def _no_model(written: str) -> str:
    """What is wrong with what is no model."""
    path = Path(written)
    if path.suffix == ".py" and path.is_file():
        return f"{written!r} is a file: which of its functions returns the model?"
    if path.is_file():
        return f"{written!r} is a file, from which no model is read"
    near = path.parent if path.parent.is_dir() else Path()
    names = [each.name for each in near.iterdir() if each.is_dir()]
    close = difflib.get_close_matches(path.name, names, 1)
    hint = f" (did you mean {str(path.with_name(close[0]))!r}?)" if close else ""
    return f"there is no folder {written!r}{hint}, and it is no module:function"
