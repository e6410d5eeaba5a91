"""Integer graphs as ONNX models, and how other packages add the ONNX forms of their operators."""

from __future__ import annotations

from qpc.exporting.onnx.custom import register_export
from qpc.exporting.onnx.exporter import Exporter
from qpc.exporting.onnx.form import OnnxForm
from qpc.exporting.onnx.model import OnnxExport, to_onnx, to_qdq
from qpc.exporting.onnx.rules import supports

__all__ = [
    "Exporter",
    "OnnxExport",
    "OnnxForm",
    "register_export",
    "supports",
    "to_onnx",
    "to_qdq",
]
