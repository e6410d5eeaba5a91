"""Shapes of all values in terms of the batch size.

They are found by running operators on fake tensors (no data, no arithmetic) at two batch sizes and
fitting a line through the results, so that no operator needs a shape rule of its own.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch._ops import OpOverload
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensor,
    FakeTensorMode,
)
from torch.fx import Graph, GraphModule, Node
from torch.fx.node import map_arg
from torch.utils._python_dispatch import _disable_current_modes

from qpc.errors import PassError
from qpc.library import NAMESPACE
from qpc.meta import info, update_info
from qpc.types import BatchDim, Concrete, Dim, Shape, TensorType, resolve

_PROBES = (3, 5)  # two batch sizes; odd, distinct, and not 1, which broadcasts


def concrete_shapes(gm: GraphModule, batch: int) -> dict[Node, Concrete]:
    """What every node of a core-form graph yields at batch size `batch`.

    Placeholders must carry a shape in their node info, which `qpc.trace` sees to.
    """
    with _fake_mode():
        runner = _Runner(gm, batch)
        return {node: _concrete(runner.value(node)) for node in gm.graph.nodes}


def shapes_of(gm: GraphModule, inputs: Mapping[Node, tuple[int, ...]]) -> dict[Node, Concrete]:
    """What nodes yield for inputs of other shapes, up to the first that refuses them."""
    with _quiet(), _no_mode():
        found = _accepted(gm, _Runner(gm, _PROBES[0], inputs=inputs, device="meta"))
    if len(found) < len(gm.graph.nodes):  # fake tensors, which are slower, may know a way
        with _quiet(), _fake_mode():
            found = _accepted(gm, _Runner(gm, _PROBES[0], inputs=inputs))
    return found


def _accepted(gm: GraphModule, runner: _Runner) -> dict[Node, Concrete]:
    found: dict[Node, Concrete] = {}
    for node in gm.graph.nodes:
        try:
            found[node] = _concrete(runner.value(node))
        except PassError:
            break
    return found


def noted_shapes(gm: GraphModule, batch: int) -> dict[Node, Concrete]:
    """What `concrete_shapes` gives, read from the node info where that has it.

    Quicker by far, most of all in a process that has run no operator on fake tensors yet.
    """
    found: dict[Node, Concrete] = {}
    for node in gm.graph.nodes:
        known = info(node)
        if known.shape is not None and known.dtype is not None:
            found[node] = TensorType(resolve(known.shape, batch), known.dtype)
    results = [node for node in gm.graph.nodes if node.op == "output"]
    for node in results:
        if all(source in found for source in node.all_input_nodes):
            found[node] = _concrete(map_arg(node.args[0], lambda n: cast(Any, found[n])))
    if missing := [node for node in gm.graph.nodes if node not in found]:
        with _fake_mode():
            runner = _Runner(gm, batch, trust_info=True)
            found |= {node: _concrete(runner.value(node)) for node in missing}
    return found


def infer_shapes(gm: GraphModule, *, only_missing: bool = False) -> None:
    """Write shape and dtype into the node info of every node, or of those that have none yet.

    Raises PassError at the first node whose operator refuses its inputs.
    """
    wanted = [
        node
        for node in gm.graph.nodes
        if node.op not in ("placeholder", "output")
        and not (only_missing and info(node).shape is not None)
    ]
    _infer(gm, wanted, trust_info=only_missing)


def infer_node(gm: GraphModule, node: Node) -> None:
    """Write shape and dtype into the node info of one new node, from those of its inputs."""
    own = isinstance(node.target, OpOverload) and node.target.namespace == NAMESPACE
    if own and all(info(n).shape is not None for n in node.all_input_nodes):
        # Our operators all have rules for the device "meta", which is quicker by far.
        with suppress(PassError):
            _infer(gm, [node], trust_info=True, device="meta")
            return
    _infer(gm, [node], trust_info=True)


def probed_shapes(
    graph: Graph,
    root: nn.Module,
    before: Callable[[Node, Mapping[Node, Any]], None],
    *,
    most: int,
) -> Iterator[tuple[Node, Shape | None, torch.dtype | None]]:
    """Shape and dtype of every node of a graph of which no GraphModule was made yet.

    Placeholders must carry theirs in their node info, and `root` hold the tensors. `before` sees
    every node with the values of the nodes before it, which have no data; what it raises is raised.
    Nothing is computed: an operator that cannot tell its shape otherwise is refused. `most` limits
    the steps that all of the operators take together, as some take one for each element of a list.

    Raises PassError at the first node whose operator refuses its inputs, or takes too many steps.
    """
    with _quiet(), _fake_mode(_Counting(most)):
        first, second = (_Runner(root, batch) for batch in _PROBES)
        for node in graph.nodes:
            before(node, second.known)
            small = first.value(node)
            large = second.value(node, same_as=first)
            if isinstance(small, Tensor) and isinstance(large, Tensor):
                yield node, _fit(tuple(small.shape), tuple(large.shape), node), small.dtype
            else:
                yield node, None, None


def _infer(
    gm: GraphModule, wanted: Sequence[Node], *, trust_info: bool, device: str | None = None
) -> None:
    if not wanted:
        return
    with _fake_mode() if device is None else _no_mode():
        runners = [_Runner(gm, n, trust_info=trust_info, device=device) for n in _PROBES]
        for node in wanted:
            small, large = (runner.value(node) for runner in runners)
            if isinstance(small, Tensor) and isinstance(large, Tensor):
                shape = _fit(tuple(small.shape), tuple(large.shape), node)
                update_info(node, shape=shape, dtype=small.dtype)


class _Runner:
    """Evaluates nodes without data at one batch size, each at most once.

    device: "meta" for tensors that are there; without it fake ones, in whose mode it runs.
    """

    def __init__(
        self,
        root: nn.Module,
        batch: int,
        *,
        trust_info: bool = False,
        inputs: Mapping[Node, tuple[int, ...]] | None = None,
        device: str | None = None,
    ) -> None:
        self._root, self._batch, self._trust_info = root, batch, trust_info
        self._device = device
        self._inputs = inputs or {}
        self._values: dict[Node, Any] = {}

    @property
    def known(self) -> Mapping[Node, Any]:
        """The values that were evaluated."""
        return self._values

    def value(self, node: Node, *, same_as: _Runner | None = None) -> object:
        """What a node yields; that of `same_as` if the inputs are the very same there."""
        if node in self._values:
            return self._values[node]
        if same_as is not None and node.op != "placeholder":
            theirs, inputs = same_as.known, node.all_input_nodes
            if all(self._values.get(n, self) is theirs.get(n) for n in inputs):
                self._values[node] = theirs[node]
                return theirs[node]
        for pending in self._unevaluated(node):
            self._values[pending] = self._evaluate(pending)
        return self._values[node]

    def _unevaluated(self, node: Node) -> list[Node]:
        """`node` and the inputs it still needs, inputs first (iterative: graphs are deep)."""
        order: dict[Node, None] = {}
        stack = [node]
        while stack:
            top = stack[-1]
            missing = [
                n
                for n in top.all_input_nodes
                if n not in self._values and n not in order and not self._known(top)
            ]
            if missing:
                stack.extend(missing)
            else:
                order[stack.pop()] = None
        return list(order)

    def _known(self, node: Node) -> bool:
        from qpc.meta import info

        return node.op == "placeholder" or (self._trust_info and info(node).shape is not None)

    def _evaluate(self, node: Node) -> object:
        from qpc.meta import attribute, info

        known = info(node)
        if self._known(node):
            if known.shape is None or known.dtype is None:
                return None
            shape = self._inputs.get(node) or resolve(known.shape, self._batch)
            return torch.empty(shape, dtype=known.dtype, device=self._device)
        if node.op == "get_attr":
            tensor = attribute(self._root, str(node.target))
            return torch.empty_strided(
                tensor.shape, tensor.stride(), dtype=tensor.dtype, device=self._device
            )
        args = map_arg(node.args, self._values.__getitem__)
        kwargs = map_arg(node.kwargs, self._values.__getitem__)
        if node.op == "output":
            return args[0]
        assert callable(node.target)
        try:
            return node.target(*args, **kwargs)
        except (DataDependentOutputException, DynamicOutputShapeException) as e:
            raise PassError(
                f"what {node.target} yields depends on the values in a tensor", node=node
            ) from e
        except Exception as e:
            raise PassError(
                f"operator {node.target} does not accept its inputs: {e}", node=node
            ) from e


@contextmanager
def _fake_mode(kind: FakeTensorMode | None = None) -> Iterator[None]:
    """Without a `kind`, operators run on real zeros where they have no rule for fake tensors."""
    with _no_mode(), kind or FakeTensorMode():
        yield


@contextmanager
def _no_mode() -> Iterator[None]:
    """Without gradients, whatever the caller is in."""
    with _disable_current_modes(), torch.no_grad():
        yield


class _Counting(FakeTensorMode):
    """Runs at most so many operators, those that others are made of included, none on real data."""

    def __init__(self, most: int) -> None:
        super().__init__(allow_fallback_kernels=False)
        self._left = most

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        self._left -= 1
        if self._left < 0:
            raise RuntimeError("the graph takes too many steps")
        result = super().__torch_dispatch__(func, types, args, kwargs or {})
        if isinstance(result, list | tuple):
            self._left -= len(result)
        return result


@contextmanager
def _quiet() -> Iterator[None]:
    """PyTorch does not log why an operator refuses its inputs: the error says it."""
    logger = logging.getLogger("torch._subclasses.fake_tensor")
    before = logger.disabled
    logger.disabled = True
    try:
        yield
    finally:
        logger.disabled = before


def _concrete(value: object) -> Concrete:
    if isinstance(value, FakeTensor | Tensor):
        return TensorType(tuple(int(s) for s in value.shape), value.dtype)
    if isinstance(value, tuple | list):
        return tuple(_concrete(v) for v in value)
    if isinstance(value, Mapping):
        return tuple(_concrete(v) for v in value.values())
    return value if isinstance(value, int | float | bool | TensorType) else None


def _fit(small: tuple[int, ...], large: tuple[int, ...], node: Node) -> Shape:
    return tuple(_fit_dim(a, b, node) for a, b in zip(small, large, strict=True))


def _fit_dim(small: int, large: int, node: Node) -> Dim:
    if small == large:
        return small
    first, second = _PROBES
    factor, rest = divmod(large - small, second - first)
    if rest:
        raise PassError("a dimension does not grow linearly with the batch size", node=node)
    return BatchDim(factor, small - factor * first)
