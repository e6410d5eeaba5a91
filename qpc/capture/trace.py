"""Capture a PyTorch model as a core-form graph."""

from __future__ import annotations

import copy
import io
import logging
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram, ShapesCollection
from torch.fx import GraphModule
from torch.utils import _pytree as pytree

from qpc.capture.checks import ExampleInputs, trains, validated
from qpc.capture.functionalize import fold_constants, replace_in_place
from qpc.capture.normalize import normalize
from qpc.capture.precision import in_single_precision
from qpc.capture.recurrent import quick_recurrent_shapes
from qpc.capture.unlift import drop_unused_constants, unlift
from qpc.errors import PassError, QPCError, TraceError, user_line
from qpc.meta import info
from qpc.modes import ordinary_torch
from qpc.shapes import infer_shapes
from qpc.types import BatchDim

_log = logging.getLogger(__name__)
_FIXED = "%s is captured for a batch of %d, and no other: %s"
_BRANCHES = (
    "the forward method must not branch or loop on tensor values: use torch.where, or move the "
    "branch out of the model"
)
_RUNS_ONLY_PLAINLY = (
    "the model runs on the example inputs, and not under torch.export.export(model, inputs, "
    "strict=False), which says the same at more length: look for what forward() does otherwise "
    "there, such as torch.compiler.is_exporting()"
)
_READS_DATA = (
    "forward() reads .data of weights, as where branches are merged at each call: merge them once, "
    "before, and let forward() use what that gives"
)
_QUIET = ("torch.fx.experimental.symbolic_shapes", "torch._subclasses.fake_tensor")
_TOLERANCE = 1e-4  # of the largest output: a capture error is far above it, float noise far below


@ordinary_torch()
def trace(model: nn.Module, example_inputs: ExampleInputs, *, check: bool = True) -> GraphModule:
    """Return `model` as a functional `torch.fx` graph in core form, with inference semantics.

    example_inputs: one tensor, a sequence of positional tensors, or a mapping of keyword tensors.
    Axis 0 of every input whose size agrees with the first one's is the batch; it stays dynamic
    unless the model fixes it, which is logged. Batch normalisation uses running statistics and
    dropout is the identity, whatever `model.training` is.
    A model in float16 or bfloat16 is taken as float32, its inputs too, and a line is logged that
    says so.
    check: run both on the example inputs and compare.

    The graph owns copies of all parameters and buffers under their names in `model`, which is not
    changed. Raises TraceError if the model cannot be captured, and says where and why.
    """
    args, kwargs = validated(model, example_inputs)
    model, args, kwargs = in_single_precision(model, args, kwargs)
    with _inference_mode(model):
        expected = _run_example(model, args, kwargs)
        gm = _any_batch(model, args, kwargs) or _one_batch(model, args, kwargs)
        if check:
            _check_same(gm, args, kwargs, expected, model)
    return gm


def batch_is_dynamic(gm: GraphModule) -> bool:
    """Whether a traced graph takes any batch size."""
    shapes = [info(n).shape for n in gm.graph.nodes if n.op == "placeholder"]
    return any(isinstance(d, BatchDim) for shape in shapes for d in shape or ())


# --- the model as it runs in inference ------------------------------------------------------------


@contextmanager
def _inference_mode(model: nn.Module) -> Iterator[None]:
    training = {module: module.training for module in model.modules()}
    try:
        model.eval()
    except NotImplementedError as e:  # what `torch.export` returns stands for one mode only
        if (call := trains(model)) is not None:
            raise TraceError(
                f"trace needs a model that can be switched to inference, and {call} is there as it"
                f" is in training: {_first_line(e)}",
                fix="pass the Python model that was exported, or export it in inference",
            ) from e
    try:
        yield
    finally:
        for module, flag in training.items():
            module.training = flag


def _run_example(
    model: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Tensor]
) -> list[object]:
    copied_args, copied_kwargs = copy.deepcopy((args, kwargs))  # the model may write to its inputs
    try:
        with torch.no_grad(), _unchanged_buffers(model):
            return pytree.tree_leaves(model(*copied_args, **copied_kwargs))
    except QPCError:
        raise
    except Exception as e:
        shapes = [tuple(t.shape) for t in [*args, *kwargs.values()]]
        error = TraceError(
            f"{type(model).__name__} does not run on the example inputs of shape "
            f"{', '.join(map(str, shapes))}: {_first_line(e)}",
            fix="pass inputs that model(*example_inputs) accepts",
        )
        raise _with_user_line(error, e) from e


@contextmanager
def _unchanged_buffers(model: nn.Module) -> Iterator[None]:
    """Put back buffers that the model's forward method changes, and refuse such a model."""
    before = {name: (b, b.clone()) for name, b in model.named_buffers(remove_duplicate=False)}
    yield
    changed = []
    for name, (buffer, saved) in before.items():
        owner, _, leaf = name.rpartition(".")
        module = model.get_submodule(owner)
        now = getattr(module, leaf)
        if now is not buffer or not torch.equal(buffer.to_dense(), saved.to_dense()):
            changed.append(name)
            setattr(module, leaf, buffer)
            buffer.copy_(saved)
    if changed:
        raise TraceError(
            f"{type(model).__name__} changes its buffer {changed[0]!r}; a graph keeps no state",
            fix="update buffers only while self.training is true, or return the new value",
        )


