"""All ONNX operators that are read, in PyTorch: a function for each."""

from __future__ import annotations

from collections.abc import Mapping

from qpc.importers.onnx import elementwise, layers, quantized, recurrent, shapes
from qpc.importers.onnx.values import Rule

RULES: Mapping[str, Rule] = {
    **elementwise.RULES,
    **layers.RULES,
    **quantized.RULES,
    **recurrent.RULES,
    **shapes.RULES,
}
"""By the operator's type."""
OF_ONNX_RUNTIME = ("QGemm", "QLinearAdd", "QLinearGlobalAveragePool", "QLinearMul")
"""Those of the domain `com.microsoft`; all others are ONNX's own."""
SPELLED_OUT = ("Silu",)
"""Those that ONNX has no operator for, but only several in a row."""
