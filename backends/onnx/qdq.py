"""An integer graph as an ONNX model in QDQ form.

Every integer value becomes a pair of QuantizeLinear and DequantizeLinear with the graph's own scale
and zero point around a float operator, every weight and bias an integer constant behind a
DequantizeLinear: the form that ONNX Runtime, OpenVINO and others turn into integer kernels. What
the graph computes in float is float in the model, too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch.fx import GraphModule

from qpc.backends.onnx.exporter import Exporter
from qpc.backends.onnx.rules import export_rules
from qpc.errors import MissingDependencyError

if TYPE_CHECKING:
    import onnx


def to_qdq(gm: GraphModule, batch: int = 1) -> onnx.ModelProto:
    """Return `gm`, a core-form graph with integer operators, as an ONNX model for one batch size.

    The model computes the same up to the rounding of sums, which runtimes do in their own ways.
    Padding by zeros before a convolution becomes part of the convolution.

    Raises UnsupportedOpError for an operator without an ONNX form, BackendError for grids of fewer
    than 8 bits, and MissingDependencyError without onnx.
    """
    try:
        import onnx
    except ImportError as e:
        raise MissingDependencyError("onnx is not installed", fix="pip install onnx") from e
    model = Exporter(gm, batch, export_rules()).model()
    onnx.checker.check_model(model, full_check=True)
    return model
