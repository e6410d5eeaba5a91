"""Operators that run in float: every rule is compared with PyTorch."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.fx import Node
from torch.nn import functional as F

from qpc.calls import aten
from qpc.capture.trace import trace
from qpc.errors import BackendError, UnsupportedOpError
from tests.generators import IntegerGraph, random_inputs
from tests.small_models import Call

tvm_backend = pytest.importorskip("qpc.backends.tvm", reason="Apache TVM is not installed")
rules = pytest.importorskip("qpc.backends.tvm.lowering.rules", reason="Apache TVM is not installed")
pytestmark = pytest.mark.tvm

IMAGE, T, V, M, P = "image", "tokens", "row", "mask", "positive"
"""Inputs of the test graphs, by name: see `_graph`."""

C = {
    "conv": (8, 3, 3, 3),
    "conv_t": (6, 4, 3, 3),
    "conv1": (5, 7, 3),
    "conv1_t": (7, 5, 3),
    "conv3": (3, 6, 2, 2, 2),
    "matrix": (16, 5),
    "weight": (5, 16),
    "conv3_t": (1, 6, 2, 2, 2),
    "seven": (7, 7),
    "bias5": (5,),
    "bias6": (6,),
    "bias8": (8,),
    "bias16": (16,),
    "slope": (6,),
}
"""Constant tensors of the test graphs, by name and shape."""

UNARY = [
    "abs",
    "ceil",
    "cos",
    "elu",
    "erf",
    "exp",
    "expm1",
    "floor",
    "gelu",
    "hardsigmoid",
    "hardswish",
    "hardtanh",
    "leaky_relu",
    "neg",
    "relu",
    "relu6",
    "round",
    "sigmoid",
    "sign",
    "silu",
    "sin",
    "softplus",
    "square",
    "tan",
    "tanh",
    "trunc",
    "clone",
    "zeros_like",
    "ones_like",
]
COMPARISONS = ("eq", "ne", "lt", "le", "gt", "ge")

CASES: dict[str, list[tuple[Any, ...]]] = {
    "pointwise functions": [
        *((getattr(aten, name).default, IMAGE) for name in UNARY),
        *(
            (getattr(aten, name).default, P)
            for name in ["log", "log1p", "reciprocal", "rsqrt", "sqrt"]
        ),
        (aten.gelu.default, IMAGE, {"approximate": "tanh"}),
        (aten.elu.default, IMAGE, 0.7),
        (aten.leaky_relu.default, IMAGE, 0.3),
        (aten.hardtanh.default, IMAGE, -0.5, 0.25),
        (aten.softplus.default, IMAGE, 2.0, 5.0),
        (aten.elu.default, IMAGE, 1.7, 1.05, 0.5),
        (aten.isnan.default, ("sqrt", IMAGE)),
        (aten.remainder.Scalar, IMAGE, 0.7),
        (aten.remainder.Scalar, IMAGE, -0.7),
        (aten.div.Tensor_mode, IMAGE, P, {"rounding_mode": "floor"}),
        (aten.div.Tensor_mode, IMAGE, P, {"rounding_mode": "trunc"}),
        (aten.clamp.Tensor, IMAGE, ("neg", P), P),
        (aten.clamp.Tensor, IMAGE, None, P),
        (aten.pow.Tensor_Scalar, IMAGE, 3),
        (aten.pow.Tensor_Scalar, IMAGE, 4),
        (aten.pow.Scalar, 2.0, IMAGE),
        (aten.where.ScalarOther, M, IMAGE, -1.0),
        (aten.where.ScalarSelf, M, 2.0, IMAGE),
        (aten.clamp.default, IMAGE, -0.5, 0.25),
        (aten.clamp.default, IMAGE, None, 0.25),
        (aten.clamp_min.default, IMAGE, -0.5),
        (aten.clamp_max.default, IMAGE, 0.5),
        (aten.pow.Tensor_Scalar, P, 2),
        (aten.pow.Tensor_Scalar, P, 0.5),
        (aten.prelu.default, IMAGE, "slope"),
        (aten._to_copy.default, IMAGE, {"dtype": torch.int64}),
        (aten.full_like.default, IMAGE, 2.5),
        (aten.bitwise_not.default, M),
        (aten.logical_not.default, M),
        (aten.masked_fill.Scalar, IMAGE, M, -1.5),
        (aten.where.self, M, IMAGE, P),
    ],
    "two operands": [
        *((getattr(aten, name).Tensor, IMAGE, P) for name in ("add", "sub", "mul", "div")),
        *((getattr(aten, name).Scalar, IMAGE, 1.5) for name in ("add", "sub", "mul", "div")),
        *((getattr(aten, name).Tensor, IMAGE, P) for name in COMPARISONS),
        *((getattr(aten, name).Scalar, IMAGE, 0.25) for name in COMPARISONS),
        (aten.rsub.Scalar, IMAGE, 1.5),
        (aten.add.Tensor, IMAGE, 2),
        (aten.maximum.default, IMAGE, P),
        (aten.minimum.default, IMAGE, P),
        (aten.pow.Tensor_Tensor, P, IMAGE),
        (aten.bitwise_and.Tensor, M, M),
        (aten.bitwise_or.Tensor, M, M),
        (aten.logical_and.default, M, M),
        (aten.logical_or.default, M, M),
    ],
    "layers": [
        (aten.conv1d.default, T, "conv1", "bias5", [2], [1]),
        (aten.conv2d.default, IMAGE, "conv", "bias8", [2, 1], [1, 0], [1, 2], 2),
        (aten.conv2d.default, IMAGE, "conv", None, [1, 1], [0, 0], [1, 1], 2),
        (aten.conv3d.default, ("unsqueeze", IMAGE, 2), "conv3", None, [1, 1, 1], [1, 0, 0]),
        (aten.conv_transpose1d.default, T, "conv1_t", "bias5", [2], [1], [1]),
        (aten.conv_transpose2d.input, IMAGE, "conv_t", None, [2, 2], [1, 1], [1, 1]),
        (
            aten.convolution.default,
            IMAGE,
            "conv",
            "bias8",
            [1, 1],
            [1, 1],
            [1, 1],
            False,
            [0, 0],
            2,
        ),
        (aten.linear.default, T, "weight", "bias5"),
        (aten.linear.default, T, "weight"),
        (aten.matmul.default, T, "matrix"),
        (aten.mm.default, V, "matrix"),
        (aten.addmm.default, "bias5", V, "matrix"),
        (aten.bmm.default, T, ("transpose", T)),
        (aten.baddbmm.default, ("bmm", T), T, ("transpose", T)),
        (aten.baddbmm.default, ("bmm", T), T, ("transpose", T), {"beta": 0.5, "alpha": 2}),
        (aten.addmm.default, "bias5", V, "matrix", {"beta": 0.5, "alpha": 2}),
        (aten.layer_norm.default, T, [7, 16]),
        (aten.group_norm.default, IMAGE, 2),
        (aten.softmax.int, T, 1, torch.float64),
        (aten.conv_transpose3d.input, ("unsqueeze", IMAGE, 1), "conv3_t", "bias6", [1, 2, 2]),
        (aten.avg_pool2d.default, IMAGE, [3, 3], [2, 2], [1, 1], False, True, 5),
        (aten.avg_pool3d.default, ("unsqueeze", IMAGE, 1), [2, 3, 3], [1, 2, 2], [1, 1, 1]),
        (
            aten.avg_pool3d.default,
            *(("unsqueeze", IMAGE, 1), [2, 3, 3], [2, 2, 2], [1, 1, 1], True, False),
        ),
        (
            aten.max_pool3d.default,
            *(("unsqueeze", IMAGE, 1), [2, 3, 2], [1, 2, 1], [1, 1, 1], [1, 1, 2], True),
        ),
        (aten.layer_norm.default, T, [16], "bias16", "bias16"),
        (aten.group_norm.default, IMAGE, 3, "bias6", "bias6", 0.01),
        (aten.softmax.int, T, 1),
        (aten._softmax.default, T, -1, False),
        (aten.log_softmax.int, T, -1),
        (aten._log_softmax.default, T, 1, False),
        (aten.max_pool1d.default, T, [3], [2], [1]),
        (aten.max_pool2d.default, IMAGE, [3, 2], [2, 1], [1, 0]),
        (aten.max_pool2d.default, IMAGE, [2, 2], [2, 2], [0, 0], [1, 1], True),
        (aten.avg_pool1d.default, T, [3], [2], [1]),
        (aten.avg_pool2d.default, IMAGE, [3, 3], [2, 2], [1, 1]),
        (aten.avg_pool2d.default, IMAGE, [3, 3], [2, 2], [1, 1], False, False),
        (aten._adaptive_avg_pool2d.default, IMAGE, [2, 4]),
    ],
    "attention and resizing": [
        (aten.scaled_dot_product_attention.default, *(("heads", T),) * 3),
        (aten.scaled_dot_product_attention.default, *(("heads", T),) * 3, None, 0.0, True),
        (aten.scaled_dot_product_attention.default, *(T,) * 3, None, 0.0, False, {"scale": 0.3}),
        (aten.scaled_dot_product_attention.default, *(T,) * 3, "seven"),
        (aten.scaled_dot_product_attention.default, *(T,) * 3, "lower"),
        (
            aten.scaled_dot_product_attention.default,
            *(("heads first", T), ("one head", T), ("one head", T), None, 0.0, False),
            {"enable_gqa": True},
        ),
        (aten.upsample_nearest2d.vec, IMAGE, [13, 18], None),
        (aten.upsample_bilinear2d.vec, IMAGE, [13, 18], False, None),
        (aten.upsample_bilinear2d.vec, IMAGE, [13, 18], True, None),
        (aten.upsample_nearest2d.default, IMAGE, [13, 18], None, None),
        (aten.upsample_nearest2d.default, IMAGE, [17, 20], 1.9, 2.3),
        (aten._upsample_nearest_exact2d.default, IMAGE, [13, 18], None, None),
        (aten.upsample_bilinear2d.default, IMAGE, [13, 18], True, None, None),
        (aten.upsample_bilinear2d.default, IMAGE, [17, 20], False, 1.9, 2.3),
    ],
    "reductions": [
        (aten.mean.dim, IMAGE, [2, 3], True),
        (aten.sum.dim_IntList, IMAGE, [1]),
        (aten.var.correction, IMAGE, [1], {"correction": 1}),
        (aten.amax.default, IMAGE, [2, 3]),
        (aten.amin.default, IMAGE, [1], True),
        (aten.argmax.default, IMAGE, 1),
        (aten.argmin.default, IMAGE, 1),
        (aten.any.dim, M, 1),
        (aten.cumsum.default, IMAGE, 1),
        (operator.getitem, ("max", IMAGE), 0),
        (operator.getitem, ("topk", V), 0),
        (operator.getitem, ("topk", V), 1),
    ],
    "movement": [
        (aten.reshape.default, IMAGE, [-1, 54, 9]),
        (aten.view.default, IMAGE, [-1, 6, 81]),
        (aten.permute.default, IMAGE, [0, 2, 3, 1]),
        (aten.cat.default, [IMAGE, P], 1),
        (aten.stack.default, [IMAGE, P], 2),
        (aten.slice.Tensor, IMAGE, 1, 1, 6, 2),
        (aten.select.int, IMAGE, 1, -2),
        (aten.expand.default, ("unsqueeze", IMAGE, 1), [-1, 4, -1, -1, -1]),
        (aten.repeat.default, IMAGE, [1, 2, 1, 1]),
        (aten.flip.default, IMAGE, [1, 3]),
        (aten.roll.default, IMAGE, [1, -2], [2, 3]),
        (aten.constant_pad_nd.default, IMAGE, [1, 2, 0, 1], 1.5),
        (aten.unsqueeze.default, IMAGE, 1),
        (aten.squeeze.dim, ("unsqueeze", IMAGE, 1), 1),
        (aten.squeeze.dims, ("unsqueeze", IMAGE, 1), [1]),
        (operator.getitem, ("split", IMAGE), 1),
        (aten.tril.default, IMAGE),
        (aten.triu.default, IMAGE, 1),
        (aten.embedding.default, "weight", "indices"),
        (aten.index.Tensor, IMAGE, [None, "channels"]),
        (aten.index.Tensor, IMAGE, [None, "channels", "channels"]),
        (aten.gather.default, IMAGE, 1, "everywhere"),
        (aten.index_select.default, IMAGE, 1, "rows"),
        (aten.slice_scatter.default, IMAGE, ("head", P, 2), 1, 2, 4),
        (aten.slice_scatter.default, IMAGE, ("head", P, 2), 1, -2),
        (aten.slice_scatter.default, IMAGE, ("head", P, 2), 1, 1, 4, 2),
        (aten.copy.default, IMAGE, ("head", P, 1)),
    ],
}
HELPERS: dict[str, Callable[..., Node]] = {
    "unsqueeze": lambda g, x, dim: g.call(aten.unsqueeze.default, x, dim),
    "transpose": lambda g, x: g.call(aten.permute.default, x, [0, 2, 1]),
    "bmm": lambda g, x: g.call(aten.bmm.default, x, g.call(aten.permute.default, x, [0, 2, 1])),
    "heads": lambda g, x: g.call(aten.reshape.default, x, [-1, 7, 2, 8]),
    "max": lambda g, x: g.call(aten.max.dim, x, 1),
    "topk": lambda g, x: g.call(aten.topk.default, x, 3, 1),
    "sqrt": lambda g, x: g.call(aten.sqrt.default, x),
    "neg": lambda g, x: g.call(aten.neg.default, x),
    "head": lambda g, x, stop: g.call(aten.slice.Tensor, x, 1, 0, stop),
    "heads first": lambda g, x: g.call(
        aten.permute.default, g.call(aten.reshape.default, x, [-1, 7, 2, 8]), [0, 2, 1, 3]
    ),
    "one head": lambda g, x: g.call(
        aten.reshape.default, g.call(aten.slice.Tensor, x, 2, 0, 8), [-1, 1, 7, 8]
    ),
    "split": lambda g, x: g.call(aten.split_with_sizes.default, x, [2, 4], 1),
}


def _graph(calls: list[tuple[Any, ...]]) -> tuple[Any, list[str]]:
    """A graph that returns what every call returns; names stand for inputs and constants."""
    g = IntegerGraph()
    inputs = {IMAGE: g.input(6, 9, 9), T: g.input(7, 16), V: g.input(16)}
    inputs[P] = g.call(aten.add.Tensor, g.call(aten.abs.default, inputs[IMAGE]), 0.25)
    inputs[M] = g.call(aten.gt.Scalar, inputs[IMAGE], 0.0)
    random = torch.Generator().manual_seed(1)
    tensors = {name: torch.rand(shape, generator=random) - 0.3 for name, shape in C.items()}
    tensors |= {
        "indices": torch.tensor([[0, 4, 2]]),
        "channels": torch.tensor([3, -1, 0]),
        "rows": torch.tensor([3, 5, 0]),
        "lower": torch.ones(7, 7).tril().bool(),
        "everywhere": torch.randint(0, 6, (1, 3, 9, 9), generator=random),
    }
    constants: dict[str, Node] = {}

    def resolve(value: Any) -> Any:
        if isinstance(value, str) and value in inputs:
            return inputs[value]
        if isinstance(value, str) and value in tensors:
            if value not in constants:
                constants[value] = g.constant(tensors[value])
            return constants[value]
        if isinstance(value, tuple):
            return HELPERS[value[0]](g, *map(resolve, value[1:]))
        return [resolve(v) for v in value] if isinstance(value, list) else value

    outputs, names = [], []
    for target, *args in calls:
        kwargs = args.pop() if isinstance(args[-1], dict) else {}
        outputs.append(g.call(target, *map(resolve, args), **kwargs))
        names.append(f"{target} {args} {kwargs}")
    return g.module(*outputs), names


NOT_LIKE_NUMBERS = (
    "scaled_dot_product_attention",  # PyTorch's own kernel gives 0.0 for a row with NaN
    "('topk', 'row'), 1",  # of several NaN it may take any
    "aten.gelu",  # PyTorch's vectors make NaN of infinity, its single values infinity
    "upsample_bilinear2d",  # a neighbour of weight 0 counts, or does not: 0 * inf is NaN
)
"""Operators that need not treat NaN and infinity as PyTorch does."""


@pytest.mark.every(12)
@pytest.mark.parametrize("target", ["native", pytest.param("x86-64", marks=pytest.mark.slow)])
@pytest.mark.parametrize("family", CASES)
def test_float_operators_agree_with_pytorch(family: str, target: str) -> None:
    """With NaN and infinities among the inputs, too."""
    gm, names = _graph(CASES[family])
    compiled = tvm_backend.compile_graph(gm, target, batch_sizes=(2,))
    for strange in ((), (torch.nan,), (torch.inf, -torch.inf)):
        inputs = random_inputs(gm, batch=2, scale_extremes=False)
        for x in inputs:
            for value in strange:
                x[torch.rand(x.shape) < 0.08] = value
        with torch.no_grad():
            expected = gm(*inputs)
        for name, got, wanted in zip(names, compiled(*inputs), expected, strict=True):
            assert got.dtype == wanted.dtype, name
            if strange and any(known in name for known in NOT_LIKE_NUMBERS):
                continue
            close = torch.allclose(got, wanted, rtol=1e-5, atol=1e-5, equal_nan=True)
            assert close, f"{name} of {strange}: off by {(got - wanted).abs().max()}"


def test_a_grid_behind_float_operators_differs_by_a_step_here_and_there() -> None:
    """The bound that `docs/quantization.md` states."""
    g = IntegerGraph()
    x, scale = g.input(64, 64), 0.02
    y = g.call(aten.gelu.default, g.call(aten.layer_norm.default, x, [64]))
    compiled = tvm_backend.compile_graph(gm := g.module(g.quantize(y, scale)), batch_sizes=(16,))
    inputs = random_inputs(gm, batch=16, scale_extremes=False)
    apart = (compiled(*inputs).int() - gm(*inputs).int()).abs()
    assert int(apart.max()) <= 1
    assert float((apart > 0).float().mean()) <= 4e-5 / scale
    (found,) = compiled.report.outputs
    assert not found.exact


def test_every_operator_left_to_the_importer_has_a_case() -> None:
    used = set()
    for calls in CASES.values():
        gm, _ = _graph(calls)
        used |= {n.target for n in gm.graph.nodes if n.op == "call_function"}
    imported = {target for target, rule in rules.FLOATS.items() if rule.importer}
    assert imported - used == set()


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.qkv, self.out = nn.LayerNorm(16), nn.Linear(16, 48), nn.Linear(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        b, t, c = x.shape
        q, k, v = self.qkv(self.norm(x)).reshape(b, t, 3, 4, 4).permute(2, 0, 3, 1, 4).unbind(0)
        weights = (q @ k.transpose(-1, -2) / 2).softmax(-1)
        result: Tensor = x + self.out((weights @ v).transpose(1, 2).reshape(b, t, c))
        return result


class First(nn.Module):
    """A recurrent layer, of whose results the first counts."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layer(x)[0]
        return y


