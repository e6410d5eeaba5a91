from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Interpreter, Node
from torch.nn import functional as F

from qpc import prepare_qat
from qpc.base import PassContext
from qpc.calls import arguments, aten, qpc_ops
from qpc.errors import OverflowProofError, PassError, UnsupportedOpError
from qpc.facts import FAKE_QUANTIZED, INTEGER
from qpc.meta import attribute, info, update_info
from qpc.ops.clamp import Clamping
from qpc.passes import ConvertToInteger
from qpc.pipeline import Pipeline
from qpc.quant.config import Override, QuantConfig
from qpc.testing import check_pass, traced
from tests.quantizing import (
    Parts,
    converted,
    fake_quantized,
    integer,
    min_max,
    output_grid,
    steps_apart,
)
from tests.small_models import Recurrent, nodes_of, only

IMAGE = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def conv(inputs: int = 3, outputs: int = 3, kernel: int = 1, **options: Any) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, **options)


def targets(gm: GraphModule) -> list[object]:
    return [node.target for node in gm.graph.nodes if node.op == "call_function"]


def test_replaces_float_operators_by_integer_ones() -> None:
    layer = conv(3, 2, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[127, 1, 0], [-127, 2, 0]])[:, :, None, None])
    x = torch.zeros(1, 3, 1, 2)
    x[0, 0, 0, 0] = 255.0  # every value of the net is then a point of its grid
    model = nn.Sequential(layer, nn.ReLU(), nn.Softmax(1))
    result = check_pass(
        ConvertToInteger(),
        fake_quantized(model, x, random=False),
        x,
        before="""
            graph:
              %input_1: f32[N, 3, 1, 2] = input  # scale 1, zero 0
              %fake_quantize_default: f32[N, 3, 1, 2] = qpc.fake_quantize(%input_1, @quantizers.input_1.scale, @quantizers.input_1.zero_point, 0, 255)  # scale 1, zero 0
              %fake_quantize_default_2: f32[2, 3, 1, 1] = qpc.fake_quantize(@0.weight, @quantizers.conv2d_weight.scale, @quantizers.conv2d_weight.zero_point, -127, 127, 0)  # 0
              %conv2d: f32[N, 2, 1, 2] = aten.conv2d(%fake_quantize_default, %fake_quantize_default_2, None, [1, 1], [0, 0], [1, 1], 1)  # scale 127, zero 0; 0
              %relu: f32[N, 2, 1, 2] = aten.relu(%conv2d)  # scale 127, zero 0; 1
              %fake_quantize_default_1: f32[N, 2, 1, 2] = qpc.fake_quantize(%relu, @quantizers.relu.scale, @quantizers.relu.zero_point, 0, 255)  # scale 127, zero 0; 1
              %softmax: f32[N, 2, 1, 2] = aten.softmax.int(%fake_quantize_default_1, 1)  # 2
              return %softmax
        """,  # noqa: E501
        after="""
            graph:
              %input_1: f32[N, 3, 1, 2] = input  # scale 1, zero 0
              %quantize_default: u8[N, 3, 1, 2] = qpc.quantize(%input_1, 1.0, 0, 0, 255, u8)  # scale 1, zero 0
              %conv2d_default: u8[N, 2, 1, 2] = qpc.conv2d(%quantize_default, @0.weight, @0.bias, @0.multiplier, [1, 1], [0, 0], [1, 1], 1, 0, 0, 0, 255)  # scale 127, zero 0; 0
              %clamp_default: u8[N, 2, 1, 2] = qpc.clamp(%conv2d_default, 0, 255)  # scale 127, zero 0; 1
              %dequantize_default: f32[N, 2, 1, 2] = qpc.dequantize(%clamp_default, 127.0, 0)  # 1
              %softmax: f32[N, 2, 1, 2] = aten.softmax.int(%dequantize_default, 1)  # 2
              return %softmax
        """,  # noqa: E501
        exact=True,
    )
    assert result.get_buffer("0.weight").flatten(1).tolist() == [[127, 1, 0], [-127, 2, 0]]
    assert result.get_buffer("0.weight").dtype == torch.int8
    assert result.get_buffer("0.bias").dtype == torch.int32
    assert torch.equal(result.get_buffer("0.multiplier"), torch.full((2,), 1 / 127))
    assert set(result.state_dict()) == {"0.weight", "0.bias", "0.multiplier"}
    assert INTEGER.check(result) is None


