"""How fast compiled models are next to the same network in other runtimes.

The other runtimes, and onnx, are imported only here, and only when they are used.
"""
