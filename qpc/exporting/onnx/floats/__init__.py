"""Float operators, and those that move values of any kind, as ONNX operators."""
