"""The model that is written on the command line: a function of the user's, or what QPC saved."""

from __future__ import annotations

import inspect
import logging
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.fx import GraphModule

from qpc.capture.checks import ExampleInputs
from qpc.capture.trace import trace
from qpc.compiler import load
from qpc.errors import ArtifactError, ConfigError, QPCError
from qpc.facts import CORE_FORM
from qpc.foreign import foreign_calls
from qpc.given.folder import ModelFolder
from qpc.given.inputs import Input, examples, inputs_of_text
from qpc.given.options import ModelOptions, is_onnx
from qpc.importers.onnx.model import trace_onnx
from qpc.recipes import import_quantized
from qpc.references import function_of
from qpc.registry import Role, role_of
from qpc.storage import load_graph
from qpc.training.checkpoint import load_checkpoint

if TYPE_CHECKING:
    from qpc.backends.tvm.runtime.model import CompiledModel

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Model:
    """A model that was given.

    written: as it was. graph: in core form; None for a compiled model alone. original: the float
    graph that it was made from, where that is known. compiled_in: where the same is as machine
    code, if it was compiled. folder: where all of it is kept; None if it comes from a function.
    """

    written: str
    graph: GraphModule | None = field(repr=False, default=None)
    original: GraphModule | None = field(repr=False, default=None)
    compiled_in: Path | None = None
    folder: Path | None = None

    @cached_property
    def compiled(self) -> CompiledModel | None:
        """The same as machine code; opened when it is asked for, since it may be out of date."""
        return None if self.compiled_in is None else load(self.compiled_in)

    def require_graph(self, what: str) -> GraphModule:
        """The graph. Raises ConfigError if this is a compiled model alone; `what` needs one."""
        if self.graph is None:
            raise ConfigError(
                f"{what} needs a graph, and {self.written!r} is a compiled model alone",
                fix="pass the folder of the graph that it was compiled from",
            )
        return self.graph

    def require_float(self, what: str) -> GraphModule:
        """The graph, which must be in float. Raises ConfigError if it is not."""
        graph = self.require_graph(what)
        if is_quantized(graph):
            raise ConfigError(
                f"{what} needs a model in float, and {self.written!r} is quantized",
                fix="pass the model that it was made from",
            )
        return graph


def is_quantized(gm: GraphModule) -> bool:
    """Whether a graph has operators on integers, or rounds values to grids."""
    return any("qpc" in str(n.target) for n in gm.graph.nodes if n.op == "call_function") or any(
        role_of(n) is Role.STORED for n in gm.graph.nodes
    )


def model_of(
    written: str,
    inputs: Sequence[str] = (),
    weights: Path | None = None,
    *,
    example: Callable[[nn.Module], ExampleInputs | None] | None = None,
) -> Model:
    """The model that is written.

    written: `module:function` or `file.py:function`, where the function returns a module, or is
    one; a file .onnx; or a folder with a saved graph, a compiled model, a checkpoint, or what a
    command has kept.
    inputs: as `qpc.given.inputs` reads them; needed for a function. weights: a file of tensors for
    a module, by the names of its parameters and buffers. example: from the module to its inputs,
    where `inputs` are not written.

    Raises ConfigError for what is none of these or does not go together, TraceError for what cannot
    be captured, ArtifactError for a folder that is damaged.
    """
    path = Path(written)
    given = inputs_of_text(inputs)
    if path.is_dir() or is_onnx(path):
        kind, others = ("folder", inputs) if path.is_dir() else ("file .onnx", ())
        for name, value in (("--input", others), ("--weights", weights)):
            if value:
                raise ConfigError(
                    f"{name} is for models that come from a function, and {written!r} is a {kind}",
                    fix=f"leave {name} out",
                )
        return _of_folder(written, path) if path.is_dir() else _of_onnx(written, path, given)
    module = module_of(written)
    if weights is not None:
        load_weights(module, weights)
    return Model(written, graph=_graph_of(module, written, given, example))


def module_of(written: str) -> nn.Module:
    """The module that a function returns, or that has a name of its own.

    Raises ConfigError if there is none, or the user's code fails.
    """
    ModelOptions(written).check()
    try:
        found = function_of(written, Path(), "model")
        made: object = found if isinstance(found, nn.Module) else found()
    except QPCError:
        raise
    except TypeError as e:
        if "argument" in str(e) and not _inside(e):
            raise ConfigError(
                f"{written!r} cannot be called without arguments: {e}",
                fix="name a function of yours that returns the model",
            ) from e
        raise user_code_failed(written, e) from e
    except Exception as e:
        raise user_code_failed(written, e) from e
    if inspect.isclass(made) or not isinstance(made, nn.Module):
        raise ConfigError(
            f"{written!r} returned {type(made).__name__}, not a torch.nn.Module",
            fix="name a function that returns the model",
        )
    return made


