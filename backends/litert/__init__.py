"""Integer graphs as .tflite files."""

from __future__ import annotations

from qpc.backends.litert.tflite import to_tflite

__all__ = ["to_tflite"]