# name: (model of IMAGE, the operators between quantize and dequantize)
MODELS: dict[str, tuple[Callable[[], nn.Module], list[object]]] = {
    "conv2d": (lambda: conv(3, 5, 3, stride=2, padding=1), [qpc_ops.conv2d]),
    "grouped, dilated": (
        lambda: conv(3, 6, 3, groups=3, dilation=2, padding=(2, 1)),
        [qpc_ops.conv2d],
    ),
    "without bias": (lambda: conv(3, 5, 3, bias=False), [qpc_ops.conv2d]),
    "conv_transpose2d": (
        lambda: nn.ConvTranspose2d(3, 5, 3, stride=2, padding=1, output_padding=1),
        [qpc_ops.conv_transpose2d],
    ),
    "grouped conv_transpose2d": (
        lambda: nn.Sequential(conv(3, 4), nn.ConvTranspose2d(4, 6, (3, 2), groups=2, dilation=2)),
        [qpc_ops.conv2d, qpc_ops.conv_transpose2d],
    ),
    "conv_transpose2d without bias": (
        lambda: nn.Sequential(nn.ConvTranspose2d(3, 5, 2, stride=2, bias=False), nn.ReLU()),
        [qpc_ops.conv_transpose2d, qpc_ops.clamp],
    ),
    "linear": (lambda: nn.Linear(8, 5), [qpc_ops.linear]),
    "linear without bias": (lambda: nn.Linear(8, 5, bias=False), [qpc_ops.linear]),
    "relu": (lambda: nn.Sequential(conv(), nn.ReLU()), [qpc_ops.conv2d, qpc_ops.clamp]),
    "relu6": (lambda: nn.Sequential(conv(), nn.ReLU6()), [qpc_ops.conv2d, qpc_ops.clamp]),
    "one-sided clamp": (
        lambda: Parts(lambda net, x: net.a(x).clamp(max=0.25), a=conv()),
        [qpc_ops.conv2d, qpc_ops.clamp],
    ),
    "relu on another grid": (
        lambda: Parts(lambda net, x: torch.relu(y := net.a(x)) + y, a=conv()),
        [qpc_ops.conv2d, qpc_ops.lookup, qpc_ops.add],
    ),
    "residual": (
        lambda: Parts(lambda net, x: net.a(x) + x, a=conv()),
        [qpc_ops.conv2d, qpc_ops.add],
    ),
    "product": (
        lambda: Parts(lambda net, x: net.a(x) * net.b(x), a=conv(), b=conv()),
        [qpc_ops.conv2d, qpc_ops.conv2d, qpc_ops.mul],
    ),
    "squeeze and excite": (
        lambda: Parts(
            lambda net, x: (y := net.a(x)) * torch.sigmoid(net.b(y.mean((2, 3), True))),
            a=conv(),
            b=conv(),
        ),
        [qpc_ops.conv2d, qpc_ops.mean, qpc_ops.conv2d, qpc_ops.lookup, qpc_ops.mul],
    ),
    "sum with a number": (
        lambda: Parts(lambda net, x: net.a(x) * 2.5 - 1, a=conv()),
        [qpc_ops.conv2d, qpc_ops.lookup, qpc_ops.lookup],
    ),
    "difference": (
        lambda: Parts(lambda net, x: net.a(x) - net.b(x), a=conv(), b=conv()),
        [qpc_ops.conv2d, qpc_ops.conv2d, qpc_ops.add],
    ),
    "prelu with one slope": (
        lambda: nn.Sequential(conv(), nn.PReLU()),
        [qpc_ops.conv2d, qpc_ops.lookup],
    ),
    "a learned factor": (
        lambda: Parts(lambda net, x: net.f.weight * net.a(x), a=conv(), f=nn.Linear(1, 1)),
        [qpc_ops.conv2d, qpc_ops.lookup],
    ),
    "batch norm": (
        lambda: nn.Sequential(conv(), nn.Sigmoid(), nn.BatchNorm2d(3), nn.ReLU()),
        [qpc_ops.conv2d, qpc_ops.lookup, qpc_ops.conv2d, qpc_ops.clamp],
    ),
    "batch norm of features": (
        lambda: nn.Sequential(
            nn.Flatten(), nn.Linear(192, 6), nn.Tanh(), nn.BatchNorm1d(6), nn.Linear(6, 2)
        ),
        [
            aten.reshape,
            qpc_ops.linear,
            qpc_ops.lookup,
            qpc_ops.linear,  # the norm is folded into it
        ],
    ),
    "batch norm of sequences": (
        lambda: nn.Sequential(conv(), nn.Tanh(), nn.Flatten(2), nn.BatchNorm1d(3)),
        [
            qpc_ops.conv2d,
            qpc_ops.lookup,
            aten.reshape,
            aten.reshape,
            qpc_ops.conv2d,
            aten.reshape,
        ],
    ),
    "a learned factor for each channel": (
        lambda: Parts(lambda net, x: net.a(x).tanh() * net.f.weight, a=conv(), f=conv(3, 1)),
        [qpc_ops.conv2d, qpc_ops.lookup, qpc_ops.conv2d],
    ),
    "sum": (
        lambda: Parts(lambda net, x: net.a(x).sum((2, 3)), a=conv()),
        [qpc_ops.conv2d, qpc_ops.sum],
    ),
    "own divisor": (
        lambda: Parts(lambda net, x: F.avg_pool2d(net.a(x), 2, 2, 1, divisor_override=3), a=conv()),
        [qpc_ops.conv2d, qpc_ops.avg_pool2d],
    ),
    "global max-pool": (
        lambda: nn.Sequential(conv(), nn.AdaptiveMaxPool2d(1)),
        [qpc_ops.conv2d, qpc_ops.max_pool2d],
    ),
    "reflection and repetition of the border": (
        lambda: nn.Sequential(conv(), nn.ReflectionPad2d((1, 2, 3, 0)), nn.ReplicationPad2d(2)),
        [qpc_ops.conv2d, qpc_ops.resize2d, qpc_ops.resize2d],
    ),
    "pixel_unshuffle and channel_shuffle": (
        lambda: nn.Sequential(conv(), nn.PixelUnshuffle(2), nn.ChannelShuffle(3)),
        [qpc_ops.conv2d, aten.pixel_unshuffle, aten.channel_shuffle],
    ),
    "concat": (
        lambda: Parts(lambda net, x: torch.cat([net.a(x), net.b(x)], 1), a=conv(), b=conv()),
        [qpc_ops.conv2d, qpc_ops.conv2d, aten.cat],
    ),
    "concat of another grid": (
        lambda: Parts(lambda net, x: torch.cat([y := net.a(x), y * 9], 1), a=conv()),
        [qpc_ops.conv2d, qpc_ops.lookup, qpc_ops.lookup, aten.cat],
    ),
    "concat of similar grids": (
        lambda: Parts(lambda net, x: torch.cat([net.a(x), x], 1), a=conv()),
        [qpc_ops.conv2d, aten.cat],
    ),
    "concat of one value twice": (
        lambda: Parts(lambda net, x: torch.cat([y := net.a(x), y], 1), a=conv()),
        [qpc_ops.conv2d, aten.cat],
    ),
    "mean": (
        lambda: Parts(lambda net, x: net.a(x).mean(-1), a=conv()),
        [qpc_ops.conv2d, qpc_ops.mean],
    ),
    "avg_pool2d": (
        lambda: nn.Sequential(conv(), nn.AvgPool2d((3, 2), 2, 1)),
        [qpc_ops.conv2d, qpc_ops.avg_pool2d],
    ),
    "max_pool2d": (
        lambda: nn.Sequential(conv(), nn.MaxPool2d(3, 2, 1, ceil_mode=True)),
        [qpc_ops.conv2d, qpc_ops.max_pool2d],
    ),
    "padding": (
        lambda: nn.Sequential(conv(), nn.ZeroPad2d((1, 2, 0, 1)), conv()),
        [qpc_ops.conv2d, aten.constant_pad_nd, qpc_ops.conv2d],
    ),
    "reshape, permute, slice": (
        lambda: Parts(
            lambda net, x: net.b(net.a(x).permute(0, 2, 3, 1).flatten(1)[:, 1:101]),
            a=conv(),
            b=nn.Linear(100, 3),
        ),
        [qpc_ops.conv2d, aten.permute, aten.reshape, aten.slice, qpc_ops.linear],
    ),
    "select, flip, roll": (
        lambda: Parts(lambda net, x: net.a(x)[:, 1].flip(1).roll(2, 1), a=conv()),
        [qpc_ops.conv2d, aten.select, aten.flip, aten.roll],
    ),
    "nearest upsampling": (
        lambda: nn.Sequential(nn.Upsample(scale_factor=2), conv()),
        [qpc_ops.resize2d, qpc_ops.conv2d],
    ),
    "relu behind nearest upsampling": (
        lambda: nn.Sequential(conv(), nn.Upsample(size=(3, 19), mode="nearest-exact"), nn.ReLU()),
        [qpc_ops.conv2d, qpc_ops.resize2d, qpc_ops.clamp],
    ),
    "bilinear upsampling": (
        lambda: nn.Sequential(conv(), nn.Upsample(scale_factor=1.7, mode="bilinear")),
        [qpc_ops.conv2d, qpc_ops.resize2d],
    ),
    "relu behind bilinear upsampling": (
        lambda: nn.Sequential(conv(), nn.UpsamplingBilinear2d(size=(5, 20)), nn.ReLU()),
        [qpc_ops.conv2d, qpc_ops.resize2d, qpc_ops.lookup],
    ),
    "clamp of the input": (
        lambda: nn.Sequential(nn.MaxPool2d(2), nn.ReLU(), conv()),
        [qpc_ops.max_pool2d, qpc_ops.clamp, qpc_ops.conv2d],
    ),
    "pixel_shuffle": (
        lambda: nn.Sequential(conv(3, 8), nn.PixelShuffle(2)),
        [qpc_ops.conv2d, aten.pixel_shuffle],
    ),
}


