"""From a graph to float ONNX and encodings, and from these to the same integers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.fx import GraphModule

import qpc
from qpc.base import PassContext
from qpc.errors import ArtifactError, PassError
from qpc.exporting.encodings import VERSIONS, encodings
from qpc.exporting.grids import TensorGrid
from tests.exporting.nets import Residual, images

WEIGHT = TensorGrid("head.weight", (0.01,) * 5, 0, -128, 127, axis=0, parameter=True)
VALUE = TensorGrid("mean", (0.01,), 0, 0, 255)


@pytest.fixture(scope="module")
def traced() -> GraphModule:
    torch.manual_seed(0)
    return qpc.trace(Residual(), images())


@pytest.fixture(scope="module")
def integers(traced: GraphModule) -> GraphModule:
    return qpc.quantize(traced, [images()], effort="fast")


def written(folder: Path, *grids: TensorGrid, version: str = "2.0.0") -> Path:
    file = folder / "net.encodings"
    file.write_text(encodings(grids, version))
    return file


@pytest.mark.parametrize("version", VERSIONS)
def test_a_graph_comes_back_with_the_same_integers(
    version: str, traced: GraphModule, integers: GraphModule, tmp_path: Path
) -> None:
    pytest.importorskip("onnx")
    made = qpc.export(integers, tmp_path / "net.onnx", form="onnx-float", encodings=version)
    back = qpc.import_encodings(traced, made.files[1])
    assert qpc.fingerprint(back) == qpc.fingerprint(integers)


def test_what_has_no_grid_stays_in_float_unless_it_is_calibrated(
    traced: GraphModule, tmp_path: Path
) -> None:
    file, ctx = written(tmp_path, VALUE, WEIGHT), PassContext(thorough=True)
    back = qpc.import_encodings(traced, file, ctx=ctx)
    assert [str(n.target) for n in back.graph.nodes if "qpc" in str(n.target)] == [
        "qpc.quantize.default",
        "qpc.linear_float.default",
    ]
    assert "stem (conv2d): no grid is given for its weight" in str(ctx)
    without = written(tmp_path, WEIGHT)
    assert "linear" in str(qpc.import_encodings(traced, without, [images()]).graph)


def test_other_names_are_reported(traced: GraphModule, tmp_path: Path) -> None:
    ctx, other = PassContext(), TensorGrid("tail", (0.5,), 0, 0, 255)
    qpc.import_encodings(traced, written(tmp_path, VALUE, WEIGHT, other), ctx=ctx)
    assert "declined tail: net.encodings has a grid for it, and the graph no such tensor" in str(
        ctx
    )


@pytest.mark.parametrize(
    ("grids", "why"),
    [
        ([VALUE], "net.encodings has no grid for any weight of this graph"),
        ([TensorGrid("mean", (0.5,), 0, 0, 65535), WEIGHT], "'mean' has 16 bits and 1 scales"),
        ([TensorGrid("mean", (0.5,), 300, 0, 255), WEIGHT], "'mean': zero_point must be"),
        ([TensorGrid("head.weight", (0.5,), 7, 0, 255)], "has 8 bits and the zero point 7"),
    ],
)
def test_grids_that_we_cannot_have_are_refused(
    grids: list[TensorGrid], why: str, traced: GraphModule, tmp_path: Path
) -> None:
    with pytest.raises(ArtifactError, match=why) as caught:
        qpc.import_encodings(traced, written(tmp_path, *grids))
    assert caught.value.fix


def test_a_graph_that_is_quantized_has_grids_already(integers: GraphModule, tmp_path: Path) -> None:
    with pytest.raises(PassError, match="the graph is quantized already"):
        qpc.import_encodings(integers, written(tmp_path, WEIGHT))


def test_files_that_are_none_are_refused(traced: GraphModule, tmp_path: Path) -> None:
    for content in ("{", json.dumps({"version": "3.0.0"})):
        (tmp_path / "net.encodings").write_text(content)
        with pytest.raises(ArtifactError, match=r"net\.encodings"):
            qpc.import_encodings(traced, tmp_path / "net.encodings")
    with pytest.raises(ArtifactError, match=r"cannot read '.*no\.encodings'"):
        qpc.import_encodings(traced, tmp_path / "no.encodings")


@pytest.mark.parametrize(
    "layer", [nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1, groups=2), nn.ConvTranspose2d(4, 4, 1)]
)
def test_a_weight_may_have_a_scale_for_each_output_channel(
    layer: nn.Module, tmp_path: Path
) -> None:
    gm, ctx = qpc.trace(nn.Sequential(layer), torch.zeros(1, 4, 2, 2)), PassContext()
    qpc.import_encodings(gm, written(tmp_path, *scaled(gm)), ctx=ctx)
    assert "1 of 1 convolution and linear layers quantized" in str(ctx)


def test_groups_of_a_transposed_layer_share_their_scales(tmp_path: Path) -> None:
    gm = qpc.trace(nn.Sequential(nn.ConvTranspose2d(4, 8, 1, groups=2)), torch.zeros(1, 4, 2, 2))
    with pytest.raises(PassError, match="scales along axis 1, not one for each output channel"):
        qpc.import_encodings(gm, written(tmp_path, *scaled(gm)))


def scaled(gm: GraphModule) -> tuple[TensorGrid, TensorGrid]:
    """Grids of the input, and of a weight with four scales along the axis of its outputs."""
    (value,) = gm.graph.find_nodes(op="placeholder")
    axis = int("transpose" in str(gm.graph))
    weight = TensorGrid("0.weight", (0.01,) * 4, 0, -128, 127, axis=axis, parameter=True)
    return TensorGrid(value.name, (0.01,), 0, 0, 255), weight
