"""Run integer graphs in PyTorch, where the operators' definitions give the right answer."""

from qpc.backends.reference.model import ReferenceModel, compile_graph

__all__ = ["ReferenceModel", "compile_graph"]
