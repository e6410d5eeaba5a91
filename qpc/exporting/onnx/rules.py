"""The ONNX forms of all operators: of each family those in its file, and what packages register."""

from __future__ import annotations

from collections.abc import Mapping

from torch.fx import Node

from qpc.backends.common.families import families, merged
from qpc.exporting.onnx.custom import registered_exports
from qpc.exporting.onnx.exporter import Rule, no_form
from qpc.exporting.onnx.form import OnnxForm

_FLOATS = merged(family.RULES for family in families("qpc.exporting.onnx.floats"))
"""Operators of floats, and those that move values of any kind."""
_ROUNDED = merged(family.RULES for family in families("qpc.exporting.onnx"))
"""Integer operators as float operators between grids."""
_EXACT = merged(family.RULES for family in families("qpc.exporting.onnx.integers"))
"""Integer operators as what they are."""


def export_rules(form: OnnxForm | None = None) -> Mapping[object, Rule]:
    """How operators are written in a form, by operator."""
    exact = form is not None and form.exact
    found: dict[object, Rule] = {**_FLOATS, **(_EXACT if exact else _ROUNDED)}
    found.update(registered_exports().items())
    return found


def supports(node: Node) -> str | None:
    """Why a node of a core-form graph has no ONNX form, or None if it has one.

    Some rules refuse a call only when they see its arguments.
    """
    known = node.op != "call_function" or node.target in export_rules()
    return None if known else no_form(node)
