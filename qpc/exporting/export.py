"""`qpc.export`: a graph as a file for another runtime or tool."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch.fx import GraphModule

from qpc.analysis.separate_sums import joining_layers
from qpc.backends.litert.tflite import Ends, to_tflite
from qpc.batches import Batch, checked_batches
from qpc.calls import qpc_ops
from qpc.errors import ArtifactError, BackendError, ConfigError
from qpc.exporting.encodings import DEFAULT_VERSION, encodings
from qpc.exporting.grids import TensorGrid
from qpc.exporting.onnx.form import DEFAULT_OPSET, Kind, OnnxForm
from qpc.exporting.onnx.model import OnnxExport, to_onnx
from qpc.exporting.pt2e import pt2e_file
from qpc.exporting.tensorrt import tensorrt_problems
from qpc.facts import require_graph
from qpc.files import replace_file
from qpc.modes import ordinary_torch
from qpc.settings import require_choice

ENCODINGS = ".encodings"
"""How the name of the file of encodings ends that AIMET writes beside a model."""


@dataclass(frozen=True)
class Options:
    """How a form is written; each form takes some of these.

    batch: the only batch size, None for any. opset: of ONNX. encodings: the version of the JSON.
    fuse_residual_adds, ends, batches: see `qpc.export`.
    """

    batch: int | None = None
    opset: int = DEFAULT_OPSET
    encodings: str = DEFAULT_VERSION
    fuse_residual_adds: bool = False
    ends: Ends = "float32"
    batches: Iterable[Batch] | None = field(repr=False, default=None)


@dataclass(frozen=True)
class Exported:
    """What was written.

    files: the model first. grids: those of its tensors, in order. notes: what is to be known.
    """

    form: str
    files: tuple[Path, ...]
    grids: tuple[TensorGrid, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Content:
    """Files by their suffix; the model itself has none here, as it is called what the user says."""

    files: Mapping[str, bytes]
    grids: tuple[TensorGrid, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Form:
    """A form: what makes the content of its files, and which options it takes."""

    make: Callable[[GraphModule, Options], _Content]
    options: frozenset[str]
    about: str


@ordinary_torch()
def export(
    gm: GraphModule,
    path: str | os.PathLike[str],
    *,
    form: str = "onnx-qdq",
    batch: int | None = None,
    opset: int | None = None,
    encodings: str | None = None,
    fuse_residual_adds: bool | None = None,
    ends: Ends | None = None,
    batches: Iterable[Batch] | None = None,
) -> Exported:
    """Write a graph to the file `path` in a form that other runtimes and tools read.

    gm: an integer graph, as `qpc.quantize` and `qpc.convert` return it, or a float graph; for
    "pt2e" a fake-quantized one.
    form:
      "onnx-qdq": ONNX with QuantizeLinear and DequantizeLinear, for ONNX Runtime, OpenVINO, QAIRT.
      "onnx-tensorrt": the same by TensorRT's rules: int8, zero points 0, float biases. Needs
      symmetric grids.
      "onnx-float": float ONNX, and the grids as JSON in a file beside it that ends in `.encodings`,
      for QNN, SNPE and AIMET.
      "onnx-integer": ONNX that computes exactly the integers of the graph.
      "tflite": a .tflite file, for LiteRT and TensorFlow Lite Micro; images are NHWC there.
      "pt2e": an exported program with PyTorch's `quantized_decomposed` operators.
    batch: the only batch size of the file; None leaves it open, but for "tflite", which has 1 then.
    opset: of ONNX, 17 by default. From 21 on grids and weights of 4 bits are stored as such, from
    25 on those of 2 bits; in older ones they are integers of 8 bits that are clamped.
    encodings: version of the JSON, "0.6.1", "1.0.0" (the default) or "2.0.0".
    fuse_residual_adds: for "onnx-tensorrt". A layer whose value goes into a sum alone is not
    rounded, so that TensorRT computes layer, sum and ReLU in one kernel. The numbers are then not
    those of the graph.
    ends: for "tflite", the type of its inputs and outputs: "float32", the default, or "int8".
    batches: for "onnx-qdq", "onnx-tensorrt" and "tflite". A layer that joins an addition is apart
    from it there, and its value is rounded in between: with data, such as calibration had, on the
    grid that its observer chooses; without, on the widest that the sum can make use of.

    Tensors have the names of the traced graph's values, nodes those of the user's modules. Files
    replace what is there, each whole or not at all.

    Raises ConfigError for a form or option that there is not, UnsupportedOpError that names all
    operators without a form, BackendError for what a form cannot say, ArtifactError if the file
    cannot be written, MissingDependencyError without onnx.
    """
    require_graph(gm, "export")
    given = {
        "batch": batch,
        "opset": opset,
        "encodings": encodings,
        "fuse_residual_adds": fuse_residual_adds,
        "ends": ends,
        "batches": None if batches is None else checked_batches(batches),
    }
    said = require_options(form, given)
    made = FORMS[form].make(gm, dataclasses.replace(Options(), **said))
    goal = Path(path)
    files = [goal.with_suffix(end) if end else goal for end in made.files]
    for file, content in zip(files, made.files.values(), strict=True):
        _write(file, content)
    return Exported(form, tuple(files), made.grids, made.notes)


def require_options(form: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """What was said about a form; None is what was not.

    Raises ConfigError for a form that there is not, and for an option that it does not have.
    """
    require_choice("form", form, tuple(FORMS))
    said = {name: value for name, value in given.items() if value is not None}
    if wrong := sorted(said.keys() - FORMS[form].options):
        raise ConfigError(
            f"the form {form!r} has no option {wrong[0]!r}",
            fix=f"leave it out; it has: {', '.join(sorted(FORMS[form].options)) or 'none'}",
        )
    return said


def _write(file: Path, content: bytes) -> None:
    try:
        replace_file(file, content)
    except OSError as e:
        raise ArtifactError(
            f"cannot write to {str(file)!r}: {e.strerror or e}",
            fix="choose a file in a folder you may write to, on a disk with space",
        ) from e


# --- the forms ------------------------------------------------------------------------------------


def _require_converted(gm: GraphModule) -> None:
    """Values that are rounded in float, or watched, stand for a stage in between."""
    for target, fix in (
        (qpc_ops.fake_quantize.default, "gm = qpc.convert(gm)"),
        (qpc_ops.observe.default, "calibrate it and convert it, as qpc.quantize does"),
    ):
        if found := gm.graph.find_nodes(op="call_function", target=target):
            raise BackendError(
                "the form is made of integer or float graphs, and this one is in between",
                node=found[0],
                fix=fix,
            )


def _onnx(gm: GraphModule, options: Options, kind: Kind) -> OnnxExport:
    _require_converted(gm)
    form = OnnxForm(kind, options.opset, options.batch, options.fuse_residual_adds)
    return to_onnx(gm, form, options.batches)


def _qdq(gm: GraphModule, options: Options) -> _Content:
    made = _onnx(gm, options, "qdq")
    return _Content({"": made.model.SerializeToString()}, made.grids, _about_sums(gm, options))


def _integer(gm: GraphModule, options: Options) -> _Content:
    made = _onnx(gm, options, "integer")
    return _Content({"": made.model.SerializeToString()}, made.grids)


def _about_sums(gm: GraphModule, options: Options) -> tuple[str, ...]:
    """What is to be known of layers that join additions, and of data for them."""
    count = len(joining_layers(gm))
    if count and options.batches is None:
        return (
            f"what {count} of its layers add to other values is rounded before, on wide grids:"
            " with data (batches=..., or --data) numbers come nearer to those of the graph",
        )
    if not count and options.batches is not None:
        return ("none of its layers joins an addition, so that the data makes no difference",)
    return ()


def _tensorrt(gm: GraphModule, options: Options) -> _Content:
    made = _onnx(gm, options, "tensorrt")
    problems = tensorrt_problems(made.model)
    notes = tuple(f"TensorRT may not take or fuse this: {problem}" for problem in problems)
    if not options.fuse_residual_adds:  # otherwise nothing is rounded before an addition
        notes += _about_sums(gm, options)
    return _Content({"": made.model.SerializeToString()}, made.grids, notes)


def _float(gm: GraphModule, options: Options) -> _Content:
    made = _onnx(gm, options, "float")
    files = {"": made.model.SerializeToString()}
    if made.grids:
        files[ENCODINGS] = encodings(made.grids, options.encodings).encode()
    return _Content(files, made.grids)


def _tflite(gm: GraphModule, options: Options) -> _Content:
    _require_converted(gm)
    batch = 1 if options.batch is None else options.batch
    content = to_tflite(gm, batch, options.ends, options.batches)
    return _Content({"": content}, notes=_about_sums(gm, options))


def _pt2e(gm: GraphModule, options: Options) -> _Content:
    return _Content({"": pt2e_file(gm)})


_SHAPE = frozenset({"batch", "opset"})
FORMS: Mapping[str, Form] = {
    "onnx-qdq": Form(_qdq, _SHAPE | {"batches"}, "ONNX Runtime, OpenVINO, QAIRT"),
    "onnx-tensorrt": Form(_tensorrt, _SHAPE | {"fuse_residual_adds", "batches"}, "TensorRT"),
    "onnx-float": Form(_float, _SHAPE | {"encodings"}, "QNN, SNPE, AIMET, Kneron"),
    "onnx-integer": Form(_integer, _SHAPE, "exact integers anywhere"),
    "tflite": Form(
        _tflite, frozenset({"batch", "ends", "batches"}), "LiteRT, TensorFlow Lite Micro"
    ),
    "pt2e": Form(_pt2e, frozenset(), "torch.compile, ExecuTorch"),
}
"""All forms by name."""
