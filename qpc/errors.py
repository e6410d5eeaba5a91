"""Every exception QPC raises on purpose.

A message has up to four parts: what is wrong, at which graph node, at which line of the user's
model, and what to do about it. The last three are exception notes, so that they print below the
message.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # the command line says what is wrong before it imports torch
    from torch.fx import Node


class QPCError(Exception):
    """Root of the tree: `except QPCError` catches everything QPC raises on purpose."""

    def __init__(self, what: str, *, node: Node | None = None, fix: str | None = None) -> None:
        super().__init__(what)
        self.what, self.node, self.fix = what, node, fix
        if node is not None:
            self.add_note(f"  at node: {node.format_node() or node.name}")
            if written := user_line(node):
                self.add_note(f"  written: {written}")
        if fix is not None:
            self.add_note(f"  fix: {fix}")

    def __str__(self) -> str:
        """What is wrong, without what torch.fx adds to the arguments of whatever a node raises."""
        return self.what

    @property
    def full_text(self) -> str:
        """The message with its notes, one per line, as a traceback prints it."""
        return "\n".join([self.what, *getattr(self, "__notes__", [])])


class TraceError(QPCError):
    """The model cannot be captured as a graph."""


class ConfigError(QPCError, ValueError):
    """A setting is not allowed: names the field, its value, and what is.

    It is a ValueError too, as what pydantic and dataclasses raise for settings.
    """


class PipelineOrderError(QPCError):
    """A pass needs a fact that no earlier pass establishes."""


class PassError(QPCError):
    """A pass cannot do its job on this graph."""


class UnsupportedOpError(PassError):
    """There is no rule for an operator."""


class OverflowProofError(PassError):
    """An integer accumulator could overflow, so the layer must not be converted."""


class CalibrationError(PassError):
    """Calibration data is missing or does not fit the graph."""


class CompressionError(QPCError):
    """A run of a recipe cannot go on: training, judging or the budget are not as they must be."""


class BudgetError(CompressionError):
    """A run of a recipe has ended, and none of its models is good enough."""


class InvariantError(QPCError):
    """A pass broke a fact it claimed to keep. Always a bug in the pass."""


class JobError(QPCError):
    """One of many independent jobs failed as often as it was tried."""


class BackendError(QPCError):
    """A backend cannot compile or run this graph."""


class UnsupportedTargetError(BackendError):
    """The target is unknown, or this machine cannot run code for it."""


class MissingDependencyError(BackendError):
    """An optional package is not installed, or not in a version that works."""


class VerificationError(QPCError):
    """A model gives other values than it must: those of the graph that it was made from."""


class ArtifactError(BackendError):
    """A saved model is damaged, incomplete, or made for another version or CPU."""


def user_line(node: Node) -> str | None:
    """The line of the user's model that `node` is from: `File "net.py", line 7, in forward`."""
    frames = re.findall(r'^\s*(File ".*", line \d+, in .*)$', node.stack_trace or "", re.MULTILINE)
    outside = [frame for frame in frames if "/torch/" not in frame and '"<' not in frame]
    candidates = outside or frames
    return candidates[-1].strip() if candidates else None