@pytest.mark.every(6)
@pytest.mark.parametrize("name", MODELS)
def test_every_kind_of_operator_stays_within_one_step(name: str) -> None:
    build, expected = MODELS[name]
    fake = fake_quantized(build(), IMAGE)
    result = converted(fake)
    inside = [t for t in targets(result)[1:-1] if t is not qpc_ops.quantize.default]
    assert [t.overloadpacket for t in inside] == expected  # type: ignore[attr-defined]  # targets are overloads
    assert targets(result)[0] is qpc_ops.quantize.default
    assert targets(result)[-1] is qpc_ops.dequantize.default
    # One step of the layer before may be several after a table; interpolation rounds once more.
    limit = {
        "bilinear upsampling": 2.0,
        "relu behind bilinear upsampling": 4.0,
        "prelu with one slope": 3.0,
        "batch norm of sequences": 3.0,
        "a learned factor for each channel": 3.0,
    }.get(name, 1.0)
    assert steps_apart(fake, result, IMAGE) <= limit + 1e-4
    assert torch.equal(result(IMAGE), integer(fake)(IMAGE))


@pytest.mark.parametrize("size", [(3, 3), (16, 14), (31, 7)])
def test_means_count_what_is_there_at_any_size(size: tuple[int, int]) -> None:
    model = Parts(lambda net, x: net.a(x).mean((2, 3)), a=conv())
    fake = fake_quantized(model, IMAGE)
    assert IMAGE.shape[2:] != size
    other = torch.rand(2, 3, *size)
    assert steps_apart(fake, converted(fake), other) <= 1 + 1e-4


