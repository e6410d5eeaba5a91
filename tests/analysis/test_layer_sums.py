from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import qpc
from qpc.analysis.layer_sums import joined_layer
from qpc.calls import aten
from qpc.pruning.allocation import Global
from qpc.pruning.magnitude import L1
from qpc.quant.config import LayerConfig, Override, QuantConfig
from qpc.recipes import to_integer
from tests.quantizing import Parts, fake_quantized, integer

IMAGE = torch.randn(4, 3, 6, 6, generator=torch.Generator().manual_seed(0))
DEFAULT = QuantConfig()
Function = Callable[[Any, Tensor], Tensor]


def net(function: Function, **layers: nn.Module) -> nn.Module:
    """`function` of a layer's result, followed by a layer, so that what it makes is rounded."""
    torch.manual_seed(0)
    parts: dict[str, nn.Module] = {
        "first": nn.Conv2d(3, 4, 3, padding=1),
        "a": nn.Conv2d(4, 4, 3, padding=1),
        "b": nn.Conv2d(4, 4, 1),
        "last": nn.Conv2d(4, 2, 1),
    }
    return Parts(lambda net, x: net.last(function(net, net.first(x))), **(parts | layers)).eval()


def operators(function: Function, config: QuantConfig = DEFAULT, **layers: nn.Module) -> str:
    """The names of the integer operators between the first layer and the last, in order."""
    gm = integer(fake_quantized(net(function, **layers), IMAGE, config=config))
    names = [str(n.target).split(".")[1] for n in gm.graph.nodes if n.op == "call_function"]
    return " ".join(names[2:-1])


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (lambda net, x: net.a(x) + x, "conv2d_add"),
        (lambda net, x: F.relu(x + net.a(x)), "conv2d_add"),
        (lambda net, x: F.relu6(net.a(x) - x), "conv2d_add"),
        (lambda net, x: net.b(x) + net.a(x), "conv2d conv2d_add"),
        (lambda net, x: x - net.a(x), "conv2d add"),
        (lambda net, x: F.relu(net.a(x)) + x, "conv2d add"),
        (lambda net, x: F.silu(net.a(x)) + x, "conv2d lookup add"),
        (lambda net, x: (y := net.a(x)) + net.b(y), "conv2d conv2d_add"),
        (lambda net, x: net.a(x) + x.mean((2, 3), keepdim=True), "conv2d mean add"),
        (lambda net, x: net.a(x) + 1.0, "conv2d lookup"),
    ],
    ids=[
        "a sum",
        "with a ReLU behind it",
        "a difference",
        "of two layers the later",
        "not what is subtracted",
        "not behind a clamp of its own",
        "not behind a table",
        "not a layer that another operator reads",
        "not an operand that is broadcast",
        "not a number",
    ],
)
def test_a_layer_joins_the_addition_that_alone_reads_it(function: Function, expected: str) -> None:
    assert operators(function) == expected


def test_transposed_and_linear_layers_join_sums() -> None:
    transposed = nn.ConvTranspose2d(4, 4, 3, padding=1, groups=2)
    assert operators(lambda net, x: net.a(x) + x, a=transposed) == "conv_transpose2d_add"
    linear = nn.Linear(6, 6)
    assert operators(lambda net, x: net.a(x) + x, a=linear) == "linear_add"


def test_a_sum_that_ends_in_float_is_of_rounded_values() -> None:
    torch.manual_seed(0)
    parts = {"a": nn.Conv2d(3, 3, 3, padding=1), "b": nn.Conv2d(3, 3, 1)}
    model = Parts(lambda net, x: net.b(net.a(x)) + net.a(x), **parts).eval()
    gm = integer(fake_quantized(model, IMAGE, config=QuantConfig()))
    names = [str(n.target).split(".")[1] for n in gm.graph.nodes if n.op == "call_function"]
    assert names == ["quantize", "conv2d", "conv2d", "conv2d", "add_float"]


def test_the_configuration_turns_it_off_for_a_layer() -> None:
    rounded = LayerConfig(results="integer")
    config = QuantConfig(overrides=(Override(module="a", use=rounded),))
    assert operators(lambda net, x: net.a(x) + x, config) == "conv2d add"
    config = QuantConfig(overrides=(Override(module="b", use=rounded),))
    assert operators(lambda net, x: net.b(x) + net.a(x), config) == "conv2d conv2d_add"


def test_fake_quantization_rounds_what_the_integers_round() -> None:
    model = net(lambda net, x: F.relu(net.a(x) + x))
    gm = fake_quantized(model, IMAGE, config=QuantConfig())
    (total,) = gm.graph.find_nodes(op="call_function", target=aten.add.Tensor)
    layer = joined_layer(total)
    assert layer is not None
    assert layer in total.all_input_nodes  # and no rounding in between
    integers = to_integer().run(gm)
    with torch.no_grad():
        wanted, made = gm(IMAGE), integers(IMAGE)
    assert float((made - wanted).abs().max()) <= 1e-2 * float(wanted.abs().max())  # steps, halved


def test_training_keeps_batch_norms_and_joins_once_they_are_folded() -> None:
    layers = {"a": nn.Sequential(nn.Conv2d(4, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4))}
    module = net(lambda net, x: F.relu(net.a(x) + x), **layers)
    training = qpc.prepare_qat(qpc.trace(module, IMAGE[:2]), [IMAGE])
    training.train()
    optimizer = torch.optim.SGD(training.parameters(), 1e-3)
    for _ in range(3):
        loss = training(IMAGE).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    made = qpc.convert(training)
    names = [str(n.target).split(".")[1] for n in made.graph.nodes if n.op == "call_function"]
    assert names == ["quantize", "conv2d", "conv2d_add", "conv2d_float"]


def test_the_levels_of_a_graph_hold_with_layers_that_have_no_grid() -> None:
    model = net(lambda net, x: F.relu(net.b(net.a(x) + x) + x))
    made = qpc.quantize(qpc.trace(model, IMAGE[:2]), [IMAGE], ctx=qpc.PassContext(thorough=True))
    assert sum("conv2d_add" in str(n.target) for n in made.graph.nodes) == 2


def test_channels_are_removed_before_and_during_training() -> None:
    layers = {"a": nn.Conv2d(4, 8, 3, padding=1), "b": nn.Conv2d(8, 4, 1)}
    model = net(lambda net, x: F.relu(net.b(F.relu(net.a(x))) + x), **layers)
    pruned = qpc.prune(
        qpc.prepare_qat(qpc.trace(model, IMAGE[:2]), [IMAGE]), L1(), Global(0.5, of="parameters")
    )
    made = qpc.convert(pruned)
    (node,) = (n for n in made.graph.nodes if "conv2d_add" in str(n.target))
    multiplier = made.get_buffer(str(node.args[3].target))
    assert multiplier.numel() == made.get_buffer(str(node.args[1].target)).shape[0] < 4
