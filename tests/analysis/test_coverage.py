"""Which layers are counted, and what is said when none of them can be integer."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.nn.utils.parametrizations import weight_norm

from qpc.analysis.coverage import (
    kind_of,
    layers_with_weights,
    left_unwillingly,
    reasons_of,
    require_some,
)
from qpc.analysis.quantization import plan_quantization
from qpc.errors import PassError
from qpc.meta import update_info
from qpc.quant.config import Override, QuantConfig
from qpc.registry import op_name
from qpc.testing import traced
from tests.quantizing import Parts
from tests.small_models import Call, Recurrent

IMAGE = torch.zeros(2, 3, 8, 8)
STEPS = torch.zeros(2, 5, 8)


class Products(nn.Module):
    """Matrix products with a parameter, and one without."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(8, 6))
        self.both = nn.Bilinear(6, 6, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = x @ self.weight
        return y.transpose(1, 2) @ self.both(y, y)  # type: ignore[no-any-return]  # what modules return is Any


def counted(model: nn.Module, *inputs: Tensor) -> list[str]:
    return [op_name(node) for node in layers_with_weights(traced(model, *inputs))]


@pytest.mark.thorough
def test_layers_are_what_multiplies_by_weights_of_its_own() -> None:
    assert counted(nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU()), IMAGE) == ["conv2d"]
    assert counted(Recurrent(), STEPS) == ["lstm", "linear"]
    assert counted(Products(), STEPS) == ["matmul", "bilinear"]
    cells = Parts(lambda m, x: m.gru(m.lstm(x)[0]), lstm=nn.LSTMCell(8, 8), gru=nn.GRUCell(8, 8))
    assert counted(cells, STEPS[:, 0]) == ["lstm_cell", "gru_cell"]
    plain = Parts(lambda m, x: m.rnn(m.gru(x)[0])[0], gru=nn.GRU(8, 8), rnn=nn.RNN(8, 8))
    assert counted(plain, STEPS) == ["gru", "rnn_tanh"]


def test_layers_of_one_kind_are_called_by_it() -> None:
    assert kind_of(layers_with_weights(traced(nn.Linear(8, 4), STEPS))) == (
        "convolution and linear layers"
    )
    assert kind_of(layers_with_weights(traced(Recurrent(), STEPS))) == "layers with weights"


def test_only_a_few_reasons_are_given_in_one_line() -> None:
    gm = traced(nn.Sequential(*[nn.Linear(8, 8) for _ in range(5)]), STEPS)
    layers = layers_with_weights(gm)
    for layer in layers:
        update_info(layer, declined="too small")
    assert reasons_of(layers[:2]) == "0 (linear): too small; 1 (linear_1): too small"
    assert reasons_of(layers).endswith("2 (linear_2): too small; and 2 more")


def test_layers_are_left_unwillingly_unless_the_configuration_keeps_them() -> None:
    layers = layers_with_weights(traced(nn.Sequential(*[nn.Linear(8, 8)] * 3), STEPS))
    update_info(layers[0], integer=True)
    update_info(layers[1], declined="kept in float by the configuration")
    assert left_unwillingly(layers) == layers[2:]


def refused(gm: GraphModule, config: QuantConfig | None = None) -> PassError:
    plan = plan_quantization(gm, config or QuantConfig())
    with pytest.raises(PassError) as caught:
        require_some(layers_with_weights(gm), plan)
    return caught.value


def test_a_model_of_another_type_is_refused_with_what_to_do() -> None:
    dtype = torch.float64  # those of 16 bits are traced as float32
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 4, 1)).to(dtype)
    error = refused(traced(model, IMAGE.to(dtype)))
    assert error.what == (
        "nothing would be quantized: none of the 2 convolution and linear layers can be integer: "
        f"conv2d works on {dtype} (2 of 2)"
    )
    assert error.fix == (
        "trace the model in float32: qpc.trace(model.float(), example_inputs.float())"
    )
    assert error.node is not None
    assert error.node.name == "conv2d"


def test_an_image_without_a_batch_is_refused_with_what_to_do() -> None:
    error = refused(traced(nn.Conv2d(3, 4, 1), IMAGE[0]))
    assert "the convolution has no batch dimension (1 of 1)" in error.what
    assert error.fix == "qpc.trace(model, example_input[None]), and batches likewise"


def test_a_network_of_recurrent_layers_alone_is_refused() -> None:
    error = refused(traced(Recurrent(head=False), STEPS))
    assert error.what == (
        "nothing would be quantized: none of the 1 layers with weights can be integer: "
        "lstm has no integer form (1 of 1)"
    )
    assert error.fix == (
        "recurrent layers run in float; quantization needs convolution or linear layers"
    )


def test_weights_that_are_computed_are_refused_with_what_to_do() -> None:
    error = refused(traced(weight_norm(nn.Linear(8, 4)), STEPS))
    assert error.fix == "gm = qpc.Pipeline((qpc.passes.FoldWeights(),)).run(gm)"


def test_a_configuration_that_keeps_everything_in_float_is_refused() -> None:
    config = QuantConfig(overrides=(Override(pattern="*", use="float"),))
    error = refused(traced(nn.Linear(8, 4), STEPS), config)
    assert "kept in float by the configuration (1 of 1)" in error.what
    assert error.fix == 'remove the overrides with use="float" that select everything'


def test_a_graph_without_layers_is_refused() -> None:
    error = refused(traced(nn.ReLU(), IMAGE))
    assert error.what == "nothing can be quantized: the graph has no layer with weights"
    assert error.fix == "quantization needs convolution or linear layers"


def test_other_reasons_are_counted_the_commonest_first() -> None:
    product = Call(lambda x, w: (x @ w) @ torch.ones(6, 6), w=torch.ones(8, 6))
    error = refused(
        traced(nn.Sequential(product, nn.ConvTranspose3d(5, 3, 1)), STEPS[..., None, None, :])
    )
    assert error.what.endswith(
        "can be integer: matmul has no integer form, unless LinearProducts() makes a layer of it "
        "(2 of 3); conv_transpose3d has no integer form yet (1 of 3)"
    )
    assert error.fix == "see the reasons above; print(qpc.format_graph(gm)) shows the graph"