def test_a_resize_at_another_size_is_an_error_and_no_wrong_answer() -> None:
    result = converted(fake_quantized(nn.Sequential(nn.Upsample(scale_factor=2), conv()), IMAGE))
    with pytest.raises(PassError, match="resizing was converted for images of"):
        result(torch.rand(1, 3, 20, 20))


@pytest.mark.forged
def test_a_factor_that_float32_cannot_hold_names_the_operator() -> None:
    fake = fake_quantized(Parts(lambda net, x: net.a(x) * net.b(x), a=conv(), b=conv()), IMAGE)
    product = only(fake, aten.mul.Tensor)
    for node, scale in (*((n, 2.0**60) for n in product.all_input_nodes), (product, 2.0**-10)):
        grid = info(node).qparams
        assert grid is not None
        for value in (node, *node.users):
            if value.target is qpc_ops.fake_quantize.default:
                attribute(fake, str(arguments(value)["scale"].target)).fill_(scale)
                update_info(value, qparams=replace(grid, scale=scale))
        update_info(node, qparams=replace(grid, scale=scale))
    with pytest.raises(OverflowProofError, match=r"multiplier .* does not fit float32") as e:
        converted(fake)
    assert e.value.fix == "keep it in float: Override(op='mul', use='float')"


RESIZED: dict[str, Callable[[Tensor], Tensor]] = {
    "nearest": lambda x: F.interpolate(x, scale_factor=(1.3, 2.7)),
    "nearest to a size": lambda x: F.interpolate(x, (3, 19)),
    "nearest, sizes first": lambda x: F.interpolate(
        x, scale_factor=1.3, recompute_scale_factor=True
    ),
    "nearest-exact": lambda x: F.interpolate(x, (13, 5), mode="nearest-exact"),
}
INTERPOLATED: dict[str, Callable[[Tensor], Tensor]] = {
    "bilinear": lambda x: F.interpolate(x, scale_factor=(1.3, 2.7), mode="bilinear"),
    "bilinear to a size": lambda x: F.interpolate(x, (3, 19), mode="bilinear"),
    "bilinear by corners": lambda x: F.interpolate(
        x, (30, 19), mode="bilinear", align_corners=True
    ),
    "bilinear to one": lambda x: F.interpolate(x, (1, 1), mode="bilinear", align_corners=True),
}


