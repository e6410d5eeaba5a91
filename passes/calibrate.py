"""Run calibration data through the graph and let the observers watch.

Before:  observers without, or with some, statistics
After:   the same graph; every observer has also seen these batches
Keeps:   the graph; running it twice accumulates
Leaves:  nothing; on an error no observer has changed
Cost:    one forward pass a batch
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from rich.progress import track
from torch import Tensor
from torch.fx import GraphModule, Interpreter, Node

from qpc.base import Pass, PassContext
from qpc.batches import Batch, inputs_of
from qpc.errors import CalibrationError
from qpc.facts import CALIBRATED, OBSERVED, observer_state
from qpc.meta import info
from qpc.ops.views import qpc_ops


@dataclass(frozen=True)
class Calibrate(Pass, name="calibrate", requires={OBSERVED}, establishes={CALIBRATED}):
    """Feed `batches` to the observers.

    batches: any iterable. A batch is a tensor, a sequence of tensors in the order of the graph's
    inputs, or a mapping by input name. For a graph of one input a sequence may go on after it, as
    (images, labels) do.
    """

    batches: Iterable[Batch] = field(repr=False)

    def apply(self, gm: GraphModule, ctx: PassContext) -> bool:
        watcher = _Watcher(gm)
        count = 0
        with torch.no_grad():
            for count, batch in enumerate(_with_progress(self.batches, ctx), start=1):
                inputs = inputs_of(gm, batch, count - 1)
                try:
                    watcher.run(*inputs)
                except CalibrationError as e:
                    e.add_note(f"  in calibration batch {count - 1}")
                    raise
        if count == 0:
            raise CalibrationError(
                "there are no calibration batches",
                fix="pass an iterable of batches; a generator that was used up is empty",
            )
        watcher.commit()
        ctx.summarize(f"{count} batches through {len(watcher.states)} observers")
        return bool(watcher.states)


class _Watcher(Interpreter):
    """Runs a graph; gathers statistics aside, so that a failure leaves observers as they were."""

    def __init__(self, gm: GraphModule) -> None:
        super().__init__(gm)
        self._graph_module = gm
        self.states: dict[Node, dict[str, Tensor]] = {}

    def run_node(self, n: Node) -> object:
        if n.target is not qpc_ops.observe.default:
            return super().run_node(n)
        args, _ = self.fetch_args_kwargs_from_env(n)
        config = info(n).config
        assert config is not None
        if n not in self.states:
            self.states[n] = observer_state(self._graph_module, n)
        try:
            self.states[n] = config.activation.observer.update(self.states[n], args[0])
        except CalibrationError as e:
            raise CalibrationError(e.what, node=n, fix=e.fix) from e
        return args[0]

    def commit(self) -> None:
        for node, state in self.states.items():
            module = self._graph_module.get_submodule(str(node.args[1]))
            for key, value in state.items():
                module.register_buffer(key, value)


def _with_progress(batches: Iterable[Batch], ctx: PassContext) -> Iterator[Batch]:
    try:
        iterator = iter(batches)
    except TypeError:
        raise CalibrationError(
            f"calibration needs an iterable of batches, got {type(batches).__name__}",
            fix="pass a list of tensors or a DataLoader",
        ) from None
    if not ctx.progress:
        return iterator
    total = len(batches) if isinstance(batches, Sequence) else None
    return iter(track(iterator, description="calibrating", total=total, transient=True))
