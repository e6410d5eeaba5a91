"""The tensors of a saved graph: once each, without pickle, truth values eight to the byte."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from safetensors.torch import load, save
from torch import Tensor, nn

from qpc.bits import pack_mask, unpack_mask
from qpc.storage.schema import TensorEntry


def entries(root: nn.Module) -> Iterator[tuple[TensorEntry, Tensor]]:
    """Every parameter and buffer with all of its names."""
    found: dict[int, tuple[list[str], Tensor]] = {}
    for kind in (root.named_parameters, root.named_buffers):
        for name, tensor in kind(remove_duplicate=False):
            found.setdefault(id(tensor), ([], tensor))[0].append(name)
    transient = _transient(root)
    for names, tensor in found.values():
        yield (
            TensorEntry(
                names=names,
                parameter=isinstance(tensor, nn.Parameter),
                requires_grad=tensor.requires_grad,
                transient=[name for name in names if name in transient],
                bits_of=list(tensor.shape) if tensor.dtype is torch.bool else None,
            ),
            tensor,
        )


def to_bytes(described: Sequence[tuple[TensorEntry, Tensor]]) -> bytes:
    """The file of tensors."""
    return save(
        {
            entry.names[0]: pack_mask(tensor.detach())
            if entry.bits_of is not None
            else tensor.detach().clone(memory_format=torch.contiguous_format)
            for entry, tensor in described
        }
    )


def from_bytes(data: bytes, described: Sequence[TensorEntry]) -> dict[str, Tensor]:
    """The tensors by their first names, as they are to be attached.

    Raises ValueError if they are not those that are described, and what safetensors raises.
    """
    stored = load(data)
    if stored.keys() != {entry.names[0] for entry in described}:
        raise ValueError("the file of tensors holds others than are described")
    found: dict[str, Tensor] = {}
    for entry in described:
        value = stored.pop(entry.names[0])
        if entry.bits_of is not None:
            value = unpack_mask(value, tuple(entry.bits_of))
        floating = value.is_floating_point() or value.is_complex()
        if entry.requires_grad and not floating:
            raise ValueError(f"{entry.names[0]!r} holds integers and cannot require gradients")
        made = nn.Parameter(value, False) if entry.parameter else value
        found[entry.names[0]] = made.requires_grad_(entry.requires_grad)
    return found


def attach_all(
    root: nn.Module, described: Sequence[TensorEntry], tensors: Mapping[str, Tensor]
) -> None:
    """Give `root` every tensor under all of its names; `root` lists them in the order described.

    Raises KeyError if something else has one of the names.
    """
    names = [(entry, entry.names[0]) for entry in described]
    # further names of a tensor come last: they must not bring modules forward
    names += [(each, name) for each in described for name in each.names[1:]]
    for entry, name in names:
        persistent = name not in entry.transient
        _attach(root, name, tensors[entry.names[0]], persistent=persistent)


def _attach(root: nn.Module, name: str, tensor: Tensor, *, persistent: bool) -> None:
    *path, leaf = name.split(".")
    for part in path:
        if part not in root._modules:
            root.add_module(part, nn.Module())
        root = root.get_submodule(part)
    if isinstance(tensor, nn.Parameter):
        root.register_parameter(leaf, tensor)
    else:
        root.register_buffer(leaf, tensor, persistent=persistent)


def _transient(root: nn.Module) -> set[str]:
    return {
        f"{path}.{name}" if path else name
        for path, module in root.named_modules(remove_duplicate=False)
        for name in module._non_persistent_buffers_set
    }