@pytest.mark.every(2)
@pytest.mark.parametrize("name", [*RESIZED, *INTERPOLATED])
def test_resized_images_are_those_of_torch(name: str) -> None:
    """Exactly if values move only, else within one step of the grid: half of it is rounding."""
    resize = RESIZED.get(name) or INTERPOLATED[name]
    gm = integer(fake_quantized(Parts(lambda net, x: (y := net.a(x), resize(y)), a=conv()), IMAGE))
    value, resized = gm(IMAGE)
    grid = next(
        g for n in gm.graph.nodes if (g := info(n).qparams) and n.target is qpc_ops.conv2d.default
    )
    limit = 0.0 if name in RESIZED else 0.7 * grid.scale
    assert float((resize(value) - resized).abs().max()) <= limit


POINTWISE: dict[str, Callable[[Tensor], Tensor]] = {
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "silu": F.silu,
    "hardswish": F.hardswish,
    "hardsigmoid": F.hardsigmoid,
    "gelu": F.gelu,
    "gelu by tanh": lambda x: F.gelu(x, approximate="tanh"),
    "leaky_relu": lambda x: F.leaky_relu(x, 0.2),
    "elu": F.elu,
    "softplus": F.softplus,
    "mish": F.mish,
    "exp": torch.exp,
    "abs": torch.abs,
    "neg": torch.neg,
    "celu": F.celu,
    "selu": F.selu,
    "sqrt": lambda x: torch.sqrt(torch.relu(x)),
    "log_sigmoid": F.logsigmoid,
    "hardshrink": F.hardshrink,
    "softshrink": F.softshrink,
    "threshold": lambda x: F.threshold(x, 0.1, 0.3),
    "square": torch.square,
    "a value times itself": lambda x: x * x,
    "power": lambda x: x**3,
    "reciprocal": lambda x: 1 / torch.exp(x),
    "rsqrt": lambda x: torch.rsqrt(torch.exp(x)),
    "log": lambda x: torch.log(torch.exp(x)),
    "log1p": lambda x: torch.log1p(torch.relu(x)),
    "expm1": torch.expm1,
    "erf": torch.erf,
    "erfc": torch.erfc,
    "asinh": torch.asinh,
    "angles": lambda x: torch.asin(torch.tanh(x)),
    "sinc": torch.sinc,
    "logit": lambda x: torch.logit(torch.sigmoid(x)),
    "sin": torch.sin,
    "round": torch.round,
}


@pytest.mark.every(6)
@pytest.mark.parametrize("name", POINTWISE)
def test_pointwise_functions_become_tables_that_are_exact(name: str) -> None:
    function = POINTWISE[name]
    fake = fake_quantized(Parts(lambda net, x: function(net.a(x)), a=conv()), IMAGE)
    result = converted(fake)
    lookup = nodes_of(result, qpc_ops.lookup.default)[-1]
    table = result.get_buffer(str(lookup.args[1].target))  # type: ignore[union-attr]  # an argument that is a node
    source, grid = info(lookup.args[0]).qparams, output_grid(fake)  # type: ignore[arg-type]  # an argument that is a node
    assert source is not None
    real = source.dequantize(torch.arange(256, dtype=torch.uint8))
    before = lookup.args[0]
    assert isinstance(before, Node)
    if before.target is qpc_ops.conv2d.default:
        assert torch.equal(table, grid.quantize(function(real)))
    slope = int(table.int().diff().abs().max())  # the layer before may be off by one
    assert steps_apart(fake, result, IMAGE) <= slope + 1e-5


def test_a_table_has_the_lowest_point_for_values_without_a_result() -> None:
    """As whatever else is quantized has for NaN."""
    layer = conv(bias=False)
    nn.init.ones_(layer.weight)
    model = Parts(lambda net, x: torch.sqrt(net.a(x)), a=layer)
    fake = fake_quantized(model, IMAGE.abs(), config=min_max(symmetric=True), random=False)
    result = converted(fake)
    grid, table = output_grid(fake), result.get_buffer("tables.sqrt")
    assert set(table[:128].tolist()) == {grid.lo}
    assert int(table[128]) == grid.zero_point


@pytest.mark.every(9)
@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 7, 8])
def test_fewer_bits_convert_as_well(bits: int) -> None:
    model = nn.Sequential(conv(3, 4, 3), nn.ReLU(), nn.Hardswish(), conv(4, 2))
    fake = fake_quantized(model, IMAGE, config=min_max(bits, bits))
    result = integer(fake)
    assert int(result.get_buffer("0.weight").abs().max()) == 2 ** (bits - 1) - 1
    for node in nodes_of(result, qpc_ops.conv2d.default):
        assert Clamping(node).hi <= 2**bits - 1
    # the first convolution may be off by one step of its grid, which the second one's weights scale
    assert steps_apart(fake, result, IMAGE) <= 4.0


