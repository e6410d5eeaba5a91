"""An integer graph as a .tflite file, for LiteRT, TensorFlow Lite Micro and what reads such files.

Every integer value is an int8 tensor with the graph's own scale and zero point, every layer an
operator with the graph's own weights and biases. What the graph computes in float is float in the
file, too.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from torch.fx import GraphModule

from qpc.analysis.separate_sums import with_separate_sums
from qpc.backends.litert.exporter import Exporter
from qpc.backends.litert.rules import RULES
from qpc.batches import Batch
from qpc.errors import MissingDependencyError
from qpc.installing import install_line
from qpc.settings import require_choice, require_count

Ends = Literal["float32", "int8"]


def to_tflite(
    gm: GraphModule,
    batch: int = 1,
    ends: Ends = "float32",
    batches: Iterable[Batch] | None = None,
) -> bytes:
    """Return `gm`, a core-form graph with integer operators, as the bytes of a .tflite file.

    batch: the only batch size of the file. ends: the type of inputs and outputs; int8 ones are on
    the grids of the graph, uint8 grids less 128.

    Images are NHWC, inputs and outputs of four axes too: torch's x[n, c, h, w] is the file's
    x[n, h, w, c]. The file's metadata "qpc" says so, and its signature "serving_default" has the
    names of the graph's inputs and results. It computes what the graph does up to the rounding of
    runtimes, which differs by kernel: those of XNNPACK round like the graph, the others as fixed
    point numbers. Layers that join additions are rounded to 8 bits before, on grids
    that are found for this, as no such file can say otherwise; batches: where to find them, see
    `qpc.analysis.separate_sums`.

    Raises UnsupportedOpError that names all operators without a form, and MissingDependencyError
    without flatbuffers.
    """
    require_count("batch", batch)
    require_choice("ends", ends, ("float32", "int8"))
    try:
        import flatbuffers  # noqa: F401  # is it there?
    except ImportError as e:
        raise MissingDependencyError(
            "flatbuffers is not installed", fix=install_line("litert")
        ) from e
    apart, _ = with_separate_sums(gm, batches=batches)
    return Exporter(apart, batch, RULES, ends == "int8").write()
