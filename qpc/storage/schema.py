"""The document of a saved graph: what may stand in it, declared.

Names end up in Python source that `torch.fx` makes of a graph, so they are identifiers and nothing
else; names of tensors are paths of identifiers, numbers and plain signs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from qpc.names import is_plain_name, why_no_path
from qpc.settings import first_problem

_MOST = 20_000  # nodes, and tensors; networks of 1,000 layers have some 10,000
_MOST_PARTS = 200_000  # of all names of tensors; modules are made of them
_LARGEST = 2**40  # elements along one axis
_LARGEST_KEPT = 2**24  # of an axis that has lost some; vocabularies have some 2**18
_TAKEN = frozenset({"self", "torch", "device", "inf", "nan", "NoneType", "operator", "fx_pytree"})


def _word(text: str) -> str:
    if not is_plain_name(text) or text.startswith("__"):
        raise ValueError("it is no name")
    return text


def _name(text: str) -> str:
    if text in _TAKEN or text.startswith("_operator"):
        raise ValueError("it is no name")
    return _word(text)


def _path(text: str) -> str:
    if why := why_no_path(text):
        raise ValueError(f"it is no path of a tensor: {why}")
    return text


Name = Annotated[str, Field(max_length=500), AfterValidator(_name)]
Word = Annotated[str, Field(max_length=500), AfterValidator(_word)]
Path = Annotated[str, Field(min_length=1, max_length=500), AfterValidator(_path)]
Text = Annotated[str, Field(max_length=100_000)]
Size = Annotated[int, Field(ge=0, le=_LARGEST)]
Growing = Annotated[
    list[Annotated[int, Field(ge=-_LARGEST, le=_LARGEST)]], Field(min_length=2, max_length=2)
]
"""A dimension of `factor * N + offset`, where N is the batch size."""


class _Part(BaseModel):
    model_config: ClassVar[ConfigDict] = ConfigDict(extra="forbid", strict=True, frozen=True)


class TensorEntry(_Part):
    """A parameter or buffer.

    names: all of those it has; the first is its name in the file of tensors. transient: those that
    are left out of state dictionaries. bits_of: the shape of truth values, which are packed.
    """

    names: Annotated[list[Path], Field(min_length=1, max_length=1000)]
    parameter: bool
    requires_grad: bool
    transient: Annotated[list[Path], Field(max_length=1000)] = []
    bits_of: Annotated[list[Size], Field(max_length=64)] | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if not set(self.transient) <= set(self.names) or (self.parameter and self.transient):
            raise ValueError("it cannot be transient")
        return self


class KeptEntry(_Part):
    """What is left of an axis of a parameter, see `qpc.lineage`.

    size: of the axis when it was whole; kept: a binary number of that many digits, written in
    hexadecimal, the lowest of which stands for index 0, 1 where the index is left.
    """

    name: Path
    axis: Annotated[int, Field(ge=0, lt=64)]
    size: Annotated[int, Field(ge=1, le=_LARGEST_KEPT)]
    kept: Annotated[str, Field(max_length=_LARGEST_KEPT // 4, pattern="^[0-9a-f]+$")]


class GridEntry(_Part):
    """A grid; `QParams` checks the rest."""

    scale: Annotated[float, Field(allow_inf_nan=False)]
    zero_point: int
    lo: int
    hi: int
    dtype: Literal["int8", "uint8"]


class _Node(_Part):
    """What all nodes have; fields of node info are as in `qpc.meta.NodeInfo`."""

    name: Name
    stack_trace: Text = ""
    shape: Annotated[list[Size | Growing], Field(max_length=64)] | None = None
    dtype: str | None = None
    module_path: Text = ""
    origin: Text = ""
    value: Text = ""
    declined: Text = ""
    integer: bool = False
    frozen: bool = False
    observer: Text | None = None
    config: dict[str, Any] | None = None
    qparams: GridEntry | None = None


class Placeholder(_Node):
    """An input; `target` is the name by which it is passed."""

    op: Literal["placeholder"]
    target: Name


class GetAttr(_Node):
    """A tensor."""

    op: Literal["get_attr"]
    target: Path


class Call(_Node):
    """A call of an operator; arguments are as `values.py` writes them."""

    op: Literal["call_function"]
    target: Annotated[str, Field(max_length=200)]
    args: list[Any]
    kwargs: dict[Word, Any] = {}


class Output(_Node):
    """What the graph returns."""

    op: Literal["output"]
    result: Any


Entry = Annotated[Placeholder | GetAttr | Call | Output, Field(discriminator="op")]


class Document(_Part):
    """The whole of `graph.json`, but for its own hash."""

    format: Literal["qpc-graph"]
    format_version: Literal[2]
    qpc: Annotated[str, Field(max_length=100)]
    files: dict[str, Any]  # see qpc.documents
    tensors: Annotated[list[TensorEntry], Field(max_length=_MOST)]
    nodes: Annotated[list[Entry], Field(min_length=1, max_length=_MOST)]
    kept: Annotated[list[KeptEntry], Field(max_length=_MOST)] = []

    @model_validator(mode="after")
    def _names_are_unique(self) -> Self:
        inputs = [node.target for node in self.nodes if isinstance(node, Placeholder)]
        names = [node.name for node in self.nodes]
        before: set[str] = set()
        for node in self.nodes:
            if isinstance(node, Placeholder) and node.target in before:
                raise ValueError(f"the input {node.target!r} has the name of a node before it")
            before.add(node.name)
        tensors = [name for tensor in self.tensors for name in tensor.names]
        for kind, found in (("node", names), ("input", inputs), ("tensor", tensors)):
            if len(set(found)) != len(found):
                raise ValueError(f"two {kind}s have one name")
        outputs = [node for node in self.nodes if isinstance(node, Output)]
        if sum(name.count(".") + 1 for name in tensors) > _MOST_PARTS:
            raise ValueError("there are too many names of tensors")
        if len(outputs) != 1 or self.nodes[-1] is not outputs[0]:
            raise ValueError("there is not one output, at the end")
        return self


def validated(document: Mapping[str, Any]) -> Document:
    """The document, with everything in its place. Raises ValueError."""
    try:
        return Document.model_validate(
            {key: value for key, value in document.items() if key != "sha256"}
        )
    except ValidationError as e:
        raise ValueError(first_problem(e)[:300]) from e
