"""Integer graphs as ONNX models."""
