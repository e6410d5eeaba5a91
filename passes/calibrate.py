"""Run calibration data through the graph and let the observers watch.

Before:  observers without, or with some, statistics
After:   the same graph; every observer has also seen these batches
Keeps:   the graph; running it twice accumulates
Leaves:  nothing; on an error no observer has changed
Cost:    one forward pass a batch
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from operator import length_hint

import torch
from rich.progress import track
from torch import Tensor
from torch.fx import GraphModule, Interpreter, Node

from qpc.analysis.origins import maker
from qpc.base import Pass, PassContext
from qpc.batches import Batch, checked_batches, inputs_of
from qpc.calls import qpc_ops
from qpc.errors import CalibrationError
from qpc.facts import CALIBRATED, OBSERVED, observer_state
from qpc.meta import info, label


@dataclass(frozen=True)
class Calibrate(Pass, name="calibrate", requires={OBSERVED}, establishes={CALIBRATED}):
    """Feed `batches` to the observers.

    batches: any iterable. A batch is a tensor, a sequence of tensors in the order of the graph's
    inputs, or a mapping by input name. For a graph of one input a sequence may go on after it, as
    (images, labels) do.
    """

    batches: Iterable[Batch] = field(repr=False)

    def apply(self, gm: GraphModule, ctx: PassContext) -> bool:
        batches = checked_batches(self.batches)
        if not gm.graph.find_nodes(op="call_function", target=qpc_ops.observe.default):
            ctx.summarize("there is nothing to observe")
            return False
        watcher = _Watcher(gm)
        count = 0
        with torch.no_grad():
            for count, batch in enumerate(_with_progress(batches, ctx), start=1):
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
        watcher.check_samples()
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
        if n.target is not qpc_ops.observe.default or info(n).qparams is not None:
            return super().run_node(n)
        args, _ = self.fetch_args_kwargs_from_env(n)
        config = info(n).config
        assert config is not None
        if n not in self.states:
            self.states[n] = observer_state(self._graph_module, n)
        try:
            self.states[n] = config.activation.observer.update(self.states[n], args[0])
        except CalibrationError as e:
            raise CalibrationError(f"{_describe(n)}: {e.what}", node=n, fix=e.fix) from e
        return args[0]

    def check_samples(self) -> None:
        """Refuse batches that hold no samples: then an observer has seen no value."""
        for node, state in self.states.items():
            config = info(node).config
            assert config is not None
            least, greatest = config.activation.observer.observed(state)
            if least > greatest:
                raise CalibrationError(
                    "the calibration batches hold no samples",
                    node=node,
                    fix="pass batches of at least one sample",
                )

    def commit(self) -> None:
        for node, state in self.states.items():
            module = self._graph_module.get_submodule(str(node.args[1]))
            for key, value in state.items():
                module.register_buffer(key, value)


def _describe(observer: Node) -> str:
    """What an observer watches, in the user's words."""
    (value,) = observer.all_input_nodes
    if value.op == "placeholder":
        return f"the input {value.name!r}"
    return f"the values of {label(maker(value))}"


def _with_progress(batches: Iterable[Batch], ctx: PassContext) -> Iterator[Batch]:
    if not ctx.progress:
        return iter(batches)
    total = length_hint(batches) or None  # a DataLoader has a length too, but is no sequence
    return iter(track(batches, description="calibrating", total=total, transient=True))
