"""Linear layers with integer weights and float values, against a second definition in numpy."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx import GraphModule

import qpc
from qpc.analysis.exactness import exactness
from qpc.analysis.integer_proofs import check_integers
from qpc.calls import qpc_ops
from qpc.channels.cost import cost
from qpc.channels.groups import analyze_channels
from qpc.errors import BackendError, OverflowProofError, PassError, QPCError
from qpc.meta import attribute
from qpc.ops.stored_linear import require_row_sums
from qpc.quant.config import LayerConfig, Mode, Override, QuantConfig, WeightConfig
from qpc.quant.stored_weights import pack
from qpc.shapes import concrete_shapes
from tests.forging import forge

Array = npt.NDArray[Any]

RANDOM = np.random.default_rng(0)
X = torch.randn(4, 3, 40, generator=torch.Generator().manual_seed(1))


def stored(mode: Mode, *, bits: int = 8, group: Literal[32] | None = None) -> GraphModule:
    weight = WeightConfig(bits=bits, group=group)
    config = QuantConfig(default=LayerConfig(mode=mode, weight=weight))
    return qpc.quantize(qpc.trace(nn.Linear(40, 6), X), config=config)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("inputs", [7, 8, 70])
def test_a_weight_only_layer_multiplies_by_what_its_integers_stand_for(
    packed: bool, inputs: int
) -> None:
    weight = RANDOM.integers(-8, 8, (5, inputs)).astype(np.int8)
    scale = RANDOM.uniform(0.1, 1, (5, -(-inputs // 32))).astype(np.float32)
    x = RANDOM.normal(size=(2, inputs)).astype(np.float32)
    bias = RANDOM.normal(size=5).astype(np.float32)
    expected = [
        [
            sum(
                float(x[r, k]) * int(weight[o, k]) * float(scale[o, k // 32]) for k in range(inputs)
            )
            + float(bias[o])
            for o in range(5)
        ]
        for r in range(2)
    ]
    integers = torch.from_numpy(weight)
    operands = pack(integers) if packed else integers, torch.from_numpy(scale)
    found = qpc_ops.weight_only_linear(torch.from_numpy(x), *operands, torch.from_numpy(bias), 32)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-4)


def exact_row(x: Array, weight: Array, scale: Array, bias: Array | None) -> Array:
    """The definition for one row, in numpy, with Python's integers."""
    greatest, least = max(x.max(), np.float32(0)), min(x.min(), np.float32(0))
    step = np.float32(greatest / np.float32(255)) - np.float32(least / np.float32(255))
    step = max(step, np.float32(2.0**-126))
    inverse = np.float32(1) / step
    zero = int(np.rint(min(max(-least * inverse, 0), 255)))
    points = [int(np.rint(min(max(v * inverse, -zero), 255 - zero))) for v in x]
    sums = [sum(p * int(w) for p, w in zip(points, row, strict=True)) for row in weight]
    result = np.array(sums).astype(np.float32) * scale * step
    found: Array = result if bias is None else result + bias
    return found


@pytest.mark.parametrize("size", [1e-40, 1e-3, 1.0, 1e30])
@pytest.mark.parametrize("with_bias", [False, True])
def test_a_dynamic_layer_is_exact(size: float, with_bias: bool) -> None:
    x = (RANDOM.normal(size=(6, 9)) * size).astype(np.float32)
    x[0], x[1] = 0, abs(x[1])
    weight = RANDOM.integers(-127, 128, (5, 9)).astype(np.int8)
    scale = RANDOM.uniform(0.001, 1, 5).astype(np.float32)
    bias = RANDOM.normal(size=5).astype(np.float32) if with_bias else None
    operands = [None if a is None else torch.from_numpy(a) for a in (x, weight, scale, bias)]
    expected = np.stack([exact_row(row, weight, scale, bias) for row in x])
    assert torch.equal(qpc_ops.dynamic_linear(*operands), torch.from_numpy(expected))


@pytest.mark.parametrize("strange", [float("nan"), float("inf"), float("-inf")])
def test_a_row_with_a_strange_value_gives_nan_and_no_other_row_does(strange: float) -> None:
    gm = stored("dynamic")
    x = X.clone()
    x[1, 2, 3] = strange
    with torch.no_grad():
        found, usual = gm(x), gm(X)
    assert found[1, 2].isnan().all()
    found[1, 2] = usual[1, 2]
    assert torch.equal(found, usual)


@pytest.mark.parametrize("mode", ["dynamic", "weight-only"])
def test_a_row_of_zeros_gives_the_bias_and_no_rows_give_none(mode: Mode) -> None:
    gm = stored(mode)
    assert torch.equal(gm(torch.zeros(1, 3, 40)), attribute(gm, "bias").expand(1, 3, 6))
    assert gm(torch.zeros(0, 3, 40)).shape == (0, 3, 6)


def test_the_shape_is_known_without_data() -> None:
    with FakeTensorMode():
        x, bias = torch.empty(4, 3, 40), torch.empty(6)
        integers, scale = torch.empty(6, 40, dtype=torch.int8), torch.empty(6, 2)
        found = qpc_ops.weight_only_linear(x, integers, scale, bias, 32)
        assert (found.shape, found.dtype) == ((4, 3, 6), torch.float32)
        assert qpc_ops.dynamic_linear(x, integers, scale[:, 0], None).shape == (4, 3, 6)


