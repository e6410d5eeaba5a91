"""Test vectors for compiled models, from the graph; `qpc.runtime.vectors` says what they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from qpc.analysis.exactness import exactness
from qpc.backends.compiled import Signature
from qpc.backends.reference.model import ReferenceModel
from qpc.calls import arguments, qpc_ops
from qpc.meta import info
from qpc.runtime.arrays import STORAGE, Array, ArrayType
from qpc.runtime.vectors import Ends, Expected, Vector, inputs_of
from qpc.types import TensorType, dtype_name

_BEYOND = 0.03  # of the length of a grid: so far do inputs reach, so that saturation shows
_SIGNED_OR_NOT = (-128, 127), (0, 255)


def make_vectors(gm: GraphModule, signature: Signature) -> tuple[Vector, ...]:
    """A test vector at the least of a model's batch sizes, which the graph answers in PyTorch.

    None for a graph that cannot run on random inputs: numbers of rows in a table of one row, say.
    """
    batch = min(signature.batch_sizes)
    question = Vector(batch, 0, _ends(gm), ())
    try:
        outputs = ReferenceModel(gm, signature).run_tensors(
            batch, _tensors(question, signature.inputs[batch])
        )
    except Exception:  # whatever operators raise at values without sense to them
        return ()
    known = zip(outputs, exactness(gm), strict=True)
    expected = tuple(Expected.of(array_of(value), exact=about.exact) for value, about in known)
    return (replace(question, outputs=expected),)


def random_inputs(gm: GraphModule, types: Sequence[TensorType], seed: int) -> list[Tensor]:
    """Inputs of these types, over the grids that they are rounded to and a little beyond."""
    return _tensors(Vector(0, seed, _ends(gm), ()), types)


def grid_of_input(node: Node) -> tuple[float, int] | None:
    """Scale and zero point that all users round a float input to, or those known of integers."""
    grids = set()
    for user in node.users:
        if user.target is not qpc_ops.quantize.default:
            break
        about = arguments(user)
        grids.add((float(about["scale"]), int(about["zero_point"])))
    else:
        if len(grids) == 1:
            return grids.pop()
    return known_grid(node)


def known_grid(node: Node) -> tuple[float, int] | None:
    """Scale and zero point of a value of eight bits, if they are known."""
    known = info(node)
    if known.qparams is None or known.dtype not in (torch.uint8, torch.int8):
        return None
    return known.qparams.scale, known.qparams.zero_point


def array_of(tensor: Tensor) -> Array:
    """A tensor as an array; values of dtypes that numpy does not have are numbers of their bits."""
    kept = tensor.detach().contiguous()
    storage = STORAGE[dtype_name(kept.dtype)]
    if (bits := getattr(torch, storage.name)) is not kept.dtype:
        kept = kept.view(bits)
    return kept.numpy()


def _tensors(vector: Vector, types: Sequence[TensorType]) -> list[Tensor]:
    kinds = [ArrayType(kind.shape, dtype_name(kind.dtype)) for kind in types]
    pairs = zip(inputs_of(vector, kinds), types, strict=True)
    return [torch.from_numpy(array).view(kind.dtype) for array, kind in pairs]


def _ends(gm: GraphModule) -> tuple[Ends, ...]:
    return tuple(map(_ends_of_input, gm.graph.find_nodes(op="placeholder")))


def _ends_of_input(node: Node) -> Ends:
    grid, dtype = grid_of_input(node), info(node).dtype
    if grid is None or dtype is None or not dtype.is_floating_point:
        return None
    scale, zero_point = grid
    first, last = (scale * (q - zero_point) for q in _SIGNED_OR_NOT[zero_point > 0])
    beyond = (last - first) * _BEYOND
    return first - beyond, last + beyond
