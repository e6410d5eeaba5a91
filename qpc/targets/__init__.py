"""CPUs to compile for, as data: code generation reads a `Target` and never asks for a name.

Each architecture has a file of its own, with its targets, what they have in common, and how the
operating system says what a machine can do.
"""

from qpc.targets.target import PRESETS, TARGETS, Target, cpu_features

__all__ = ["PRESETS", "TARGETS", "Target", "cpu_features"]
