"""From what torch.export returns to a plain graph whose parameters keep the user's names."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from torch import Tensor, nn
from torch._ops import HigherOrderOperator
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, TensorArgument
from torch.fx import Graph, GraphModule, Node
from torch.fx.node import map_arg
from torch.utils import _pytree as pytree

from qpc.errors import TraceError
from qpc.meta import update_info
from qpc.types import BatchDim, Shape

_ASSERTIONS = ("_assert", "sym_constrain_range")
_PLAIN_REGIONS = (
    "wrap_with_set_grad_enabled",
    "wrap_with_autocast",
)  # compute what their body does
_AUTOCAST_ENABLED = 2  # of (device type, dtype, enabled, cache enabled, body, ...)


def unlift(program: ExportedProgram, model: nn.Module) -> GraphModule:
    """The exported graph with parameters as `get_attr` nodes under their names in the model."""
    root = _parameter_tree(model)
    graph, mapping = Graph(), dict[Node, Any]()
    lifted = {
        spec.arg.name: spec
        for spec in program.graph_signature.input_specs
        if isinstance(spec.arg, TensorArgument) and spec.kind is not InputKind.USER_INPUT
    }
    for node in program.graph.nodes:
        if node.op == "placeholder" and node.name in lifted:
            name = str(lifted[node.name].target)
            if lifted[node.name].kind is InputKind.CONSTANT_TENSOR:
                name = _add_constant(root, name, program.constants[name])
            mapping[node] = graph.get_attr(name)
        elif node.op == "output":
            graph.output(_output_structure(program, node, mapping))
        else:
            _copy(node, graph, program.graph_module, mapping)
    gm = GraphModule(root, graph, type(model).__name__)
    for name, module in gm.named_modules():  # GraphModule makes all buffers persistent
        transient = root.get_submodule(name)._non_persistent_buffers_set
        module._non_persistent_buffers_set |= transient & module._buffers.keys()
    return gm


def _copy(node: Node, graph: Graph, owner: nn.Module, mapping: dict[Node, Any]) -> None:
    """Copy one node of a graph that belongs to `owner`, and note the copy in `mapping`."""
    if any(word in str(node.target) for word in _ASSERTIONS):
        return
    if _body(node, owner) is not None:
        return  # the body of a region, which is copied where the region is called
    if isinstance(node.target, HigherOrderOperator):
        mapping[node] = _copy_region(node, graph, owner, mapping)
        return
    if node.target is operator.getitem:
        source: Any = node.args[0]
        index: Any = node.args[1]
        if isinstance(mapping.get(source), tuple):
            mapping[node] = mapping[source][index]
            return
    mapping[node] = graph.node_copy(node, mapping.__getitem__)
    _keep_own_meta(mapping[node], node)


def _copy_region(
    call: Node, graph: Graph, owner: nn.Module, mapping: dict[Node, Any]
) -> tuple[Any, ...]:
    """Copy what is inside a region such as `with torch.no_grad()`; return what it yields."""
    bodies = {i: b for i, a in enumerate(call.args) if (b := _body(a, owner)) is not None}
    name = str(call.target)
    autocast = "autocast" in name and call.args[_AUTOCAST_ENABLED]
    if len(bodies) != 1 or autocast or not any(known in name for known in _PLAIN_REGIONS):
        what = "torch.autocast" if autocast else f"the control-flow operator {name!r}"
        raise TraceError(
            f"the model uses {what}, which a graph in core form cannot hold",
            node=_first_call(bodies.values()) or call,
            fix="take it out of the forward method; precision is quantization's to choose"
            if autocast
            else "compute both branches and choose with torch.where, or move it out of the model",
        )
    ((place, body),) = bodies.items()
    parameters: Iterator[Any] = iter(call.args[place + 1 :])
    result: Any = ()
    for node in body.graph.nodes:
        if node.op == "placeholder":
            mapping[node] = mapping[next(parameters)]
        elif node.op == "output":
            result = map_arg(node.args[0], mapping.__getitem__)
        else:
            _copy(node, graph, body, mapping)
    return tuple(result) if isinstance(result, tuple | list) else (result,)


def _first_call(bodies: Iterable[GraphModule]) -> Node | None:
    """The first call inside a region: it knows its line in the user's model."""
    calls = (n for body in bodies for n in body.graph.nodes if n.op == "call_function")
    return next(calls, None)


