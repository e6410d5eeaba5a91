"""A package outside of QPC adds operators with public names alone, and everything works on them."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node

import qpc
from qpc import registry
from qpc.analysis.exactness import exactness
from qpc.analysis.integer_proofs import check_integers
from qpc.backends import tvm
from qpc.backends.tvm import custom as kernels
from qpc.calls import qpc_ops
from qpc.channels.cost import cost
from qpc.channels.groups import analyze_channels
from qpc.errors import BackendError
from qpc.exporting import onnx
from qpc.exporting.onnx import custom as exports
from qpc.pruning.allocation import Uniform
from qpc.pruning.magnitude import L1
from qpc.registry import op_name
from qpc.shapes import concrete_shapes
from qpc.testing import traced
from qpc.types import dtype_name
from tests.public_names import private_names

PACKAGE = Path(__file__).parent / "data" / "sample_operators"
X = torch.randn(4, 3, 6, 5, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def sample() -> Iterator[ModuleType]:
    """The package, whose operators are known as long as this file's tests run."""
    with pytest.MonkeyPatch.context() as patch:
        registry.registered()
        patch.setattr(registry, "_SPECS", dict(registry._SPECS))
        patch.syspath_prepend(PACKAGE)
        yield importlib.import_module("sample_operators")


class Net(nn.Module):
    def __init__(self, *, computed: bool = False) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        self.a, self.b = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 1)
        self.weight = nn.Parameter(torch.randn(8, generator=generator))
        self.computed = computed

    def forward(self, x: Tensor) -> Tensor:
        made = self.a(x)
        weight = made.mean((0, 2, 3)).exp() if self.computed else self.weight
        scaled = torch.ops.sample.scale(made, weight)
        y: Tensor = self.b(torch.ops.sample.softabs(scaled))
        return y


@pytest.fixture
def graph(sample: ModuleType) -> GraphModule:
    torch.manual_seed(2)
    return traced(Net(), X)


def operators(gm: GraphModule) -> list[str]:
    return [op_name(node) for node in gm.graph.nodes if node.op == "call_function"]


def test_the_package_uses_public_names_alone() -> None:
    assert private_names(PACKAGE) == set()


def test_the_operators_become_integer_and_define_the_result(graph: GraphModule) -> None:
    quantized = qpc.quantize(graph, [X])
    assert operators(quantized) == [*("quantize", "conv2d", "int_scale", "lookup", "conv2d_float")]
    real, got = graph(X).detach(), quantized(X)
    assert float((real - got).abs().max()) < 0.05 * float(real.abs().max())  # 8 bits, four times
    assert [output.exact for output in exactness(quantized)] == [True]
    compiled = qpc.compile(quantized, target="reference", batch_sizes=(4,))
    assert torch.equal(torch.as_tensor(compiled(X)), got)


def test_a_call_that_cannot_be_integer_says_why(sample: ModuleType) -> None:
    ctx = qpc.PassContext()
    qpc.quantize(traced(Net(computed=True), X), [X], ctx=ctx)
    reasons = {remark.node: remark.text for remark in ctx.declined}
    assert reasons["scale"].startswith("its weight exp is computed from the input")


def test_an_integer_graph_can_be_saved_and_proven(graph: GraphModule, tmp_path: Path) -> None:
    quantized = qpc.quantize(graph, [X])
    qpc.save_graph(quantized, tmp_path / "graph")
    again = qpc.load_graph(tmp_path / "graph")
    assert torch.equal(again(X), quantized(X))
    check_integers(again, concrete_shapes(again, 1))


def test_numbers_that_are_not_sound_are_refused(graph: GraphModule, sample: ModuleType) -> None:
    quantized = qpc.quantize(graph, [X])
    (node,) = (n for n in quantized.graph.nodes if n.target is sample.INT_SCALE)
    quantized.get_buffer(str(node.args[1].target))[0] = torch.inf
    with pytest.raises(BackendError, match="a multiplier is infinite or NaN"):
        check_integers(quantized, concrete_shapes(quantized, 1))


def test_channels_of_the_parameter_go_with_those_of_the_values(graph: GraphModule) -> None:
    analysis = analyze_channels(graph)
    group = analysis.group_of("a.weight")
    assert group is not None
    assert [str(piece) for piece in group.slices] == [
        *("a.weight[0:8]", "a.bias[0:8]", "weight[0:8]", "b.weight[:, 0:8]")
    ]
    pruned = qpc.prune(graph, L1(), Uniform(0.5))
    assert pruned.get_parameter("weight").shape == (4,)
    assert operators(qpc.quantize(pruned, [X])).count("int_scale") == 1


def test_its_cost_is_counted(graph: GraphModule) -> None:
    row = next(line for line in cost(graph).layers if line.op == "scale")
    assert (row.parameters, row.macs) == (8, 8 * 4 * 3)


