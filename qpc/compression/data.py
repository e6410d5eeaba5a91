"""What recipes say about data: ready tasks of classification, or functions of the user's."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, StrictBool, StrictInt, model_validator

from qpc.compression.parts import Part

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class _Classified(Part):
    """What the ready tasks have in common.

    batch_size: of training and of everything else; with several processes, of all of them together.
    learning_rate: of steps that give none; momentum, weight_decay: of stochastic gradient descent.
    flip: mirror training images at random. calibration: how many of the training samples, the
    first ones, calibrate.
    """

    batch_size: Annotated[StrictInt, Field(ge=1)] = 128
    learning_rate: Positive = 0.01
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    weight_decay: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 5e-4
    flip: StrictBool = False
    calibration: Annotated[StrictInt, Field(ge=1)] = 512


class TensorData(_Classified):
    """Classification of tensors.

    file: a safetensors file with `train.inputs`, `train.labels`, `test.inputs`, `test.labels`;
    source: a function that returns these four by name. One of them.
    """

    kind: Literal["tensors"] = "tensors"
    file: str | None = None
    source: str | None = None

    @model_validator(mode="after")
    def _comes_from_one_place(self) -> Self:
        if (self.file is None) == (self.source is None):
            raise ValueError("tensors need one of file and source")
        return self


class ImageData(_Classified):
    """Classification of images in folders, one folder for each class.

    train, test: the folders that hold the folders. size: height and width in pixels.
    mean, std: of each channel, in values from 0 to 1; one channel reads images as grey, three as
    colours.
    """

    kind: Literal["image-folder"] = "image-folder"
    train: str
    test: str
    size: tuple[StrictInt, StrictInt]
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[Positive, ...] = (0.229, 0.224, 0.225)


class FunctionData(Part):
    """Functions of the user's, as `module:function` or `file.py:function`.

    train, evaluate: as in `qpc.compress`. batches: a function that returns calibration batches.
    loss: for criteria that look at gradients.
    """

    kind: Literal["functions"] = "functions"
    evaluate: str
    train: str | None = None
    batches: str | None = None
    loss: str | None = None


Data = Annotated[TensorData | ImageData | FunctionData, Field(discriminator="kind")]
"""Any of them, by its `kind`."""
