"""The state of an optimizer in a checkpoint: by names of parameters, not by their order."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from qpc.errors import ArtifactError, ConfigError
from qpc.training.run_document import OptimizerEntry
from qpc.training.state_values import StateWriter, decode

Names = Mapping[Tensor, tuple[str, ...]]
"""All names of each parameter."""

_NOT_OPTIONS = ("params", "param_names")


def described(optimizer: Optimizer, names: Names, writer: StateWriter) -> dict[str, Any]:
    """The entry of an optimizer in a document.

    Raises ArtifactError for parameters without a name, and TypeError for what is no plain value.
    """
    if more := optimizer.state_dict().keys() - {"state", "param_groups"}:
        raise ArtifactError(
            f"this checkpoint cannot be saved: {type(optimizer).__name__} keeps {sorted(more)} "
            "besides groups and the state of parameters",
            fix="save optimizer.state_dict() yourself, in extra=",
        )
    groups = [
        {
            "parameters": [_name(p, names) for p in group["params"]],
            "options": writer.encode(_options(group), f"optimizer.groups[{number}]"),
        }
        for number, group in enumerate(optimizer.param_groups)
    ]
    state = []
    for parameter, values in optimizer.state.items():
        name = _name(parameter, names)
        state.append([name, writer.encode(dict(values), f"optimizer.state[{name!r}]")])
    about = f"{type(optimizer).__module__}.{type(optimizer).__qualname__}"
    return {"class": about, "groups": groups, "state": state}


def decoded(entry: OptimizerEntry | None, tensors: Mapping[str, Tensor]) -> dict[str, Any] | None:
    """The entry with its values. Raises ValueError if it is none."""
    if entry is None:
        return None
    groups = [(g.parameters, decode(g.options, tensors)) for g in entry.groups]
    state = {name: decode(values, tensors) for name, values in entry.state if isinstance(name, str)}
    members = [name for parameters, _ in groups for name in parameters]
    plain = all(isinstance(v, dict) for v in (*state.values(), *(o for _, o in groups)))
    if not plain or len(set(members)) != len(members) or len(state) != len(entry.state):
        raise ValueError("the optimizer has other groups and state than optimizers have")
    if not state.keys() <= set(members):
        raise ValueError("the optimizer has state of parameters that it does not train")
    return {"class": entry.class_, "groups": groups, "state": state}


def checked(saved: Mapping[str, Any], optimizer: Optimizer, names: Names) -> Callable[[], None]:
    """What puts the saved state into an optimizer, which fits it.

    Raises ConfigError if it does not.
    """
    groups = optimizer.param_groups
    if len(groups) != len(saved["groups"]):
        raise ConfigError(
            f"optimizer: the checkpoint holds {len(saved['groups'])} groups of parameters, "
            f"got {len(groups)}",
            fix=_SAME,
        )
    members: dict[str, tuple[Tensor, dict[str, Any]]] = {}
    for number, (group, (wanted, _)) in enumerate(zip(groups, saved["groups"], strict=True)):
        found = {_wanted(p, names, set(wanted)): (p, group) for p in group["params"]}
        missing, more = set(wanted) - found.keys(), found.keys() - set(wanted)
        if missing or more:
            which, what = (missing, "lacks") if missing else (more, "has, and the checkpoint lacks")
            raise ConfigError(
                f"optimizer: group {number} {what} {sorted(which)[0]!r}"
                + (f" and {len(which) - 1} others" if len(which) > 1 else ""),
                fix=_SAME,
            )
        members |= found
    state = {
        parameter: {key: _placed(key, v, parameter, group) for key, v in values.items()}
        for name, values in saved["state"].items()
        for parameter, group in [members[name]]
    }

    def put() -> None:
        for group, (_, options) in zip(groups, saved["groups"], strict=True):
            group.update(options)
        optimizer.state = defaultdict(dict, state)

    return put


_SAME = (
    "make the optimizer as when it was saved, with parameters of checkpoint.graph and of the same "
    "modules"
)


def _options(group: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in group.items() if key not in _NOT_OPTIONS}


def _name(parameter: Tensor, names: Names) -> str:
    if parameter not in names:
        raise ArtifactError(
            f"this checkpoint cannot be saved: the optimizer trains a tensor of shape "
            f"{list(parameter.shape)} that is no parameter of the graph",
            fix="pass the graph that is trained, and further modules as modules={name: module}",
        )
    return names[parameter][0]


def _wanted(parameter: Tensor, names: Names, wanted: set[str]) -> str:
    """The name by which a parameter was saved, if it has that, or else any."""
    known = names.get(parameter)
    if known is None:
        raise ConfigError(
            f"optimizer: it trains a tensor of shape {list(parameter.shape)} that is no parameter "
            "of checkpoint.graph or of modules",
            fix=_SAME,
        )
    return next((name for name in known if name in wanted), known[0])


def _placed(key: str, value: object, parameter: Tensor, group: Mapping[str, Any]) -> object:
    """State on the device of its parameter, but for counts of steps, which stay on the CPU.

    They do where they are not part of a fused or captured step, as `torch.optim` has it.
    """
    if isinstance(value, list | tuple):
        return type(value)(_placed(key, v, parameter, group) for v in value)
    if not isinstance(value, Tensor):
        return value
    stays = key == "step" and not (group.get("fused") or group.get("capturable"))
    return value.clone() if stays else value.to(parameter.device, copy=True)
