"""QPC, the quantize-prune compiler: PyTorch models, compressed by passes, as int8 machine code.

Names are loaded when they are first used, so that `import qpc` and `qpc --help` are quick.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from qpc.homes import all_homes
from qpc.version import VERSION as __version__  # noqa: N811

if TYPE_CHECKING:
    from qpc.analysis.compare import compare as compare
    from qpc.analysis.merge import merge_calibration as merge_calibration
    from qpc.backends.options import CompileOptions as CompileOptions
    from qpc.backends.protocol import Backend as Backend
    from qpc.backends.registry import register_backend as register_backend
    from qpc.base import Pass as Pass
    from qpc.base import PassContext as PassContext
    from qpc.callbacks.protocol import Callback as Callback
    from qpc.capture.trace import trace as trace
    from qpc.compiler import compile as compile
    from qpc.compiler import load as load
    from qpc.compression.compress import compress as compress
    from qpc.compression.recipe import Recipe as Recipe
    from qpc.compression.sweep import sweep as sweep
    from qpc.deployment import export_library as export_library
    from qpc.errors import QPCError as QPCError
    from qpc.explanation.explain import explain as explain
    from qpc.explanation.inspection import inspect_graph as inspect_graph
    from qpc.exporting.export import export as export
    from qpc.facts import Fact as Fact
    from qpc.hashing import fingerprint as fingerprint
    from qpc.importers.encodings import import_encodings as import_encodings
    from qpc.importers.onnx.model import trace_onnx as trace_onnx
    from qpc.pipeline import Pipeline as Pipeline
    from qpc.precision.budget import BitBudget as BitBudget
    from qpc.precision.mixed_precision import mixed_precision as mixed_precision
    from qpc.precision.sensitivity import sensitivity as sensitivity
    from qpc.printer import format_graph as format_graph
    from qpc.pruning.report import pruning_report as pruning_report
    from qpc.quant.config import QuantConfig as QuantConfig
    from qpc.recipes import calibrate as calibrate
    from qpc.recipes import convert as convert
    from qpc.recipes import import_quantized as import_quantized
    from qpc.recipes import prepare_qat as prepare_qat
    from qpc.recipes import prune as prune
    from qpc.recipes import quantize as quantize
    from qpc.registry import OpSpec as OpSpec
    from qpc.registry import Quantization as Quantization
    from qpc.registry import Role as Role
    from qpc.registry import register_operator as register_operator
    from qpc.reporting.write import write_report as write_report
    from qpc.storage import load_graph as load_graph
    from qpc.storage import save_graph as save_graph
    from qpc.targets import Target as Target
    from qpc.training.ranges import freeze_ranges as freeze_ranges
    from qpc.training.switch import freeze_batch_norm as freeze_batch_norm
    from qpc.training.switch import set_training as set_training
    from qpc.yaml_form import from_yaml as from_yaml
    from qpc.yaml_form import to_yaml as to_yaml

_HOMES = {
    "Backend": "qpc.backends.protocol",
    "BitBudget": "qpc.precision.budget",
    "Callback": "qpc.callbacks.protocol",
    "CompileOptions": "qpc.backends.options",
    "Fact": "qpc.facts",
    "OpSpec": "qpc.registry",
    "Pass": "qpc.base",
    "PassContext": "qpc.base",
    "Pipeline": "qpc.pipeline",
    "QPCError": "qpc.errors",
    "QuantConfig": "qpc.quant.config",
    "Quantization": "qpc.registry",
    "Recipe": "qpc.compression.recipe",
    "Role": "qpc.registry",
    "Target": "qpc.targets",
    "calibrate": "qpc.recipes",
    "compare": "qpc.analysis.compare",
    "compile": "qpc.compiler",
    "compress": "qpc.compression.compress",
    "convert": "qpc.recipes",
    "explain": "qpc.explanation.explain",
    "export": "qpc.exporting.export",
    "export_library": "qpc.deployment",
    "fingerprint": "qpc.hashing",
    "format_graph": "qpc.printer",
    "freeze_batch_norm": "qpc.training.switch",
    "freeze_ranges": "qpc.training.ranges",
    "from_yaml": "qpc.yaml_form",
    "import_encodings": "qpc.importers.encodings",
    "import_quantized": "qpc.recipes",
    "inspect_graph": "qpc.explanation.inspection",
    "load": "qpc.compiler",
    "load_graph": "qpc.storage",
    "merge_calibration": "qpc.analysis.merge",
    "mixed_precision": "qpc.precision.mixed_precision",
    "prepare_qat": "qpc.recipes",
    "prune": "qpc.recipes",
    "pruning_report": "qpc.pruning.report",
    "quantize": "qpc.recipes",
    "register_backend": "qpc.backends.registry",
    "register_operator": "qpc.registry",
    "save_graph": "qpc.storage",
    "sensitivity": "qpc.precision.sensitivity",
    "set_training": "qpc.training.switch",
    "sweep": "qpc.compression.sweep",
    "to_yaml": "qpc.yaml_form",
    "trace": "qpc.capture.trace",
    "write_report": "qpc.reporting.write",
    "trace_onnx": "qpc.importers.onnx.model",
}

__all__ = [
    "Backend",
    "BitBudget",
    "Callback",
    "CompileOptions",
    "Fact",
    "OpSpec",
    "Pass",
    "PassContext",
    "Pipeline",
    "QPCError",
    "QuantConfig",
    "Quantization",
    "Recipe",
    "Role",
    "Target",
    "__version__",
    "calibrate",
    "compare",
    "compile",
    "compress",
    "convert",
    "explain",
    "export",
    "export_library",
    "fingerprint",
    "format_graph",
    "freeze_batch_norm",
    "freeze_ranges",
    "from_yaml",
    "import_encodings",
    "import_quantized",
    "inspect_graph",
    "load",
    "load_graph",
    "merge_calibration",
    "mixed_precision",
    "prepare_qat",
    "prune",
    "pruning_report",
    "quantize",
    "register_backend",
    "register_operator",
    "save_graph",
    "sensitivity",
    "set_training",
    "sweep",
    "to_yaml",
    "trace",
    "trace_onnx",
    "write_report",
]


def __getattr__(name: str) -> object:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'qpc' has no attribute {name!r}")
    try:
        if home != "qpc.errors":
            all_homes()  # so that graphs that were pickled find their operators in torch.ops.qpc
        value = getattr(importlib.import_module(home), name)
    except ModuleNotFoundError as e:
        if e.name is not None and e.name.startswith("qpc."):
            raise _not_there(name) from e
        raise
    globals()[name] = value
    return value


def _not_there(name: str) -> Exception:
    from qpc.errors import MissingDependencyError
    from qpc.version import DISTRIBUTION

    return MissingDependencyError(
        f"qpc.{name} is no part of the package qpc-runtime, which only runs compiled models",
        fix=f"pip install {DISTRIBUTION} in its place; to load a model: qpc.runtime.load(path)",
    )


def __dir__() -> list[str]:
    return __all__
