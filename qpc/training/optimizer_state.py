"""The state of an optimizer follows its parameters through pruning and other steps.

Momentum and the moments of Adam are tensors of the shape of their parameter. They lose the same
channels, which `qpc.lineage` knows. Parameters are found by their names: those of a pruned, copied
or loaded graph are other tensors, which may stand in another order.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.optim import Optimizer

from qpc.errors import PassError
from qpc.facts import require_graph
from qpc.lineage import Lineage, lineage
from qpc.settings import require_choice, require_kind

Indices: TypeAlias = tuple[Tensor | None, ...]
"""For each axis of a parameter which indices are left, int64; None where all are."""


def carry_optimizer(
    optimizer: Optimizer,
    before: GraphModule,
    after: GraphModule,
    *,
    lost: str = "refuse",
    fresh: Mapping[str, object] | None = None,
) -> Optimizer:
    """Let an optimizer of the parameters of `before` train those of `after`; return it.

    It is changed in place, so that schedulers of its learning rate go on with it. Parameters are
    matched by name. Their state is sliced as they were: tensors of the parameter's shape, or with
    1 in place of some of its sizes, lose the channels that are gone; single numbers, such as counts
    of steps, are kept. The optimizer's options are those that it has.

    after: what passes have made of `before`, by any number of steps, saved and loaded or not. On
    another device, state moves there.
    lost: what to do if a parameter that is trained is not in `after`, as those of batch norms that
    were folded: "refuse", or "drop" it with its state.
    fresh: options of a group of parameters that are trainable in `after` and not in `before` at
    all, such as the scales of grids, which start without state; None puts them into the first
    group. A scheduler that was made before knows nothing of such a group.

    Passes that rescale a parameter, as folding of batch norms does, leave its state in the units
    in which it was gathered.

    Raises PassError, and leaves the optimizer as it was, if it trains what is no parameter of
    `before`, if parameters are lost, if `after` was not made of `before`, or if there is state
    that is no tensor of the shapes above.
    """
    require_kind("optimizer", optimizer, Optimizer, "a torch.optim.Optimizer")
    for graph in (before, after):
        require_graph(graph, "carry_optimizer")
    require_choice("lost", lost, ("refuse", "drop"))
    if fresh is not None:
        require_kind("fresh", fresh, Mapping, "options of a group, by name, or None")
    moves = _moves(optimizer, before, after, drop=lost == "drop")
    groups = [[moves[p].parameter for p in g["params"] if p in moves] for g in _groups(optimizer)]
    state = {m.parameter: m.state(optimizer.state.get(p, {})) for p, m in moves.items()}
    new = _new_parameters(before, after)
    if new and fresh is None:
        groups[0] += new.values()
    for group, parameters in zip(_groups(optimizer), groups, strict=True):
        _rename(group, parameters, after)
        group["params"][:] = parameters  # in place: some optimizers keep the list
    optimizer.state = defaultdict(dict, {p: s for p, s in state.items() if s})
    if new and fresh is not None:
        _add_group(optimizer, new, fresh)
    return optimizer


def take_state(
    optimizer: Optimizer,
    state: Mapping[str, Mapping[str, Any]],
    before: GraphModule,
    after: GraphModule,
) -> None:
    """Let an optimizer of parameters of `after` begin with what one of `before` had gathered.

    state: of parameters of `before`, by name; it is sliced as in `carry_optimizer`. What belongs to
    parameters that `optimizer` does not train is left out; its groups and options stay.

    Raises PassError, and leaves the optimizer as it was, for what cannot be sliced.
    """
    names, records = names_of(before), (lineage(before), lineage(after))
    there = dict(after.named_parameters(remove_duplicate=False))
    trained = {parameter for group in _groups(optimizer) for parameter in group["params"]}
    known = ((names[before.get_parameter(name)], values) for name, values in state.items())
    moves = [(_move(aliases, before, there, records), values) for aliases, values in known]
    taken = {m.parameter: m.state(v) for m, v in moves if m and m.parameter in trained}
    optimizer.state.update(taken)


def names_of(gm: nn.Module) -> dict[Tensor, tuple[str, ...]]:
    """All names of each parameter of a graph or module; a tied one has several."""
    found: dict[Tensor, tuple[str, ...]] = {}
    for name, parameter in gm.named_parameters(remove_duplicate=False):
        found[parameter] = (*found.get(parameter, ()), name)
    return found


# --- one parameter --------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Move:
    """What becomes of the state of one parameter.

    name: of the parameter, for errors; shape: its shape before.
    """

    name: str
    shape: torch.Size
    parameter: nn.Parameter
    indices: Indices

    def state(self, old: Mapping[str, Any]) -> dict[str, Any]:
        """The state of the parameter after, of that before."""
        return {key: self._value(key, value) for key, value in old.items()}

    def _value(self, key: str, value: object) -> object:
        if not isinstance(value, Tensor):
            if isinstance(value, (list, tuple, dict)) and any(i is not None for i in self.indices):
                raise self._unknown(key, f"a {type(value).__name__}")
            return value
        if value.numel() == 1 and value.shape != self.shape:
            return value.clone()
        same_axes = value.dim() == self.parameter.dim() or value.shape == self.shape
        if same_axes and all(
            size in (1, whole) for size, whole in itertools.zip_longest(value.shape, self.shape)
        ):
            return self._sliced(value)
        if self.parameter.shape == self.shape and all(i is None for i in self.indices):
            return value.to(self.parameter.device, copy=True)
        raise self._unknown(key, f"a tensor of shape {list(value.shape)}")

    def _sliced(self, value: Tensor) -> Tensor:
        whole = value.shape == self.shape
        for axis, indices in enumerate(self.indices):
            if indices is not None and value.shape[axis] == self.shape[axis]:
                value = value.index_select(axis, indices.to(value.device))
        if whole:  # a pass may have inserted axes of one index
            value = value.reshape(self.parameter.shape)
        return value.to(self.parameter.device, copy=True)

    def _unknown(self, key: str, what: str) -> PassError:
        return PassError(
            f"the state {key!r} of {self.name!r} is {what}: which of it belongs to the channels "
            f"that are left is not known",
            fix="state follows its parameter if it has its shape, or is a single number; drop it "
            f"before: del optimizer.state[parameter][{key!r}], or make a new optimizer",
        )


def _moves(
    optimizer: Optimizer, before: GraphModule, after: GraphModule, *, drop: bool
) -> dict[Tensor, _Move]:
    """What becomes of each parameter that the optimizer trains; those dropped are left out."""
    names, records = names_of(before), (lineage(before), lineage(after))
    there = dict(after.named_parameters(remove_duplicate=False))
    found: dict[Tensor, _Move] = {}
    gone: list[str] = []
    for place, parameter in enumerate(p for g in _groups(optimizer) for p in g["params"]):
        known = names.get(parameter)
        if known is None:
            raise PassError(
                f"the optimizer trains a tensor that is no parameter of `before`: number {place}, "
                f"of shape {list(parameter.shape)}",
                fix="pass the graph whose parameters() the optimizer was made with",
            )
        if (move := _move(known, before, there, records)) is None:
            gone.append(known[0])
        else:
            found[parameter] = move
    if gone and not drop:
        shown = ", ".join(map(repr, gone[:_MOST])) + (", ..." if len(gone) > _MOST else "")
        raise PassError(
            f"{len(gone)} parameters that the optimizer trains are not in `after`: {shown}",
            fix='if a pass was to take them away, as folding takes batch norms, pass lost="drop"',
        )
    return found


_MOST = 5  # names in an error


def _move(
    names: tuple[str, ...],
    before: GraphModule,
    there: Mapping[str, nn.Parameter],
    records: tuple[Lineage, Lineage],
) -> _Move | None:
    """What becomes of a parameter of `before` with these names; None if it is not there."""
    name = next((name for name in names if name in there), None)
    if name is None:
        return None
    old, now = before.get_parameter(name), there[name]
    return _Move(name, old.shape, now, _indices(name, old, now, records))


def _indices(name: str, old: Tensor, new: Tensor, records: tuple[Lineage, Lineage]) -> Indices:
    """Which indices of the axes of a parameter are left. Raises PassError if that is not known."""
    indices = tuple(_left(name, axis, size, records) for axis, size in enumerate(old.shape))
    sizes = [n if i is None else len(i) for n, i in zip(old.shape, indices, strict=True)]
    if [size for size in sizes if size != 1] != [size for size in new.shape if size != 1]:
        raise _not_made_of(name, old, new)
    return indices


def _left(name: str, axis: int, size: int, records: tuple[Lineage, Lineage]) -> Tensor | None:
    before, after = (record.get((name, axis)) for record in records)
    if before is not None and len(before.kept) != size:
        before = None  # a pass has put another tensor there since
    if after is None or (before is None and after.size != size) or after == before:
        return None  # what does not fit is noticed by its sizes
    place = {index: i for i, index in enumerate(before.kept if before else range(size))}
    if not place.keys() >= set(after.kept):
        return None
    return torch.tensor([place[index] for index in after.kept], dtype=torch.int64)


def _not_made_of(name: str, old: Tensor, new: Tensor) -> PassError:
    return PassError(
        f"{name!r} has shape {list(old.shape)} in `before` and {list(new.shape)} in `after`, and "
        "which channels were removed in between is not known",
        fix="`after` must be made of `before` by passes that remove channels with "
        "qpc.passes.RemoveChannels, as qpc.prune does",
    )


# --- groups ---------------------------------------------------------------------------------------


def _groups(optimizer: Optimizer) -> list[dict[str, Any]]:
    return optimizer.param_groups


def _new_parameters(before: GraphModule, after: GraphModule) -> dict[str, nn.Parameter]:
    """The trainable parameters of `after` whose names `before` does not know."""
    known = {name for name, _ in before.named_parameters(remove_duplicate=False)}
    return {
        names[0]: parameter
        for parameter, names in names_of(after).items()
        if parameter.requires_grad
        and not known & set(names)
        and isinstance(parameter, nn.Parameter)
    }


def _rename(group: dict[str, Any], parameters: Iterable[Tensor], after: GraphModule) -> None:
    if "param_names" in group:  # of optimizers that were made with names
        names = names_of(after)
        group["param_names"] = [names[p][0] for p in parameters]


def _add_group(
    optimizer: Optimizer, new: Mapping[str, nn.Parameter], options: Mapping[str, object]
) -> None:
    named = any("param_names" in group for group in _groups(optimizer))
    members = list(new.items()) if named else list(new.values())
    optimizer.add_param_group({**options, "params": members})
