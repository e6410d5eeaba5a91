"""The version, in a module that imports nothing: builds and `qpc version` read it quickly."""

VERSION = "0.1.0"
DISTRIBUTION = "quantize-prune-compiler"
"""What package indexes call the package; in Python it is `qpc`."""
