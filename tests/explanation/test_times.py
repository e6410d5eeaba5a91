from __future__ import annotations

from qpc.backends.profile import KernelTime, Profile
from qpc.explanation.times import float_times, in_float, times_of
from qpc.meta import label, value_name
from qpc.registry import op_name
from tests.explanation.faults import MACHINE, Residual, images, seeded, stages, with_slow_island


def call(kernel: str, us: float, *layers: str) -> KernelTime:
    return KernelTime.of(kernel, layers, us, 0, 8, MACHINE)


def profile(*calls: KernelTime) -> Profile:
    return Profile(calls, sum(c.us for c in calls), 1, 1, MACHINE)


def test_kernels_without_names_belong_to_the_float_operators_between_their_neighbours() -> None:
    _, integer = stages(with_slow_island(Residual, 0, 0))
    nodes = {op_name(n): n for n in integer.graph.nodes if n.op == "call_function"}
    first = next(n for n in integer.graph.nodes if op_name(n).startswith("conv2d"))
    last = next(n for n in integer.graph.nodes if op_name(n).startswith("linear"))
    calls = [
        call("k", 1.0, label(first)),
        call("fused_cumsum1", 5.0),
        call("transpose", 0.5),
        call("fused_multiply_add2", 7.0),
        call("k", 2.0, label(last)),
    ]
    found = times_of(profile(*calls), integer)
    assert found[first].us == 1.0
    assert found[nodes["cumsum"]].us == 5.5, "the one that nobody is called like goes with it"
    assert found[nodes["mul"]].us == 7.0
    assert found[last].us == 2.0


def test_a_kernel_of_several_operators_counts_for_the_first() -> None:
    _, integer = stages(seeded(Residual, 0))
    by_name = {op_name(n): n for n in integer.graph.nodes}
    first, second = by_name["conv2d_add"], by_name["mean"]
    found = times_of(profile(call("k", 3.0, label(first), label(second))), integer)
    assert (found[first].us, found[second].us, found[second].inside) == (3.0, 0.0, label(first))


def test_what_an_integer_operator_does_takes_the_time_of_all_its_float_operators() -> None:
    gm, integer = stages(seeded(Residual, 0))
    times = {node: 1.0 for node in gm.graph.nodes if node.op == "call_function"}
    values = {name: n for n in gm.graph.nodes if (name := value_name(n)) is not None}
    add = next(n for n in integer.graph.nodes if op_name(n) == "conv2d_add")
    assert in_float(add, values, times) == 3.0, "the layer, the sum and the ReLU behind it"
    assert set(float_times(gm, [images(1)], repeats=1)) == set(times)
