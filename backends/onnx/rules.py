"""The ONNX forms of all operators: of each family those in its file, and what packages register."""

from __future__ import annotations

from collections.abc import Mapping

from torch.fx import Node

from qpc.backends.common.families import families, merged
from qpc.backends.onnx.custom import registered_exports
from qpc.backends.onnx.exporter import Rule, no_form

RULES: Mapping[object, Rule] = merged(family.RULES for family in families("qpc.backends.onnx"))
"""Those of QPC."""


def export_rules() -> Mapping[object, Rule]:
    """How operators are written, by operator."""
    found: dict[object, Rule] = dict(RULES)
    found.update(registered_exports().items())
    return found


def supports(node: Node) -> str | None:
    """Why a node of a core-form graph has no ONNX form, or None if it has one.

    Some rules refuse a call only when they see its arguments.
    """
    known = node.op != "call_function" or node.target in export_rules()
    return None if known else no_form(node)
