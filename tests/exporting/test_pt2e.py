from __future__ import annotations

import io

import pytest
import torch
from torch import nn
from torch.fx import GraphModule

import qpc
from qpc.errors import PassError, UnsupportedOpError
from qpc.exporting.pt2e import pt2e_file, to_pt2e
from qpc.training.switch import set_training
from tests.exporting.nets import Residual, images, integer_residual, rounded_residual
from tests.quantizing import Parts, fake_quantized, min_max
from tests.small_models import graph_of


def targets(gm: GraphModule) -> list[str]:
    return [str(n.target) for n in gm.graph.nodes if n.op == "call_function"]


def test_values_become_pairs_and_weights_integers() -> None:
    gm = rounded_residual()
    made = to_pt2e(gm)
    assert torch.equal(made(images()), gm(images()))
    found = targets(made)
    assert not any("qpc" in target for target in found)
    assert found.count("quantized_decomposed.quantize_per_tensor.default") == 6
    # The value of the stem is read by the block and by the sum.
    assert found.count("quantized_decomposed.dequantize_per_tensor.default") == 7
    assert found.count("quantized_decomposed.dequantize_per_channel.default") == 3
    weight = made.get_buffer("stem_weight_int8")
    assert weight.dtype is torch.int8
    assert "stem.weight" not in dict(made.named_parameters())


@pytest.mark.thorough
def test_a_graph_that_trains_is_exported_as_it_is_in_inference() -> None:
    gm = qpc.prepare_qat(qpc.trace(Residual(), images()), [images()], batch_norm="simulated")
    set_training(gm)
    made = to_pt2e(gm)
    set_training(gm, mode=False)
    assert torch.equal(made(images()), gm(images()))


def test_one_scale_for_a_weight_and_none_that_pt2e_could_say() -> None:
    x = torch.randn(2, 4, 5, 5)
    for conv, kind in (
        (nn.Conv2d(4, 4, 1), "dequantize_per_tensor"),
        (nn.ConvTranspose2d(4, 4, 2, groups=2), None),
    ):
        config = min_max(per_channel=kind is None)
        gm = fake_quantized(Parts(lambda m, x: m.conv(x), conv=conv), x, config=config)
        made = to_pt2e(gm)
        assert torch.equal(made(x), gm(x))
        stored = [b for name, b in made.named_buffers() if name.endswith("_int8")]
        assert [b.dtype for b in stored] == [torch.int8 if kind else torch.float32]


@pytest.mark.thorough
def test_the_file_is_an_exported_program_of_any_batch_size() -> None:
    gm = rounded_residual()
    program = torch.export.load(io.BytesIO(pt2e_file(gm))).module()
    for count in (1, 3):
        assert torch.equal(program(images(count)), gm(images(count)))


def test_graphs_of_other_stages_are_refused() -> None:
    with pytest.raises(PassError, match="rounded in float, which this one's are not") as caught:
        to_pt2e(integer_residual())
    assert "qpc.prepare_qat" in str(caught.value.fix)


def test_operators_of_qpc_without_such_a_form_are_named() -> None:
    def build(g: torch.fx.Graph, x: torch.fx.Node) -> torch.fx.Node:
        numbers = (g.get_attr("scale"), g.get_attr("zero"), 0, 255)
        rounded = g.call_function(torch.ops.qpc.fake_quantize.default, (x, *numbers))
        return g.call_function(torch.ops.qpc.observe.default, (rounded, "watcher"))

    root = nn.Module()
    root.register_buffer("scale", torch.tensor(0.5))
    root.register_buffer("zero", torch.tensor(0))
    with pytest.raises(UnsupportedOpError, match=r"no PT2E form for qpc\.observe\.default"):
        to_pt2e(graph_of(build, 4, root=root))
