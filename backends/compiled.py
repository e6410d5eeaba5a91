"""What all compiled models have in common: checking inputs, nesting outputs, measuring time."""

from __future__ import annotations

import statistics
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from qpc.backends.common.plan import Plan
from qpc.backends.inputs import plain_tensor
from qpc.backends.options import checked_batch_sizes
from qpc.errors import BackendError
from qpc.meta import info
from qpc.runtime.signature import AnySignature, Structure, nest
from qpc.runtime.vectors import Replayed, replay
from qpc.types import TensorType, dtype_name, resolve

Array = Tensor | np.ndarray[Any, Any]


class Signature(AnySignature[TensorType]):
    """The inputs a model takes, by name and for each batch size, and the nesting of its outputs."""

    def dtypes(self, tensor: Tensor, expected: TensorType) -> tuple[str, str] | None:
        """See `AnySignature`."""
        if tensor.dtype == expected.dtype:
            return None
        return dtype_name(tensor.dtype), dtype_name(expected.dtype)

    def conversion(self, wanted: str) -> str:
        """See `AnySignature`."""
        return f"convert it with .to(torch.{wanted}) or .astype({wanted!r})"


@dataclass(frozen=True)
class Benchmark:
    """Wall-clock time of one call, over several runs, in milliseconds."""

    median_ms: float
    p10_ms: float
    p90_ms: float
    iqr_ms: float
    runs: int

    def __str__(self) -> str:
        return (
            f"{self.median_ms:.3f} ms (10%..90%: {self.p10_ms:.3f}..{self.p90_ms:.3f},"
            f" IQR {self.iqr_ms:.3f}, {self.runs} runs)"
        )


class CallableModel(ABC):
    """Checks and converts inputs and outputs around `run_tensors`."""

    def __init__(self, signature: Signature) -> None:
        self.signature = signature

    @abstractmethod
    def run_tensors(self, batch: int, inputs: Sequence[Tensor]) -> Sequence[Tensor]:
        """All outputs, flat, for inputs that have been checked."""

    def run_plain(self, inputs: Sequence[Array]) -> Sequence[Array] | None:
        """The same for tensors or arrays that need neither conversion nor an error, else None.

        After a run the caches hold the model, not Python: every line of Python between two runs is
        slow, and small models notice.
        """
        return None

    @property
    def batch_sizes(self) -> tuple[int, ...]:
        """The batch sizes that the model takes."""
        return self.signature.batch_sizes

    @property
    def plan(self) -> Plan:
        """What was decided before the model could run; not every backend decides something."""
        return Plan("this backend has no plan: it runs the graph as it is", {})

    def __call__(self, *inputs: Array, **named: Array) -> Any:
        """Run the model on torch tensors or numpy arrays; outputs are of the kind of the inputs.

        Inputs are positional or by name. Raises BackendError if a shape, a dtype or the number of
        inputs is not what the model was compiled for.
        """
        results: Sequence[Array] | None
        if not named and (results := self.run_plain(inputs)) is not None:
            return nest(self.signature.outputs, results)
        given = self.signature.ordered(inputs, named)
        tensors = [
            plain_tensor(value, name)
            for value, name in zip(given, self.signature.names_of(given), strict=False)
        ]
        batch = self.signature.batch_of(tensors)
        results = self.run_tensors(batch, tensors)
        as_numpy = bool(given) and all(isinstance(value, np.ndarray) for value in given)
        return nest(self.signature.outputs, [_array(r) if as_numpy else r for r in results])

    def verify(self) -> Replayed:
        """Replay the test vectors that the model keeps, as the models of some backends do.

        Raises BackendError if it keeps none.
        """
        return replay((), {}, lambda _: None)

    def benchmark(
        self, inputs: Array | Sequence[Array] | None = None, *, warmup: int = 5, repeats: int = 50
    ) -> Benchmark:
        """Time calls of the model, on random inputs of the first batch size unless given.

        inputs: the model's one input, or its inputs in order.
        """
        if repeats < 1 or warmup < 0:
            raise ValueError(
                f"repeats must be at least 1 and warmup at least 0: {repeats}, {warmup}"
            )
        batch, tensors = self._checked(inputs)
        return measure(lambda: self.run_tensors(batch, tensors), warmup=warmup, repeats=repeats)

    def _checked(self, inputs: Array | Sequence[Array] | None) -> tuple[int, list[Tensor]]:
        """The batch size and the tensors of inputs, which are random unless given."""
        if isinstance(inputs, Tensor | np.ndarray):
            inputs = [inputs]
        chosen = list(inputs) if inputs is not None else self._example_inputs()
        tensors = [
            plain_tensor(v, n)
            for v, n in zip(chosen, self.signature.names_of(chosen), strict=False)
        ]
        return self.signature.batch_of(tensors), tensors

    def _example_inputs(self) -> list[Tensor]:
        types = self.signature.inputs[self.batch_sizes[0]]
        generator = torch.Generator().manual_seed(0)
        return [
            torch.rand(t.shape, generator=generator).to(t.dtype)
            if t.dtype.is_floating_point
            else torch.zeros(t.shape, dtype=t.dtype)
            for t in types
        ]


