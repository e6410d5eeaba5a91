"""ONNX models as input."""
