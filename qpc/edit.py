"""Editing a graph: new calls, new parameters, replacements, and clearing up after them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from torch import Tensor, nn
from torch.fx import GraphModule, Node

from qpc.calls import qpc_ops
from qpc.companions import parameter_of
from qpc.meta import attribute, info, inherit, update_info, value_name
from qpc.shapes import infer_node


class Editor:
    """Edits to one graph by one pass.

    Every new node inherits the user's module and source line from the node it stands for, notes the
    pass as its origin, and knows its shape at once.
    """

    def __init__(self, gm: GraphModule, origin: str) -> None:
        self.gm, self.origin = gm, origin

    def call(
        self,
        target: Callable[..., object],
        *args: object,
        like: Node,
        before: Node | None = None,
        after: Node | None = None,
        **kwargs: object,
    ) -> Node:
        """Insert a call of `target` for `like`: before or after a node, else before `like`."""
        graph = self.gm.graph
        place = graph.inserting_after(after) if after else graph.inserting_before(before or like)
        with place:
            made = graph.call_function(target, args, kwargs)  # type: ignore[arg-type]  # fx checks what it holds
        inherit(made, like, origin=self.origin)
        infer_node(self.gm, made)
        return made

    def parameter(self, name: str, value: Tensor, *, before: Node) -> Node:
        """A `get_attr` node of a trainable parameter `name`, which is set to `value`."""
        self.set_tensor(name, nn.Parameter(value))
        return self.get(name, before=before)

    def buffer(self, name: str, value: Tensor, *, before: Node) -> Node:
        """A `get_attr` node of a buffer `name`, which is set to `value`."""
        self.set_tensor(name, value)
        return self.get(name, before=before)

    def get(self, name: str, *, before: Node) -> Node:
        """A `get_attr` node of a parameter or buffer that is there already."""
        with self.gm.graph.inserting_before(before):
            made = self.gm.graph.get_attr(name)
        value = attribute(self.gm, name)
        update_info(made, shape=tuple(value.shape), dtype=value.dtype, origin=self.origin)
        return made

    def set_tensor(self, name: str, value: Tensor) -> None:
        """Store a parameter (if `value` is one) or a buffer under a dotted name, over any other."""
        *path, leaf = name.split(".")
        owner: nn.Module = self.gm
        for part in path:
            if not hasattr(owner, part):
                owner.add_module(part, nn.Module())
            owner = owner.get_submodule(part)
        kept = owner._parameters if isinstance(value, nn.Parameter) else owner._buffers
        if leaf in kept:  # in its place: optimizers and files know parameters by their order, too
            setattr(owner, leaf, value if isinstance(value, nn.Parameter) else value.detach())
            return
        persistent = leaf not in owner._non_persistent_buffers_set
        if hasattr(owner, leaf):
            delattr(owner, leaf)
        if isinstance(value, nn.Parameter):
            owner.register_parameter(leaf, value)
        else:
            owner.register_buffer(leaf, value.detach(), persistent=persistent)

    def free_name(self, wanted: str) -> str:
        """`wanted`, or `wanted_1`, `wanted_2`, ... if the model has something of that name.

        Names of `nn.Module`'s own methods, such as `to`, are never free.
        """
        name, number = wanted, 0
        while _exists(self.gm, name) or hasattr(nn.Module, name.rpartition(".")[2]):
            number += 1
            name = f"{wanted}_{number}"
        return name

    def promote(self, prefix: str) -> None:
        """Move tensors below `prefix` up to the name without it, where that name is free."""
        for node in self.gm.graph.nodes:
            old = str(node.target)
            if node.op != "get_attr" or not old.startswith(f"{prefix}."):
                continue
            new = old.removeprefix(f"{prefix}.")
            if not _exists(self.gm, new):
                self.set_tensor(new, attribute(self.gm, old))
                node.target = new

    def replace(self, node: Node, by: Node) -> None:
        """Let every reader of `node` read `by`, and erase `node`.

        A `by` that a pass has made stands for the value of `node` from now on.
        """
        if info(by).origin and not info(by).value:
            update_info(by, value=value_name(node) or "")
        node.replace_all_uses_with(by, delete_user_cb=lambda user: user is not by)
        self.gm.graph.erase_node(node)

    def drop_unused(self) -> None:
        """Erase calls nobody reads, tensors no node names, and the modules they leave empty."""
        self.gm.graph.eliminate_dead_code()
        for node in list(self.gm.graph.nodes):
            if node.op == "get_attr" and not node.users:
                self.gm.graph.erase_node(node)
        used = {str(n.target) for n in self.gm.graph.nodes if n.op == "get_attr"}
        observers = _observer_prefixes(self.gm)
        for name, _ in [
            *self.gm.named_parameters(remove_duplicate=False),
            *self.gm.named_buffers(remove_duplicate=False),
        ]:
            owned = name in used or parameter_of(name) in used
            if not owned and not name.startswith(observers):
                owner, _, leaf = name.rpartition(".")
                delattr(self.gm.get_submodule(owner), leaf)
        _drop_empty(self.gm)


def _observer_prefixes(gm: GraphModule) -> tuple[str, ...]:
    """Observers are named in `observe` calls, not read through `get_attr`."""
    observe = qpc_ops.observe.default
    return tuple(f"{n.args[1]}." for n in gm.graph.nodes if n.target is observe)


def reads(gm: GraphModule, attr: Node) -> int:
    """How many arguments read the tensor of a `get_attr` node, under any of its names."""
    tensor = attribute(gm, str(attr.target))
    return sum(
        len(n.users)
        for n in gm.graph.nodes
        if n.op == "get_attr" and attribute(gm, str(n.target)) is tensor
    )


def reads_by_name(gm: GraphModule) -> dict[str, int]:
    """What `reads` gives for every `get_attr` node, by the name of its tensor."""
    nodes = gm.graph.find_nodes(op="get_attr")
    tensors = {n: id(attribute(gm, str(n.target))) for n in nodes}
    counts: Counter[int] = Counter()
    for node, tensor in tensors.items():
        counts[tensor] += len(node.users)
    return {str(node.target): counts[tensor] for node, tensor in tensors.items()}


def _exists(gm: GraphModule, name: str) -> bool:
    owner: object = gm
    for part in name.split("."):
        if not hasattr(owner, part):
            return False
        owner = getattr(owner, part)
    return True


def _drop_empty(module: nn.Module) -> None:
    for name, child in list(module.named_children()):
        _drop_empty(child)
        bare = type(child) is nn.Module
        if bare and not child._parameters and not child._buffers and not child._modules:
            delattr(module, name)
