"""Integer operators as ONNX operators that compute exactly the same integers."""
