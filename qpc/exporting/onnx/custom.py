"""ONNX forms of operators of other packages: what they register."""

from __future__ import annotations

from collections.abc import Mapping

from torch._ops import OpOverload

from qpc.backends.common.families import require_foreign
from qpc.errors import BackendError
from qpc.exporting.onnx.exporter import Rule

_registered: dict[OpOverload, Rule] = {}


def register_export(operator: OpOverload, rule: Rule) -> None:
    """Say how ONNX models have an operator of another package.

    operator: an overload, such as `torch.ops.mylib.square.default`, that returns one tensor.
    rule: called with the `Exporter` and the node for every call; emits ONNX nodes that compute on
    floats, and returns the name of the result. Where the operator yields 8-bit integers, the
    exporter rounds that result to the grid in the node's info.

    Raises BackendError for what is no operator of another package, or is registered already.
    """
    require_foreign(operator, "an ONNX form")
    if operator in _registered:
        raise BackendError(
            f"an ONNX form of operator {operator} is registered already",
            fix="register each operator once",
        )
    _registered[operator] = rule


def registered_exports() -> Mapping[OpOverload, Rule]:
    """The operators whose ONNX forms other packages have registered."""
    return _registered