def writes_to_slices(x: Tensor) -> Tensor:
    y = x.clone()
    y[:, :2] += 1
    y[:, :, ::2] = 0
    return y


def samples_a_grid(x: Tensor) -> Tensor:
    grid = torch.linspace(-1, 1, 32).reshape(1, 4, 4, 2).expand(x.shape[0], -1, -1, -1)
    return F.grid_sample(x, grid, align_corners=False)


MODELS: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
    "attention": (Attention(), (2, 7, 16)),
    "plain batch norm": (nn.BatchNorm1d(4, affine=False), (2, 4, 3)),
    "batch norm of rows": (nn.BatchNorm1d(4), (2, 4)),
    "batch norm": (nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, eps=0.5)), (2, 3, 6, 6)),
    "mish, by decomposition": (nn.Mish(), (2, 9)),
    "glu, by decomposition": (nn.GLU(1), (2, 8)),
    "celu, by decomposition": (nn.CELU(0.7), (2, 9)),
    "selu": (nn.SELU(), (2, 9)),
    "lstm": (First(nn.LSTM(4, 3, bidirectional=True, batch_first=True)), (2, 3, 4)),
    "deep lstm": (
        First(nn.LSTM(4, 3, num_layers=2, bidirectional=True, batch_first=True)),
        (2, 5, 4),
    ),
    "gru": (First(nn.GRU(4, 3, batch_first=True)), (2, 5, 4)),
    "rnn": (First(nn.RNN(4, 3, nonlinearity="relu", batch_first=True)), (2, 5, 4)),
    "lstm cell": (First(nn.LSTMCell(4, 3)), (2, 4)),
    "rms norm": (nn.RMSNorm(4), (2, 5, 4)),
    "circular padding": (nn.CircularPad2d(2), (2, 3, 5, 5)),
    "writing to slices": (Call(writes_to_slices), (2, 3, 5, 5)),
    "grid sampling": (Call(samples_a_grid), (2, 3, 5, 5)),
    "three axes": (nn.Sequential(nn.Conv3d(2, 4, 2), nn.MaxPool3d(2)), (2, 2, 5, 5, 5)),
    "affine instance norm": (nn.InstanceNorm2d(3, affine=True), (2, 3, 5, 5)),
    "instance norm": (nn.InstanceNorm2d(3), (2, 3, 5, 5)),
    "pixel shuffle, by decomposition": (nn.PixelShuffle(2), (2, 8, 3, 3)),
    "reflection padding, by decomposition": (nn.ReflectionPad2d(2), (2, 3, 5, 5)),
    "unfold, by decomposition": (nn.Unfold(2), (2, 3, 5, 5)),
    "bicubic, by decomposition": (nn.Upsample(scale_factor=2, mode="bicubic"), (1, 2, 4, 4)),
}