def _body(value: object, owner: nn.Module) -> GraphModule | None:
    """The body of a region, if that is what a node of a graph of `owner` stands for."""
    if not isinstance(value, Node) or value.op != "get_attr":
        return None
    found = getattr(owner, str(value.target), None)
    return found if isinstance(found, GraphModule) else None


def _parameter_tree(model: nn.Module) -> nn.Module:
    """Bare modules that hold copies of the parameters and buffers; tied ones stay tied."""
    root, copies = nn.Module(), {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if id(parameter) not in copies:
            fresh = parameter.detach().clone()
            copies[id(parameter)] = nn.Parameter(fresh, requires_grad=parameter.requires_grad)
        owner, leaf = _owner(root, name)
        owner.register_parameter(leaf, copies[id(parameter)])
    persistent = set(model.state_dict(keep_vars=True))
    for name, buffer in model.named_buffers(remove_duplicate=False):
        owner, leaf = _owner(root, name)
        owner.register_buffer(leaf, buffer.detach().clone(), persistent=name in persistent)
    return root


def _owner(root: nn.Module, name: str) -> tuple[nn.Module, str]:
    *path, leaf = name.split(".")
    for part in path:
        if part not in root._modules:
            root.add_module(part, nn.Module())
        root = root.get_submodule(part)
    return root, leaf


def _add_constant(root: nn.Module, name: str, value: object) -> str:
    assert isinstance(value, Tensor), f"constant {name!r} is {type(value).__name__}"
    full = f"_constants.{name.replace('.', '_')}"
    owner, leaf = _owner(root, full)
    owner.register_buffer(leaf, value.detach().clone())
    return full


def drop_unused_constants(gm: GraphModule) -> None:
    """Remove the tensors that export lifted out of the model's code and no node reads any more."""
    holder = dict(gm.named_children()).get("_constants")
    if holder is None:
        return
    used = {str(n.target) for n in gm.graph.nodes if n.op == "get_attr"}
    for name in list(holder._buffers):
        if f"_constants.{name}" not in used:
            delattr(holder, name)
    if not holder._buffers:
        delattr(gm, "_constants")


def _output_structure(program: ExportedProgram, output: Node, mapping: Mapping[Node, Node]) -> Any:
    """What the model returned, as far as fx knows the container; otherwise a flat tuple."""
    returned: Any = output.args[0]
    flat = [mapping[v] if isinstance(v, Node) else v for v in returned]
    structure = program.call_spec.out_spec
    assert structure is not None
    user = flat[len(flat) - structure.num_leaves :]  # what was written in place comes first
    structured = pytree.tree_unflatten(user, structure)
    return structured if isinstance(structured, Node | tuple | list | dict) else tuple(user)


def _keep_own_meta(made: Node, original: Node) -> None:
    stack = original.meta.get("nn_module_stack") or {}
    paths = [entry[0] for entry in stack.values() if isinstance(entry[0], str)]
    value, trace_text = original.meta.get("val"), original.meta.get("stack_trace")
    made.meta = {}
    if trace_text:
        made.stack_trace = trace_text
    update_info(
        made,
        module_path=_plain_path(paths[-1]) if paths else "",
        dtype=value.dtype if isinstance(value, Tensor) else None,
    )
    if original.op == "placeholder" and isinstance(value, Tensor):
        update_info(made, shape=_symbolic_shape(value))


def _plain_path(path: str) -> str:
    """The module path as the user writes it; export marks repeated calls as `block@1`."""
    return "" if path.startswith("_empty") else path.partition("@")[0].removeprefix("L['self'].")


def _symbolic_shape(value: Tensor) -> Shape:
    sizes: tuple[object, ...] = tuple(value.shape)  # numbers, or torch.SymInt for the batch
    return tuple(size if isinstance(size, int) else BatchDim() for size in sizes)
