"""What an ONNX model is to look like."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from qpc.errors import ConfigError
from qpc.settings import require_count

DEFAULT_OPSET = 17
"""What other runtimes have known for years."""
FOUR_BIT_OPSET, TWO_BIT_OPSET = 21, 25
"""From these on, ONNX has integers of 4 and of 2 bits, which QuantizeLinear clamps to."""
_LEAST_OPSET, _LEAST_WITH_GRIDS = 12, 13

Kind = Literal["qdq", "tensorrt", "float", "integer"]


@dataclass(frozen=True)
class OnnxForm:
    """One form of an ONNX model.

    kind: "qdq": QuantizeLinear and DequantizeLinear around float operators. "tensorrt": the same by
    TensorRT's rules: int8 with zero points 0, float biases. "float": float operators alone, with
    explicit clamps; the grids are a list beside the model. "integer": integer operators that
    compute exactly what the graph computes.
    opset: of the operators, 13 or newer (12 for "float").
    batch: the only batch size of the model; None leaves it open.
    fuse_residual_adds: only for "tensorrt". A layer whose value goes into one sum alone is not
    rounded, so that TensorRT computes layer, sum and ReLU at once; the sum sees what rounding would
    have changed.
    """

    kind: Kind = "qdq"
    opset: int = DEFAULT_OPSET
    batch: int | None = None
    fuse_residual_adds: bool = False

    def __post_init__(self) -> None:
        least = _LEAST_OPSET if self.kind == "float" else _LEAST_WITH_GRIDS
        require_count("opset", self.opset)
        if self.opset < least:
            raise ConfigError(
                f"the ONNX form {self.kind!r} needs opset {least} or newer, not {self.opset}",
                fix=f"opset={DEFAULT_OPSET}",
            )
        if self.batch is not None:
            require_count("batch", self.batch)
        if self.fuse_residual_adds and self.kind != "tensorrt":
            raise ConfigError(
                f"fuse_residual_adds is for TensorRT, not for the form {self.kind!r}",
                fix='form="onnx-tensorrt"',
            )

    @property
    def rounds(self) -> bool:
        """Whether values are rounded by nodes of the model."""
        return self.kind in ("qdq", "tensorrt")

    @property
    def exact(self) -> bool:
        """Whether values are the integers themselves."""
        return self.kind == "integer"

    @property
    def float_biases(self) -> bool:
        """Whether biases are floats, not integers behind a DequantizeLinear."""
        return self.kind != "qdq"

    @property
    def explicit_clamps(self) -> bool:
        """Whether a ReLU at the end of a grid is written although rounding clamps there."""
        return self.kind == "float"
