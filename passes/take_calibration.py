"""Take over what the observers of another graph saw, in place of running data.

Before:  observers without statistics
After:   the same graph; every observer has the statistics of the one that watched the same value
Keeps:   the graph; the statistics are those that the data would give here
Leaves:  nothing; on an error no observer has changed
Cost:    one comparison of all parameters

What values a model has does not depend on how they are to be rounded. So one calibration serves any
configuration that rounds the same values or fewer, with the same observers or with others that keep
no more: all that keep a histogram take each other's, and min-max takes the extent of these.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from qpc.base import Pass, PassContext
from qpc.calls import qpc_ops
from qpc.errors import CalibrationError
from qpc.facts import CALIBRATED, OBSERVED, observer_state
from qpc.meta import info, label
from qpc.quant.observers import State

_OBSERVERS = "observers."


@dataclass(frozen=True)
class TakeCalibration(Pass, name="take-calibration", requires={OBSERVED}, establishes={CALIBRATED}):
    """Give observers the statistics of `calibration`, a graph that `qpc.calibrate` returned.

    Raises CalibrationError if it is of another model, or if it lacks what an observer needs.
    """

    calibration: GraphModule = field(repr=False)

    def apply(self, gm: GraphModule, ctx: PassContext) -> bool:
        _require_same_model(gm, self.calibration)
        seen = {_watched(n): n for n in _observers(self.calibration)}
        wanted = _observers(gm)
        states = {n: _taken(self.calibration, n, seen.get(_watched(n))) for n in wanted}
        for node, state in states.items():
            module = gm.get_submodule(str(node.args[1]))
            for key, value in state.items():
                module.register_buffer(key, value.clone())
        ctx.summarize(f"{len(states)} observers take what {len(seen)} saw")
        return bool(states)


def _observers(gm: GraphModule) -> list[Node]:
    found = gm.graph.find_nodes(op="call_function", target=qpc_ops.observe.default)
    return [n for n in found if info(n).qparams is None]


def _watched(observer: Node) -> str:
    (value,) = observer.all_input_nodes
    return str(value.name)


def _taken(calibration: GraphModule, observer: Node, other: Node | None) -> State:
    """The statistics of `other` as `observer` would have gathered them."""
    value, wanted = label(observer.all_input_nodes[0]), info(observer).config
    if other is None:
        raise CalibrationError(
            f"the calibration did not watch the values of {value}",
            node=observer,
            fix="calibrate with a configuration that rounds them too, or run data: batches",
        )
    known = info(other).config
    assert wanted is not None
    assert known is not None
    mine, kept = wanted.activation.observer, known.activation.observer
    state = mine.taken(kept, observer_state(calibration, other))
    if state is None:
        raise CalibrationError(
            f"what {kept.kind!r} kept of the values of {value} does not suffice for {mine.kind!r}",
            node=observer,
            fix='calibrate with the observer "mse", whose histogram serves all but moving-average',
        )
    return state


def _require_same_model(gm: GraphModule, calibration: GraphModule) -> None:
    """Values are the same only if parameters and buffers are."""
    ours, theirs = _tensors(gm), _tensors(calibration)
    for name in sorted(ours.keys() | theirs.keys()):
        a, b = ours.get(name), theirs.get(name)
        if a is None or b is None or a.shape != b.shape or not torch.equal(a, b):
            raise CalibrationError(
                f"the calibration is of another model: {name!r} differs",
                fix="qpc.calibrate(gm, batches) with the graph that is to be quantized",
            )


def _tensors(gm: GraphModule) -> dict[str, Tensor]:
    named = (*gm.named_parameters(), *gm.named_buffers())
    return {name: value for name, value in named if not name.startswith(_OBSERVERS)}