TAKE_LONG = {"deep lstm", "rnn", "bicubic, by decomposition"}
"""Many operators each, which others have too."""


@pytest.mark.every(24)
@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=[pytest.mark.slow] if n in TAKE_LONG else []) for n in MODELS],
)
def test_float_models_compile(name: str) -> None:
    model, shape = MODELS[name]
    model = model.eval()
    for path, buffer in model.named_buffers():
        if path.endswith("running_var"):
            buffer.uniform_(0.5, 2.0)
    x = torch.randn(shape)
    gm = trace(model, x)
    compiled = tvm_backend.compile_graph(gm, batch_sizes=(shape[0],))
    torch.testing.assert_close(compiled(x), model(x), rtol=1e-5, atol=1e-5)
    assert compiled.report.kernels == ()
    reason = compiled.report.others[0].reason
    # There is no integer kernel for several results, either.
    assert reason.startswith(("float32, ", "no integer kernel, "))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_models_of_another_float_type_compile(dtype: torch.dtype) -> None:
    layers = torch.randn(4, 3, 3, 3, dtype=dtype), torch.randn(5, 64, dtype=dtype) / 8
    model = Call(lambda x: F.linear(F.conv2d(x, layers[0]).relu().flatten(1), layers[1]))
    x = torch.randn(2, 3, 6, 6, dtype=dtype)
    compiled = tvm_backend.compile_graph(trace(model, x), batch_sizes=(2,))
    # two halves differ in the order in which sums are rounded: two digits
    tolerance = 1e-12 if dtype is torch.float64 else 2e-2
    torch.testing.assert_close(compiled(x), model(x), rtol=tolerance, atol=tolerance)


