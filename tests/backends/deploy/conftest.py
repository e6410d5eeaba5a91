from collections.abc import Callable
from pathlib import Path

import pytest
from torch.fx import GraphModule

pytest.importorskip("tvm", reason="Apache TVM is not installed")

from qpc.deployment import export_library
from tests.generators import IntegerGraph

Exported = Callable[[str], Path]


def small_graph(seed: int = 0) -> GraphModule:
    """Convolution, depthwise convolution, addition, pooling, concatenation, a table, a classifier.

    Of its two outputs one is integers.
    """
    g = IntegerGraph(seed)
    x = g.quantize(g.input(5, 9, 10))
    a = g.conv2d(x, 12, padding=(1, 1))
    b = g.add(a, g.conv2d(g.lookup(a), 12, padding=(1, 1), groups=12))
    c = g.cat(g.max_pool2d(b, (2, 2), (2, 2)), g.avg_pool2d(a, (2, 2), (2, 2)))
    return g.module(g.dequantize(g.linear(g.mean(c, (2, 3)), 10)), c)


@pytest.fixture(scope="package")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """The small graph as a library called `net` for a target: a folder, which tests leave alone."""
    folder = tmp_path_factory.mktemp("exported")

    def export(target: str) -> Path:
        out = folder / target
        if not out.exists():
            export_library(small_graph(), target, out, name="net")
        return out

    return export
