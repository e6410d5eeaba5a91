"""Built-in backends, one folder each."""

if __name__ != "qpc.backends":
    raise ImportError(f"this folder is the package 'qpc.backends'; it was imported as {__name__!r}")
