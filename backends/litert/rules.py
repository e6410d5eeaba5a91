"""The .tflite forms of all operators: of each family those in its file."""

from __future__ import annotations

from collections.abc import Mapping

from qpc.backends.common.families import families, merged
from qpc.backends.litert.exporter import Rule

RULES: Mapping[object, Rule] = merged(family.RULES for family in families("qpc.backends.litert"))