# --- export ---------------------------------------------------------------------------------------


def _any_batch(
    model: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Tensor]
) -> GraphModule | None:
    """The graph for any batch size, or None if the model does not allow it."""
    tensors = [*args, *kwargs.values()]
    sizes = [t.shape[0] if t.dim() else None for t in tensors]
    batch = next((s for s in sizes if s is not None), None)
    if batch is None:
        return None
    wide = [_at_least_two(t) if s == batch else t for t, s in zip(tensors, sizes, strict=True)]
    dynamic = ShapesCollection()
    for tensor, size in zip(wide, sizes, strict=True):
        if size == batch:
            dynamic[tensor] = {0: Dim.DYNAMIC}
    named = dict(zip(kwargs, wide, strict=True)) if kwargs else {}
    try:
        program = _export_once(model, () if kwargs else tuple(wide), named, dynamic)
    except Exception as e:  # whatever it is: export with the given batch decides
        _log.info(_FIXED, type(model).__name__, batch, _first_line(e))
        return None
    try:
        return _core_form(program, model)
    except PassError as e:  # sizes that do not grow linearly with the batch
        _log.info(_FIXED, type(model).__name__, batch, e.what)
        return None


def _one_batch(
    model: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Tensor]
) -> GraphModule:
    """The graph for the batch size of the example inputs."""
    try:
        return _core_form(_export_once(model, args, kwargs, None), model)
    except TraceError:
        raise
    except Exception as e:
        error = TraceError(
            f"cannot capture {type(model).__name__}: {_first_line(e)}",
            fix=_remedy(e),
        )
        raise _with_user_line(error, e) from e


def _remedy(error: Exception) -> str:
    """What to do where export gave up."""
    if "data-dependent" in str(error) or isinstance(error, PassError):
        return _BRANCHES  # over a number that stands in a tensor
    return _READS_DATA if "fake tensor in the exported" in str(error) else _RUNS_ONLY_PLAINLY


def _at_least_two(tensor: Tensor) -> Tensor:
    """A fresh tensor (export marks it as dynamic) that repeats a batch of one.

    A batch of one would be taken for a constant.
    """
    if tensor.shape[0] == 1:
        return torch.cat([tensor, tensor])
    # In row-major order: the model would be exported for the strides of the example, and no others.
    return tensor.detach().clone(memory_format=torch.contiguous_format)


def _export_once(
    model: nn.Module,
    args: tuple[Tensor, ...],
    kwargs: dict[str, Tensor],
    shapes: ShapesCollection | None,
) -> ExportedProgram:
    with _quiet(), quick_recurrent_shapes():
        return torch.export.export(
            model,
            args,
            kwargs,
            dynamic_shapes=shapes,  # type: ignore[arg-type]  # as its documentation says
            strict=False,
        )


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep back what torch warns, logs and prints about its own internals; errors say it again."""
    logs = {log: log.level for log in map(logging.getLogger, _QUIET)}
    for log in logs:
        log.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for log, level in logs.items():
            log.setLevel(level)


# --- from the exported program to core form -------------------------------------------------------


def _core_form(program: ExportedProgram, model: nn.Module) -> GraphModule:
    gm = unlift(program, model)
    fold_constants(gm)
    if replace_in_place(gm) is not None:  # written memory has several names: let torch sort it out
        with _quiet():
            gm = unlift(program.run_decompositions({}), model)
        fold_constants(gm)
    gm.graph.eliminate_dead_code()
    infer_shapes(gm)
    normalize(gm)
    drop_unused_constants(gm)
    gm.graph.lint()
    gm.recompile()
    return gm.eval()


# --- check and messages ---------------------------------------------------------------------------


def _check_same(
    gm: GraphModule,
    args: tuple[Tensor, ...],
    kwargs: dict[str, Tensor],
    expected: list[object],
    model: nn.Module,
) -> None:
    with torch.no_grad():
        got = pytree.tree_leaves(gm(*copy.deepcopy(args), **copy.deepcopy(kwargs)))
    pairs = [
        (a, b)
        for a, b in zip(got, expected, strict=False)
        if isinstance(a, Tensor) and isinstance(b, Tensor) and b.numel()
    ]
    for ours, theirs in pairs:
        same_shape = ours.shape == theirs.shape
        a, b = ours.detach().double(), theirs.detach().double()
        limit = _TOLERANCE * max(float(b.abs().nan_to_num().max()), 1e-6)
        close = same_shape and torch.allclose(a, b, rtol=0.0, atol=limit, equal_nan=True)
        if not close:
            raise TraceError(
                f"the captured graph of {type(model).__name__} gives other outputs than the model",
                fix="look for randomness or Python state in forward(); check=False skips this test",
            )


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


def _with_user_line(error: TraceError, cause: BaseException) -> TraceError:
    """Name the line of the node, or the innermost frame that is neither torch's nor ours."""
    if isinstance(cause, QPCError) and cause.node is not None:
        if written := user_line(cause.node):
            error.add_note(f"  written: {written}")
        return error
    ours = {str(Path(torch.__file__).parent), str(Path(__file__).parent)}
    for frame in reversed(traceback.extract_tb(cause.__traceback__)):
        if not any(frame.filename.startswith(folder) for folder in ours):
            where = f'File "{frame.filename}", line {frame.lineno}, in {frame.name}'
            error.add_note(f"  written: {where}")
            break
    return error