def measure(call: Callable[[], object], *, warmup: int, repeats: int) -> Benchmark:
    """Time of `call`, over `repeats` runs after `warmup` runs that do not count."""
    for _ in range(warmup):
        call()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append((time.perf_counter() - start) * 1e3)
    p10, p25, p75, p90 = (float(p) for p in np.percentile(times, [10, 25, 75, 90]))
    return Benchmark(statistics.median(times), p10, p90, p75 - p25, repeats)


def signature_of(gm: GraphModule, batch_sizes: Sequence[int]) -> Signature:
    """The signature of a core-form graph for some batch sizes."""
    batch_sizes = checked_batch_sizes(batch_sizes)
    placeholders = [n for n in gm.graph.nodes if n.op == "placeholder"]
    inputs: dict[int, tuple[TensorType, ...]] = {}
    for batch in batch_sizes:
        inputs[batch] = tuple(_input_type(n, batch) for n in placeholders)
    if len(set(inputs.values())) < len(inputs):
        raise BackendError(
            "the model takes one batch size only", fix="compile it with one entry in batch_sizes"
        )
    (output,) = [n for n in gm.graph.nodes if n.op == "output"]
    names = tuple(str(n.target) for n in placeholders)
    return Signature(names, inputs, _structure(output.args[0], output_nodes(gm)))


def output_nodes(gm: GraphModule) -> list[Node]:
    """The distinct nodes that a graph returns, in order of appearance."""
    (output,) = [n for n in gm.graph.nodes if n.op == "output"]
    return list(dict.fromkeys(output.all_input_nodes))


def _input_type(node: Node, batch: int) -> TensorType:
    known = info(node)
    if known.shape is None or known.dtype is None:
        raise BackendError("the shape of an input is not known", node=node)
    return TensorType(resolve(known.shape, batch), known.dtype)


def _structure(value: object, nodes: Sequence[Node]) -> Structure:
    if isinstance(value, Node):
        return nodes.index(value)
    if isinstance(value, tuple):
        return [_structure(v, nodes) for v in value]
    if isinstance(value, list):
        return {"list": [_structure(v, nodes) for v in value]}
    if isinstance(value, Mapping):
        return {"dict": {str(k): _structure(v, nodes) for k, v in value.items()}}
    if value is None:
        return None
    raise BackendError(f"the model returns {value!r}, which is not a tensor")


def _array(result: Tensor) -> np.ndarray[Any, Any]:
    try:
        return result.numpy()
    except TypeError as e:
        raise BackendError(
            f"numpy has no type for an output, which is {dtype_name(result.dtype)}",
            fix="pass torch tensors: then outputs are tensors too",
        ) from e
