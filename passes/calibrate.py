"""Run calibration data through the graph and let the observers watch.

Before:  observers without, or with some, statistics
After:   the same graph; every observer has also seen these batches
Keeps:   the graph; running it twice accumulates
Leaves:  nothing; on an error no observer has changed
Cost:    one forward pass a batch
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.fx import GraphModule, Interpreter, Node

from qpc.analysis.batch_parts import in_parts, samples_at_a_time
from qpc.analysis.channel_means import ChannelMeans
from qpc.analysis.origins import maker
from qpc.base import Pass, PassContext
from qpc.batches import Batch, batch_length, checked_batches, inputs_of
from qpc.calls import qpc_ops
from qpc.errors import CalibrationError
from qpc.facts import CALIBRATED, OBSERVED, observer_state
from qpc.layers import float_layer
from qpc.meta import info, label


@dataclass(frozen=True)
class Calibrate(Pass, name="calibrate", requires={OBSERVED}, establishes={CALIBRATED}):
    """Feed `batches` to the observers.

    batches: any iterable. A batch is a tensor, a sequence of tensors in the order of the graph's
    inputs, or a mapping by input name. For a graph of one input a sequence may go on after it, as
    (images, labels) do.
    means: takes down the means of layers on its first samples, for `CorrectBias`.

    Batches are evaluated in parts where that is quicker and changes no more than the last bits of
    floats: where samples do not depend on each other, and no observer on how they are batched.
    """

    batches: Iterable[Batch] = field(repr=False)
    means: ChannelMeans | None = field(default=None, repr=False, compare=False)

    def apply(self, gm: GraphModule, ctx: PassContext) -> bool:
        batches = checked_batches(self.batches)
        if not gm.graph.find_nodes(op="call_function", target=qpc_ops.observe.default):
            ctx.summarize("there is nothing to observe")
            return False
        watcher = _Watcher(gm, self.means)
        count = 0
        with torch.no_grad():
            for count, batch in enumerate(ctx.each(batches, "calibrating"), start=1):
                inputs = inputs_of(gm, batch, count - 1)
                try:
                    watcher.watch(inputs)
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

    def __init__(self, gm: GraphModule, means: ChannelMeans | None) -> None:
        super().__init__(gm)
        self._graph_module = gm
        self.states: dict[Node, dict[str, Tensor]] = {}
        self._samples = samples_at_a_time(gm) if _sees_values_alone(gm) else None
        self._axes: dict[Node, int] = {}
        self._means = means
        if means is not None:
            means.clear()
            if self._samples is not None:
                layers = {n: float_layer(n) for n in gm.graph.nodes if info(n).integer}
                self._axes = {n: layer.channel_axis for n, layer in layers.items() if layer}

    def watch(self, inputs: list[Tensor]) -> None:
        """Let the observers see one batch."""
        first = 0 if self._means is None else self._means.left
        for part in in_parts(inputs, self._samples, first):
            self.run(*part)
            if self._means is not None:
                self._means.seen += batch_length(part)

    def run_node(self, n: Node) -> object:
        if n.target is not qpc_ops.observe.default or info(n).qparams is not None:
            value = super().run_node(n)
            if n in self._axes and self._means is not None and self._means.left:
                assert isinstance(value, Tensor)
                self._means.add(n.name, value, self._axes[n])
            return value
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


def _sees_values_alone(gm: GraphModule) -> bool:
    """Whether no observer minds in what batches it sees its values."""
    configs = [info(n).config for n in gm.graph.find_nodes(op="call_function", target=_OBSERVE)]
    return all(c is not None and c.activation.observer.of_values for c in configs)


_OBSERVE = qpc_ops.observe.default
