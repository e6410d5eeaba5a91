"""Where random numbers come from: the generators of Python, NumPy and PyTorch as plain values."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from qpc.errors import ConfigError

RandomSource: TypeAlias = (
    torch.Generator | random.Random | np.random.Generator | np.random.RandomState
)
"""A generator of random numbers whose state can be read and set."""


def global_state() -> dict[str, Any]:
    """The states of the generators that everything uses unless told otherwise."""
    found: dict[str, Any] = {
        "python": random.getstate(),
        "numpy": np.random.get_state(legacy=False),
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        found["cuda"] = torch.cuda.get_rng_state_all()
    return found


def set_global_state(state: Mapping[str, Any]) -> None:
    """Set what `global_state` returned; those of GPUs that are not there are left out."""
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])
    torch.set_rng_state(state["torch"])
    if torch.cuda.is_available():
        for device, each in enumerate(state.get("cuda", ())[: torch.cuda.device_count()]):
            torch.cuda.set_rng_state(each, device)


def check_global_state(state: object) -> None:
    """Raise ValueError unless `set_global_state` will take this."""
    if not isinstance(state, dict) or not {"python", "numpy", "torch"} <= state.keys():
        raise ValueError("the random states are not those of Python, NumPy and PyTorch")
    gpus = state.get("cuda", [])
    try:
        random.Random().setstate(state["python"])
        np.random.RandomState().set_state(state["numpy"])
        torch.Generator().set_state(state["torch"])
    except Exception as e:  # whatever the three say
        raise ValueError(f"a random state is none: {e}") from e
    if not isinstance(gpus, list) or not all(isinstance(each, Tensor) for each in gpus):
        raise ValueError("a random state of a GPU is none")


def state_of(name: str, source: object) -> dict[str, Any]:
    """The kind and the state of a generator. Raises ConfigError if it is none."""
    if isinstance(source, torch.Generator):
        return {"kind": "torch", "state": source.get_state()}
    if isinstance(source, random.Random) and not isinstance(source, random.SystemRandom):
        return {"kind": "python", "state": source.getstate()}
    if isinstance(source, np.random.Generator):
        return {"kind": "numpy", "state": source.bit_generator.state}
    if isinstance(source, np.random.RandomState):
        return {"kind": "numpy-legacy", "state": source.get_state(legacy=False)}
    raise ConfigError(
        f"generators[{name!r}] must be a generator of random numbers, got {type(source).__name__}",
        fix="a torch.Generator, random.Random, numpy.random.Generator or RandomState; other values"
        " go into extra=",
    )


def require_same_kind(name: str, source: object, saved: object) -> None:
    """Raise ConfigError unless a generator is of the kind that was saved, and takes its state."""
    kind = state_of(name, source)["kind"]
    found = saved.get("kind") if isinstance(saved, dict) else None
    if found != kind:
        raise ConfigError(
            f"generators[{name!r}] is of the kind {kind!r}, the one in the checkpoint of {found!r}"
        )


def set_state(name: str, source: RandomSource, saved: Mapping[str, Any]) -> None:
    """Set a generator to what `state_of` returned. Raises ConfigError if it does not take it."""
    state = saved.get("state")
    try:
        if isinstance(source, torch.Generator):
            source.set_state(state)  # type: ignore[arg-type]  # what it is no tensor for, it says
        elif isinstance(source, random.Random):
            source.setstate(state)  # type: ignore[arg-type]  # as above
        elif isinstance(source, np.random.Generator):
            source.bit_generator.state = state  # type: ignore[assignment]  # as above
        else:
            source.set_state(state)  # type: ignore[arg-type]  # as above
    except Exception as e:  # whatever the three say
        raise ConfigError(f"generators[{name!r}] cannot take the state that was saved: {e}") from e