def load_weights(module: nn.Module, path: Path) -> None:
    """Put the tensors of a file into a module.

    The file is .safetensors, or .pt or .pth, of which tensors are read and nothing else. Raises
    ConfigError if it cannot be read, or does not have exactly the tensors of the module.
    """
    tensors = _tensors(path)
    try:
        module.load_state_dict(tensors)
    except RuntimeError as e:
        own = module.state_dict()
        missing, extra = sorted(own.keys() - tensors.keys()), sorted(tensors.keys() - own.keys())
        parts = [f"it lacks {missing[0]!r}"] if missing else []
        parts += [f"the model has no {extra[0]!r}"] if extra else []
        parts += [
            f"{name!r} has shape {list(tensors[name].shape)}, the model's {list(own[name].shape)}"
            for name in own
            if name in tensors and tensors[name].shape != own[name].shape
        ][:1]
        raise ConfigError(
            f"the weights in {str(path)!r} are not those of this model: {'; '.join(parts) or e}",
            fix="save the state_dict() of the same model",
        ) from e


def _tensors(path: Path) -> dict[str, Tensor]:
    if path.suffix not in (".safetensors", ".pt", ".pth"):
        raise ConfigError(
            f"weights are read from .safetensors, .pt and .pth, not from {path.name!r}",
            fix="safetensors.torch.save_file(model.state_dict(), 'weights.safetensors')",
        )
    found: object
    try:
        if path.suffix == ".safetensors":
            found = load_file(path)
        else:  # tensors and nothing else: no code in the file is run
            found = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, SafetensorError) as e:
        raise ConfigError(f"cannot read {str(path)!r}: {e}", fix="check the path") from e
    except Exception as e:
        first = str(e).splitlines()[0] if str(e) else type(e).__name__
        raise ConfigError(
            f"cannot read {str(path)!r} as tensors: {first}", fix="save model.state_dict()"
        ) from e
    if not isinstance(found, dict) or not all(isinstance(v, Tensor) for v in found.values()):
        raise ConfigError(
            f"{str(path)!r} holds something else than tensors by name",
            fix="save model.state_dict()",
        )
    return found


def _graph_of(
    module: nn.Module,
    written: str,
    given: Sequence[Input],
    example: Callable[[nn.Module], ExampleInputs | None] | None,
) -> GraphModule:
    if isinstance(module, GraphModule) and CORE_FORM.violation(module) is None:
        return module
    inputs = examples(given) if given else example(module) if example is not None else None
    if inputs is None:
        raise ConfigError(
            f"the shape of the inputs of {written!r} is not known", fix="--input 1x3x224x224"
        )
    return trace(module, inputs)


def _of_onnx(written: str, path: Path, given: Sequence[Input]) -> Model:
    """A model in an ONNX file; with the integers of another tool, if that has quantized it."""
    gm = trace_onnx(path, examples(given) if given else None)
    return Model(written, import_quantized(gm) if foreign_calls(gm) else gm)


# --- folders --------------------------------------------------------------------------------------


def _of_folder(written: str, path: Path) -> Model:
    if (kept := ModelFolder.at(path)) is not None:
        assert kept.graph is not None
        return Model(
            written,
            load_graph(kept.graph),
            None if kept.original is None else load_graph(kept.original),
            kept.compiled,
            path,
        )
    if (path / "checkpoint.json").is_file():
        return Model(written, load_checkpoint(path).graph, folder=path)
    if (path / "graph.json").is_file():
        return Model(written, load_graph(path), folder=path)
    if (path / "manifest.json").is_file():
        return Model(written, compiled_in=path, folder=path)
    raise ArtifactError(
        f"{written!r} holds neither a saved graph nor a compiled model",
        fix="pass a folder that qpc.save_graph, .save(path) of a compiled model or a command wrote",
    )


# --- errors ---------------------------------------------------------------------------------------


def _inside(error: BaseException) -> bool:
    """Whether an error comes from inside of what was called, not from the call itself."""
    return len(traceback.extract_tb(error.__traceback__)) > 1


def user_code_failed(written: str, error: Exception) -> ConfigError:
    """The error about a function of the user's that failed: with its line, and no traceback."""
    _log.info("%s", "".join(traceback.format_exception(error)))
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if "site-packages" not in f.filename and "<" not in f.filename[:1]]
    where = f", at {own[-1].filename}:{own[-1].lineno}" if own else ""
    first = (str(error).splitlines() or [""])[0]
    return ConfigError(
        f"{written!r} raised {type(error).__name__}: {first}{where}",
        fix="mend it; --verbose shows the traceback",
    )