W8, S1 = torch.ones(6, 40, dtype=torch.int8), torch.ones(6)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(PassError, match=r"40 inputs in groups of 32 do not have scales \[6, 1\]"):
        qpc_ops.weight_only_linear(X, W8, S1[:, None], None, 32)
    with pytest.raises(PassError, match=r"40 inputs in groups of 0 do not have scales"):
        qpc_ops.weight_only_linear(X, W8, S1[:, None], None, 0)
    with pytest.raises(PassError, match=r"the layer takes float32\[..., in\], got torch.float64"):
        qpc_ops.dynamic_linear(X.double(), W8, S1, None)
    with pytest.raises(PassError, match=r"dynamic ranges has int8\[out, in\] and float32\[out\]"):
        qpc_ops.dynamic_linear(X, W8, S1[:, None], None)


@pytest.mark.parametrize("mode", ["dynamic", "weight-only"])
@pytest.mark.parametrize("rows", [(), (4, 3)])
def test_gradients_are_those_of_a_layer_with_the_rounded_weights(
    mode: Mode, rows: tuple[int, ...]
) -> None:
    gm = stored(mode)
    x = torch.randn(*rows, 40, requires_grad=True)
    integers, scale = attribute(gm, "linear.weight"), attribute(gm, "linear.scale")
    bias = attribute(gm, "bias").detach().requires_grad_()
    given = (integers, scale, bias)
    upstream = torch.randn(*rows, 6)
    if mode == "dynamic":
        found = torch.autograd.grad(qpc_ops.dynamic_linear(x, *given), [x, bias], upstream)
    else:
        found = torch.autograd.grad(qpc_ops.weight_only_linear(x, *given, 40), [x, bias], upstream)
    weight = integers.float() * scale.reshape(6, 1)
    real = torch.nn.functional.linear(x, weight, bias)
    wanted = torch.autograd.grad(real, [x, bias], upstream)
    torch.testing.assert_close(found, wanted)


# --- what is known of them ------------------------------------------------------------------------


@pytest.mark.parametrize(("mode", "exact"), [("dynamic", True), ("weight-only", False)])
def test_only_dynamic_layers_have_the_same_bits_everywhere(mode: Mode, exact: bool) -> None:
    assert [found.exact for found in exactness(stored(mode))] == [exact]


@pytest.mark.parametrize("mode", ["dynamic", "weight-only"])
def test_multiply_accumulates_are_those_of_the_float_layer(mode: Mode) -> None:
    assert cost(stored(mode)).macs == cost(qpc.trace(nn.Linear(40, 6), X)).macs == 3 * 40 * 6


@pytest.mark.parametrize("mode", ["dynamic", "weight-only"])
def test_nothing_is_pruned_that_such_a_layer_reads(mode: Mode) -> None:
    model = nn.Sequential(nn.Linear(40, 8), nn.Linear(8, 4))
    config = QuantConfig(overrides=(Override(module="1", use=LayerConfig(mode=mode)),))
    gm = qpc.Pipeline((qpc.passes.QuantizeWeights(config),)).run(qpc.trace(model, X))
    assert "prune before quantizing" in str(analyze_channels(gm))


def _check(gm: GraphModule) -> None:
    check_integers(gm, concrete_shapes(gm, 1))


def test_sums_that_might_not_fit_are_refused() -> None:
    weight = torch.full((2, 66_312), 127, dtype=torch.int8)
    require_row_sums(weight[:, 1:])
    with pytest.raises(OverflowProofError, match="its accumulator can reach 2147514120"):
        require_row_sums(weight)


@pytest.mark.parametrize("mode", ["dynamic", "weight-only"])
def test_scales_that_are_no_numbers_are_refused(mode: Mode) -> None:
    gm = stored(mode)
    attribute(gm, "linear.scale")[0] = float("nan")
    with pytest.raises(BackendError, match="a scale of its weights is negative, NaN or above"):
        _check(gm)


@pytest.mark.parametrize("bits", [4, 8])
def test_it_is_saved_and_loaded(tmp_path: Path, bits: int) -> None:
    gm = stored("weight-only", bits=bits, group=32)
    qpc.save_graph(gm, tmp_path / "graph")
    loaded = qpc.load_graph(tmp_path / "graph")
    assert qpc.fingerprint(loaded) == qpc.fingerprint(gm)
    assert torch.equal(loaded(X), gm(X))


def test_a_forged_group_is_refused(tmp_path: Path) -> None:
    def edit(document: dict[str, Any]) -> None:
        for node in document["nodes"]:
            if "weight_only" in str(node.get("target")):
                node["args"][-1] = 7

    qpc.save_graph(stored("weight-only", group=32), tmp_path / "graph")
    forge(tmp_path / "graph" / "graph.json", edit)
    with pytest.raises(QPCError, match="in groups of 7"):
        qpc.load_graph(tmp_path / "graph")