@pytest.mark.every(4)
@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("bits", [8, 4])
def test_signed_and_unsigned_grids_give_identical_reals(bits: int, symmetric: bool) -> None:
    def net(net_: Any, x: Tensor) -> Tensor:
        y = torch.relu(net_.a(x))
        z = F.pad(F.max_pool2d(y, 2), (1, 1, 1, 1)) + F.pad(F.avg_pool2d(y, 2), (1, 1, 1, 1))
        z = torch.cat([net_.b(z), torch.sigmoid(z)], 1) * z.mean((2, 3), True).repeat(1, 2, 1, 1)
        return net_.c(z.mean((2, 3)))  # type: ignore[no-any-return]  # what modules return is Any

    def build() -> nn.Module:
        return Parts(net, a=conv(kernel=3, padding=1), b=conv(), c=nn.Linear(6, 4))

    model = build()
    unsigned, signed = (
        integer(fake_quantized(model, IMAGE, config=min_max(bits, symmetric=symmetric), signed=s))
        for s in (False, True)
    )
    assert torch.equal(unsigned(IMAGE), signed(IMAGE))
    dtypes = {info(n).dtype for n in nodes_of(signed, qpc_ops.conv2d.default)}
    assert dtypes == {torch.int8}


def test_symmetric_activations_convert_as_well() -> None:
    fake = fake_quantized(
        nn.Sequential(conv(), nn.ReLU(), conv()), IMAGE, config=min_max(symmetric=True)
    )
    assert steps_apart(fake, integer(fake), IMAGE) <= 3.0  # two layers, each off by one at most


def test_one_scale_for_all_channels_converts_as_well() -> None:
    fake = fake_quantized(conv(3, 4), IMAGE, config=min_max(per_channel=False))
    result = converted(fake)
    assert result.get_buffer("conv2d.multiplier").shape == (4,)
    assert steps_apart(fake, result, IMAGE) <= 1.0 + 1e-5


@pytest.mark.parametrize("per_channel", [True, False])
def test_every_output_channel_of_every_group_has_its_scale(per_channel: bool) -> None:
    layer = nn.ConvTranspose2d(3, 6, 2, groups=3, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.arange(1, 25).reshape(3, 2, 2, 2) / 24)
    config = min_max(per_channel=per_channel)
    model = nn.Sequential(layer)
    result = integer(fake_quantized(model, IMAGE, config=config, random=False))
    weight = result.get_buffer("0.weight")
    assert weight.shape == (3, 2, 2, 2)
    largest = weight.flatten(2).amax(2).flatten().tolist()
    assert largest == ([127] * 6 if per_channel else [21, 42, 64, 85, 106, 127])


def test_a_channel_of_zeros_gives_its_bias() -> None:
    layer = conv(3, 3)
    with torch.no_grad():
        layer.weight[:2].zero_()
        layer.bias.copy_(torch.tensor([0.0, 3.0, 1.0]))  # type: ignore[union-attr]  # the layer has a bias
    fake = fake_quantized(layer, IMAGE, random=False)
    result = converted(fake)
    assert torch.equal(result(IMAGE)[:, :2], fake(IMAGE)[:, :2])
    assert not result(IMAGE)[:, 0].any()
    assert (result(IMAGE)[:, 1] - 3.0).abs().max() <= output_grid(fake).scale / 2 + 1e-6


def test_a_bias_far_larger_than_the_weights_is_kept() -> None:
    layer = nn.Linear(8, 2)
    with torch.no_grad():
        layer.weight.fill_(1e-9)
        layer.bias.copy_(torch.tensor([1e6, -1e6]))
    fake = fake_quantized(layer, IMAGE, random=False)
    result = converted(fake)
    assert steps_apart(fake, result, IMAGE) <= 1.0 + 1e-5
    assert 2**29 < int(result.get_buffer("linear.bias").abs().max()) <= 2**30


# --- borders between integer and float ------------------------------------------------------------


def test_float_islands_get_dequantize_and_quantize() -> None:
    model = Parts(lambda net, x: net.b(net.a(x).softmax(1)), a=conv(), b=conv())
    fake = fake_quantized(model, IMAGE)
    assert targets(integer(fake)) == [
        qpc_ops.quantize.default,
        qpc_ops.conv2d.default,
        qpc_ops.dequantize.default,
        aten.softmax.int,
        qpc_ops.quantize.default,
        qpc_ops.conv2d.default,
        qpc_ops.dequantize.default,
    ]
    # a step of the first grid is up to 1 % of a probability, so a few steps of the output
    assert steps_apart(fake, integer(fake), IMAGE) <= 5.0


class ConcatOfInputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = conv()

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return torch.cat([self.a(x), y], 1)