def test_bfloat16_is_refused() -> None:
    x = torch.randn(2, 3, dtype=torch.bfloat16)
    gm = trace(nn.ReLU(), x)
    with pytest.raises(BackendError, match="is bfloat16, which compiled models do not") as caught:
        tvm_backend.compile_graph(gm)
    assert caught.value.fix == "trace the model in float32: model.float()"


def test_an_operator_that_nobody_knows_is_an_error_with_its_name_and_a_fix() -> None:
    g = IntegerGraph()
    gm = g.module(g.call(aten.linalg_inv_ex.default, g.input(3, 3)))
    with pytest.raises(
        UnsupportedOpError, match=r"no rule for operator aten.linalg_inv_ex"
    ) as caught:
        tvm_backend.compile_graph(gm)
    assert "at node: %linalg_inv_ex" in caught.value.full_text
    assert "use the reference backend" in caught.value.full_text


def test_an_ignored_argument_is_an_error() -> None:
    g = IntegerGraph()
    x = g.input(3)
    gm = g.module(g.call(aten.add.Tensor, x, x, alpha=2))
    with pytest.raises(
        BackendError, match=r"TVM ignores the argument 'alpha' of aten\.add\.Tensor"
    ):
        tvm_backend.compile_graph(gm)


def test_random_operators_are_refused() -> None:
    g = IntegerGraph()
    x = g.input(3)
    gm = g.module(g.call(aten.add.Tensor, x, g.call(aten.rand_like.default, x)))
    with pytest.raises(UnsupportedOpError, match=r"no rule for operator aten\.rand_like\.default"):
        tvm_backend.compile_graph(gm)


@pytest.mark.parametrize("norm", [nn.LayerNorm(48), nn.GroupNorm(1, 3), nn.InstanceNorm2d(3)])
def test_norms_keep_what_little_varies_around_a_large_mean(norm: nn.Module) -> None:
    x = torch.randn(2, 3, 6, 8) + 1000
    x = x.flatten(2) if isinstance(norm, nn.LayerNorm) else x
    expected = norm.double()(x.double()).float()
    compiled = tvm_backend.compile_graph(trace(norm.float().eval(), x), batch_sizes=(2,))
    # A value near 1000 is known to 6e-5, and so is its distance from the mean in deviations of 1.
    torch.testing.assert_close(compiled(x), expected, rtol=0, atol=1e-3)
