"""What `qpc.trace` can make a graph of: checks of the model and of its example inputs."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch._ops import OpOverload
from torch.export import ExportedProgram
from torch.fx import GraphModule, Node
from torch.nn.parameter import is_lazy

from qpc.calls import arguments
from qpc.errors import TraceError
from qpc.names import why_no_path

ExampleInputs: TypeAlias = Tensor | Sequence[Tensor] | Mapping[str, Tensor]


def validated(
    model: object, example_inputs: ExampleInputs
) -> tuple[tuple[Tensor, ...], dict[str, Tensor]]:
    """Positional and keyword inputs of `trace`; raises TraceError if no graph can come of them."""
    if isinstance(model, torch.jit.ScriptModule):
        raise TraceError(
            "trace needs an nn.Module, got a TorchScript module",
            fix="pass the Python model that it was made from",
        )
    if not isinstance(model, nn.Module):
        what = (
            f"the class {model.__name__}"
            if isinstance(model, type)
            else f"an object of type {type(model).__name__}"
        )
        raise TraceError(f"trace needs an nn.Module, got {what}", fix=_instead_of(model))
    args: tuple[Tensor, ...] = ()
    kwargs: dict[str, Tensor] = {}
    if isinstance(example_inputs, Mapping):
        kwargs = dict(example_inputs)
    elif isinstance(example_inputs, Tensor):
        args = (example_inputs,)
    elif isinstance(example_inputs, Sequence):
        args = tuple(example_inputs)
    else:
        raise TraceError(
            f"example inputs are {type(example_inputs).__name__}, not tensors",
            fix="pass one tensor, a sequence of tensors, or a mapping of keyword tensors",
        )
    for name, value in [*enumerate(args), *kwargs.items()]:
        if not isinstance(value, Tensor):
            raise TraceError(
                f"example input {name!r} is {type(value).__name__}, not a tensor",
                fix="bind other arguments first, for example with a wrapper module",
            )
    if not args and not kwargs:
        raise TraceError("no example inputs", fix="pass a tensor of the shape the model expects")
    _check_modules(model)
    _check_weights(model)
    return args, kwargs


def _instead_of(model: object) -> str:
    """What to pass in place of something that is no module."""
    if isinstance(model, ExportedProgram):
        return "qpc.trace(program.module(), example_inputs)"
    if isinstance(model, Mapping):
        return "model.load_state_dict(weights), and pass the model"
    if isinstance(model, str | os.PathLike) or type(model).__name__ == "ModelProto":
        return "pass the PyTorch model that it was made from; ONNX files: qpc.trace_onnx(path)"
    return "pass an instance, such as qpc.trace(Net(), example_inputs)"


def trains(model: nn.Module) -> str | None:
    """What an exported model does as it does in training only; None if nothing.

    That is the first such call, or the whole model if it is no graph.
    """
    if not isinstance(model, GraphModule):
        return type(model).__name__
    graphs = [m for m in model.modules() if isinstance(m, GraphModule)]
    calls = (n for gm in graphs for n in gm.graph.nodes if isinstance(n.target, OpOverload))
    return next((n.name for n in calls if _trains(n)), None)


def _trains(call: Node) -> bool:
    given = arguments(call)
    if not any(given.get(name) is True for name in ("train", "training")):
        return False
    chance = next((given[name] for name in ("p", "dropout") if name in given), None)
    return chance != 0.0  # a dropout of nothing is the same in both modes


def _check_modules(model: nn.Module) -> None:
    for name, module in model.named_modules():
        if type(module).__module__.startswith(_QUANTIZED_MODULES):
            raise TraceError(
                f"{name or type(module).__name__!r} is quantized by PyTorch already",
                fix="trace the float model, and quantize it with qpc.quantize",
            )


_QUANTIZED_MODULES = ("torch.ao.nn.quantized", "torch.ao.nn.intrinsic.quantized")


def _check_weights(model: nn.Module) -> None:
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if why := why_no_path(name):
            raise TraceError(
                f"no graph can have a tensor {name[:100]!r}: {why}",
                fix="give it another name in the model",
            )
        if is_lazy(tensor):
            raise TraceError(
                f"{name!r} has no shape yet: its module is lazy",
                fix="run the model once on example inputs before tracing it",
            )
        if tensor.is_meta:
            raise TraceError(
                f"{name!r} is on the device 'meta' and holds no values",
                fix="load the weights first, onto the CPU",
            )
        if tensor.is_inference():
            raise TraceError(
                f"{name!r} was made in inference mode, in which nothing can be traced",
                fix="make the model outside torch.inference_mode(), or pass copy.deepcopy(model)",
            )
        if not tensor.is_floating_point() or tensor.numel() == 0:
            continue
        bad = tensor.isnan()
        if isinstance(tensor, nn.Parameter):  # buffers may hold infinities, such as attention masks
            bad = bad | tensor.isinf()
        if count := int(bad.sum()):
            raise TraceError(
                f"{name!r} holds {count} of {tensor.numel()} values that are NaN or infinite",
                fix="repair or reload the weights; nothing sensible can be computed from them",
            )