# --- what backends are told -----------------------------------------------------------------------


@pytest.fixture
def forget(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test registers does not stay."""
    monkeypatch.setattr(kernels, "_kernels", {})
    monkeypatch.setattr(kernels, "_decompositions", {})
    monkeypatch.setattr(exports, "_registered", {})


def assert_compiles(quantized: GraphModule) -> str:
    """Machine code gives the bits of the definition, at two batch sizes; returns the report."""
    pytest.importorskip("tvm", reason="Apache TVM is not installed")
    compiled = qpc.compile(quantized, batch_sizes=(1, 4), threads=2)
    for x in (X, X[:1]):
        assert torch.equal(torch.as_tensor(compiled(x)), quantized(x))
    assert compiled.report.others == ()
    return str(compiled.report)


def int_scale_kernel(request: tvm.KernelRequest) -> tvm.CustomKernel:
    """`clamp(rne((q - input_zero_point) * multiplier[c]) + output_zero_point, lo, hi)`."""
    from tvm import te, tirx

    q_zero, y_zero, lo, hi = (
        int(str(request.arguments[name]))
        for name in ("input_zero_point", "output_zero_point", "lo", "hi")
    )
    (dtype,) = {dtype_name(tensor.dtype) for tensor in (*request.inputs.values(), request.output)}
    multiplier = request.constants["multiplier"].numpy()
    q = te.placeholder(request.inputs["q"].shape, dtype, name="q")
    m = te.placeholder(multiplier.shape, "float32", name="m")

    def scaled(*at: Any) -> Any:
        real = tirx.Cast("float32", tirx.Cast("int32", q[at]) - q_zero) * m[at[-1]]
        low, high = (tirx.const(float(end - y_zero), "float32") for end in (lo, hi))
        rounded = tirx.nearbyint(tirx.max(tirx.min(real, high), low))
        return tirx.Cast(dtype, tirx.Cast("int32", rounded) + y_zero)

    y = te.compute(request.output.shape, scaled, name="y")
    return tvm.CustomKernel(te.create_prim_func([q, m, y]), (multiplier,))


@pytest.mark.tvm
@pytest.mark.usefixtures("forget")
def test_a_kernel_compiles_it(graph: GraphModule, sample: ModuleType) -> None:
    tvm.register_kernel(
        sample.INT_SCALE,
        int_scale_kernel,
        order=tvm.MemoryOrder.IMAGES,
        constants=["multiplier"],
    )
    assert "qpc_sample_int_scale" in assert_compiles(qpc.quantize(graph, [X]))


def as_convolution(
    q: Tensor, multiplier: Tensor, input_zero_point: int, output_zero_point: int, lo: int, hi: int
) -> Tensor:
    """A convolution of each channel by its sign."""
    channels = multiplier.shape[0]
    signs = multiplier.sign().to(torch.int8).reshape(channels, 1, 1, 1)
    layer = signs, torch.zeros(channels, dtype=torch.int32), multiplier.abs()
    window = [1, 1], [0, 0], [1, 1], channels
    made: Tensor = qpc_ops.conv2d(q, *layer, *window, input_zero_point, output_zero_point, lo, hi)
    return made


@pytest.mark.tvm
@pytest.mark.usefixtures("forget")
def test_a_decomposition_compiles_it(graph: GraphModule, sample: ModuleType) -> None:
    tvm.register_decomposition(sample.INT_SCALE, as_convolution)
    assert "qpc_depthwise" in assert_compiles(qpc.quantize(graph, [X]))


@pytest.mark.usefixtures("forget")
def test_a_form_exports_it(graph: GraphModule, sample: ModuleType) -> None:
    pytest.importorskip("onnx")
    runtime = pytest.importorskip("onnxruntime")

    def write(to: onnx.Exporter, node: Node) -> str:
        factor = to.grid(node).scale / to.grid(node.all_input_nodes[0]).scale
        weight = (to.tensor(node, "multiplier") * factor).reshape(-1, 1, 1).numpy()
        return to.clipped(node, to.emit("Mul", [to.value(node, "q"), to.constant(weight)]))

    onnx.register_export(sample.INT_SCALE, write)
    quantized = qpc.quantize(graph, [X])
    options = runtime.SessionOptions()
    # Without it, sums saturate in int16 on CPUs that have no VNNI, which no tolerance covers.
    options.add_session_config_entry("session.x64quantprecision", "1")
    model = onnx.to_qdq(quantized, len(X)).SerializeToString()
    (found,) = runtime.InferenceSession(model, options).run(None, {"x": X.numpy()})
    expected = quantized(X)
    apart = (torch.from_numpy(found) - expected).abs().max()
    assert float(apart) <= 0.03 * float(expected.abs().max())  # steps of 8 bits
