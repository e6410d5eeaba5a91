"""Integer graphs as ONNX models, and how other packages add the ONNX forms of their operators."""

from __future__ import annotations

from qpc.backends.onnx.custom import register_export
from qpc.backends.onnx.exporter import Exporter
from qpc.backends.onnx.qdq import to_qdq
from qpc.backends.onnx.rules import supports

__all__ = ["Exporter", "register_export", "supports", "to_qdq"]