def test_an_input_that_only_a_concat_reads_is_quantized_to_its_grid() -> None:
    fake = fake_quantized(ConcatOfInputs(), IMAGE, 2 * IMAGE)
    result = converted(fake)
    second = nodes_of(result, qpc_ops.quantize.default)[1]
    assert info(second).qparams == output_grid(fake)
    assert steps_apart(fake, result, IMAGE, 2 * IMAGE) <= 1.0 + 1e-5


def test_float_readers_of_an_input_see_it_as_it_is() -> None:
    model = Parts(lambda net, x: (net.a(x), x, x.softmax(1)), a=conv())
    result = converted(fake_quantized(model, IMAGE))
    _, same, soft = result(IMAGE)
    assert torch.equal(same, IMAGE)
    assert torch.equal(soft, IMAGE.softmax(1))


def test_a_value_is_quantized_and_dequantized_once() -> None:
    model = Parts(
        lambda net, x: (net.a(x), net.b(x), (y := net.a(x)).softmax(1), y.softmax(2), y),
        a=conv(),
        b=conv(),
    )
    result = converted(fake_quantized(model, IMAGE))
    assert len(nodes_of(result, qpc_ops.quantize.default)) == 1
    assert len(nodes_of(result, qpc_ops.dequantize.default)) == 3


def test_outputs_and_their_structure_stay_real() -> None:
    model = Parts(lambda net, x: {"a": (y := net.a(x)), "b": [torch.relu(y), x]}, a=conv())
    result = integer(fake_quantized(model, IMAGE))(IMAGE)
    assert {result["a"].dtype, result["b"][0].dtype} == {torch.float32}
    assert torch.equal(result["b"][1], IMAGE) or result["b"][1].dtype == torch.float32


def test_layers_keep_their_parameter_names() -> None:
    model = nn.Sequential(conv(), nn.Sequential(conv(), nn.Sigmoid()))
    result = converted(fake_quantized(model, IMAGE))
    assert set(result.state_dict()) == {
        *(f"{layer}.{leaf}" for layer in ("0", "1.0") for leaf in ("weight", "bias", "multiplier")),
        "tables.sigmoid",
    }


def test_a_layer_that_two_calls_share_has_integers_for_each() -> None:
    fake = fake_quantized(Parts(lambda net, x: net.a(net.a(x)), a=conv()), IMAGE)
    result = converted(fake)
    names = [str(n.args[1].target) for n in nodes_of(result, qpc_ops.conv2d.default)]  # type: ignore[union-attr]  # an argument that is a node
    assert len(set(names)) == 2
    assert steps_apart(fake, result, IMAGE) <= 3.0  # two layers, each off by one at most


def test_integer_nodes_know_module_line_grid_and_value() -> None:
    fake = fake_quantized(nn.Sequential(conv(), nn.ReLU()), IMAGE)
    node = only(converted(fake), qpc_ops.conv2d.default)
    about = info(node)
    assert about.module_path == "0"
    assert about.origin == "convert-to-integer"
    assert about.qparams == output_grid(fake)
    assert about.value == "conv2d"
    assert node.stack_trace


# --- reports and errors ---------------------------------------------------------------------------


