"""Can an operator be compiled? Answered by lowering it alone, so that there is no second list."""

from __future__ import annotations

from torch.fx import Graph, GraphModule, Node
from tvm import relax

from qpc.backends.common.graph_plan import plan_graph
from qpc.backends.tvm.custom import registered_decompositions
from qpc.backends.tvm.kernels.isa.choose import isa_for
from qpc.backends.tvm.lowering.emitter import Emitter, Weights
from qpc.backends.tvm.lowering.lower import lower
from qpc.backends.tvm.lowering.rules import trait_table
from qpc.errors import BackendError, PassError
from qpc.meta import info
from qpc.targets import Target

_BATCH = 1


def why_not(node: Node) -> str | None:
    """None if the operator that `node` calls has kernels, or TVM can translate it; else the reason.

    Operators that compute sizes, parameters, inputs and outputs need nothing.
    """
    gm = node.graph.owning_module
    if node.op != "call_function" or info(node).dtype is None or not isinstance(gm, GraphModule):
        return None
    emit = Emitter(relax.BlockBuilder(), isa_for(Target.native()), 1, Weights())
    try:
        known = trait_table(), registered_decompositions(), emit.activation
        lower(emit, plan_graph(_alone(gm, node), _BATCH, *known))
    except (BackendError, PassError) as e:
        return e.what
    except Exception as e:  # TVM raises whatever comes up
        return f"TVM cannot take what it reads: {str(e).strip()}"
    return None


def _alone(gm: GraphModule, node: Node) -> GraphModule:
    """A graph that takes what `node` reads, as inputs or parameters, and returns what it makes."""
    graph, copies = Graph(), dict[Node, Node]()
    needed = _with_sizes(node)
    for source in needed:
        is_value = source.op == "placeholder" or info(source).dtype is not None
        if source.op == "get_attr" or not is_value:
            copies[source] = graph.node_copy(source, copies.__getitem__)
        else:
            copies[source] = graph.placeholder(source.name)
            copies[source].meta = dict(source.meta)
    copies[node] = graph.node_copy(node, copies.__getitem__)
    graph.output(copies[node])
    return GraphModule(gm, graph)


def _with_sizes(node: Node) -> list[Node]:
    """What a node reads, and what the sizes among it are computed from, in order."""
    needed, pending = set(node.all_input_nodes), list(node.all_input_nodes)
    while pending:
        source = pending.pop()
        if source.op == "call_function" and info(source).dtype is None:
            new = [n for n in source.all_input_nodes if n not in needed]
            needed.update(new)
            pending += new
    return [n for n in node.graph.nodes if n in needed]
