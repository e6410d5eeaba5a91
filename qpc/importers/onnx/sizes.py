"""How large the values of a model become, before any of them is computed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from qpc.errors import ArtifactError, QPCError

MOST_ELEMENTS = 1 << 28
"""Of one value: a gigabyte of float32."""


def require_likely_sizes(module: nn.Module, inputs: Any, source: str) -> None:
    """Raise ArtifactError for a model that makes a value of more than `MOST_ELEMENTS`.

    It is run on tensors without data. Where that needs data, nothing is known from there on.
    """
    given = [inputs] if isinstance(inputs, Tensor) else list(_values(inputs))
    with FakeTensorMode(allow_non_fake_inputs=True) as mode, _Watcher(source):
        fakes = [mode.from_tensor(x) if isinstance(x, Tensor) else x for x in given]
        try:
            with torch.no_grad():
                module(*fakes)
        except _TooLargeError as e:
            raise ArtifactError(
                e.what, fix="pass smaller example_inputs, or write the model again"
            ) from e
        except (QPCError, RuntimeError, TypeError, ValueError, NotImplementedError):
            return  # tracing says what is wrong, if anything is


def _values(inputs: Any) -> Sequence[Any]:
    return list(inputs.values()) if isinstance(inputs, Mapping) else list(inputs)


class _TooLargeError(ArtifactError):
    """A value that no memory is asked for."""


class _Watcher(TorchDispatchMode):
    """Looks at the sizes of all that is computed."""

    def __init__(self, source: str) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch has no types for it
        self.source = source

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for tensor in pytree.tree_leaves(made):
            if isinstance(tensor, Tensor) and int(tensor.numel()) > MOST_ELEMENTS:
                raise _TooLargeError(
                    f"{self.source} makes a value of {tensor.numel()} elements, by {func}"
                )
        return made