class Deep(nn.Module):
    """A transposed convolution over three axes, which has no integer form."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.ConvTranspose3d(3, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x.unsqueeze(2)).squeeze(2)  # type: ignore[no-any-return]  # what modules return is Any


def test_reports_which_layers_stay_in_float() -> None:
    config = min_max(overrides=(Override(module="2", use="float"),))
    model = nn.Sequential(conv(), Deep(), conv(), conv())
    ctx = PassContext()
    converted(fake_quantized(model, IMAGE, config=config), ctx)
    assert ctx.reports[0].summary == (
        "2 of 4 convolution and linear layers quantized, "
        "the others stay in float "
        "(1.layer (conv_transpose3d): conv_transpose3d has no integer form yet; "
        "2 (conv2d_1): kept in float by the configuration)"
    )


def test_reports_a_recurrent_layer_that_stays_in_float() -> None:
    ctx = PassContext()
    converted(fake_quantized(Recurrent(), torch.randn(2, 5, 8)), ctx)
    assert ctx.reports[0].summary == (
        "1 of 2 layers with weights quantized, "
        "the others stay in float (rnn (lstm): lstm has no integer form)"
    )


def test_reports_that_all_layers_are_quantized() -> None:
    ctx = PassContext()
    converted(fake_quantized(conv(), IMAGE), ctx)
    assert ctx.reports[0].summary == "1 of 1 convolution and linear layers quantized"


class Wide(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.wide = nn.Linear(70_000, 1, bias=False)
        nn.init.constant_(self.wide.weight, 0.5)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.wide(x))


def test_an_accumulator_that_may_overflow_is_an_error_with_the_users_line() -> None:
    fake = fake_quantized(Wide(), torch.rand(2, 70_000), random=False)
    with pytest.raises(OverflowProofError) as caught:
        converted(fake)
    worst = 70_000 * 127 * 255
    assert caught.value.what == (
        f"the accumulator of wide (linear) can reach {worst}, which does not fit 32 bits"
    )
    text = caught.value.full_text
    assert "\n  at node: %linear : " in text
    line = inspect.getsourcelines(Wide.forward)[1] + 1
    assert f'\n  written: File "{__file__}", line {line}, in forward\n' in text
    assert text.endswith(
        "\n  fix: keep the layer in float: Override(module='wide', use='float'), "
        "or use fewer weight bits\n  in pass: ConvertToInteger()"
    )


def test_fewer_weight_bits_make_the_accumulator_fit() -> None:
    layer = nn.Linear(70_000, 1, bias=False)
    with torch.no_grad():
        layer.weight.fill_(0.5)
    fake = fake_quantized(layer, torch.rand(2, 70_000), config=min_max(weight_bits=7), random=False)
    assert steps_apart(fake, converted(fake), torch.rand(2, 70_000)) <= 1.0 + 1e-5


def test_a_bias_that_does_not_fit_is_an_error_with_the_users_line() -> None:
    fake = fake_quantized(nn.Linear(4, 2), torch.rand(2, 4))
    with torch.no_grad():
        fake.get_parameter("bias").fill_(1e30)
    with pytest.raises(OverflowProofError) as caught:
        converted(fake)
    assert caught.value.what.startswith("the bias of channel 0 becomes ")
    assert caught.value.what.endswith(", outside int32")
    assert caught.value.fix == "keep the layer in float: Override(module='linear', use='float')"
    assert "at node: %linear" in caught.value.full_text


def test_an_operator_without_an_integer_form_is_an_error() -> None:
    gm = fake_quantized(nn.Sequential(conv(), nn.Softmax(1)), IMAGE)
    update_info(only(gm, aten.softmax.int), integer=True)
    with pytest.raises(UnsupportedOpError) as caught:
        ConvertToInteger().apply(gm, PassContext())
    assert caught.value.what == "no integer form for softmax"
    assert caught.value.fix == "keep it in float: Override(op='softmax', use='float')"


def test_a_float_graph_is_left_alone() -> None:
    gm = traced(nn.Softmax(1), IMAGE)
    ctx = PassContext()
    assert not ConvertToInteger().apply(gm, ctx)
    assert FAKE_QUANTIZED.check(gm) is None
    result = Pipeline((ConvertToInteger(),), ConvertToInteger.requires).run(gm)
    assert torch.equal(result(IMAGE), IMAGE.softmax(1))


class ScaledConcat(nn.Module):
    """A batch norm that cannot be folded; its input is the one of the model, rounded."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(6)
        with torch.no_grad():
            self.norm.weight.copy_(torch.tensor([0.0, 0.0, 1.0, -3.0, 1e-3, 5.0]))
            self.norm.bias.copy_(torch.tensor([0.0, 2.0, 0.5, -1.0, 1.0, 0.0]))

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.norm(torch.cat([self.conv(x), x], 1))
        return result


@pytest.mark.parametrize("config", [min_max(), min_max(weight_bits=2, per_channel=False)])
def test_a_batch_norm_of_its_own_scales_exactly_whatever_the_bits_of_weights(
    config: QuantConfig,
) -> None:
    model = ScaledConcat().eval()
    fake = fake_quantized(model, IMAGE, config=config, random=False)
    result = converted(fake)
    weight = result.get_buffer("norm.weight").flatten().tolist()
    assert weight == [0, 0, 127, -127, 127, 127]
    (cat,), norm = nodes_of(result, aten.cat.default), nodes_of(result, qpc_ops.conv2d.default)[-1]
    values = Interpreter(result, garbage_collect_values=False)
    values.run(IMAGE)
    source, made = info(cat).qparams, info(norm).qparams
    assert source is not None
    assert made is not None
    exact = model.norm(source.dequantize(values.env[cat]))
    assert (exact - made.dequantize(values.env[norm])).abs().max() <= 0.51 * made.scale


def test_a_batch_norm_that_is_still_to_be_folded_is_refused() -> None:
    x = torch.randn(2, 3, 4, 4)
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    gm = prepare_qat(traced(model, x), [x], learn=None, batch_norm="simulated")
    with pytest.raises(PassError, match=r"the batch norm behind 0 \(conv2d\) is not folded yet"):
        converted(gm)
