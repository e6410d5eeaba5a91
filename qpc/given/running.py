"""Which of its forms a model runs in: as machine code, or as a graph in PyTorch."""

from __future__ import annotations

from torch.fx import GraphModule

from qpc.backends.compiled import CallableModel
from qpc.errors import ConfigError
from qpc.given.model import Model
from qpc.given.options import How


def runnable(model: Model, how: How | None) -> tuple[str, GraphModule | CallableModel]:
    """The model as it is to run, and what to call it: compiled if it can be, else its graph.

    Raises ConfigError for a form that it does not have.
    """
    if how is not How.GRAPH and model.compiled is not None:
        return "compiled", model.compiled
    if how is How.COMPILED:
        raise ConfigError(
            f"{model.written!r} is not compiled", fix=f"qpc compile {model.written}, or --how graph"
        )
    return "graph", model.require_graph("--how graph")
