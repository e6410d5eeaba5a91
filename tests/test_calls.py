from __future__ import annotations

import pytest
import torch
from torch.fx import Graph, Node

from qpc.calls import Arg, OpView, arguments, aten, qpc_ops, set_arguments
from qpc.ops.clamp import Clamping, Relu
from qpc.ops.convolution import Conv2d
from qpc.ops.pooling import AvgPool2d, MaxPool2d
from qpc.ops.reduction import Mean


def call(target: object, *args: object, **kwargs: object) -> Node:
    graph = Graph()
    x = graph.placeholder("x")
    return graph.call_function(target, (x, *args), kwargs)  # type: ignore[arg-type]  # arguments of fx


def test_arguments_have_their_schema_names_and_defaults() -> None:
    node = call(aten.conv2d.default, 1, None, [2, 2], groups=3)
    assert arguments(node) == {
        "input": node.args[0],
        "weight": 1,
        "bias": None,
        "stride": [2, 2],
        "padding": [0, 0],
        "dilation": [1, 1],
        "groups": 3,
    }


def test_keyword_only_arguments_are_found() -> None:
    assert arguments(call(aten.mean.dim, [1], dtype=torch.float64))["dtype"] is torch.float64
    assert arguments(call(aten.mean.dim, [1]))["dtype"] is None


def test_only_operator_overloads_have_arguments() -> None:
    with pytest.raises(TypeError, match=r"^node 'relu' does not call an operator overload$"):
        arguments(call(torch.relu))


def test_set_arguments_makes_all_but_keyword_only_ones_positional() -> None:
    node = call(aten.add.Tensor, other=3)
    set_arguments(node, other=4)
    assert node.args[1:] == (4,)
    assert node.kwargs == {}
    set_arguments(node, alpha=2)
    assert node.args[1:] == (4,)
    assert node.kwargs == {"alpha": 2}
    set_arguments(node, other=5)
    assert node.kwargs == {"alpha": 2}


def test_set_arguments_refuses_unknown_names() -> None:
    with pytest.raises(TypeError, match=r"^aten\.relu\.default has no argument \['alpha', 'x'\]$"):
        set_arguments(call(aten.relu.default), alpha=1, x=2)


def test_a_view_reads_arguments_by_name() -> None:
    conv = Conv2d(call(aten.conv2d.default, 1, 2, [3, 4], 5))
    assert isinstance(conv.input, Node)
    assert arguments(conv.node)["weight"] == 1
    assert (conv.stride, conv.padding, conv.dilation, conv.groups) == ((3, 4), (5, 5), (1, 1), 1)


def test_a_view_writes_arguments() -> None:
    conv = Conv2d(call(aten.conv2d.default, 1))
    conv.stride = (2, 2)
    conv.bias = conv.input
    assert conv.node.args == (conv.input, 1, conv.input, [2, 2], [0, 0], [1, 1], 1)


def test_a_view_of_another_operator_is_refused() -> None:
    node = call(aten.relu.default)
    with pytest.raises(
        TypeError, match=r"^node 'relu_default' calls aten\.relu\.default, not Conv2d$"
    ):
        Conv2d(node)
    assert Conv2d.of(node) is None
    assert Conv2d.of("no node") is None
    assert isinstance(Relu.of(node), Relu)


def test_a_view_of_several_operators_matches_each() -> None:
    assert Clamping.matches(call(qpc_ops.clamp.default, 0, 1))
    assert Clamping.matches(call(qpc_ops.add.default))
    assert not Clamping.matches(call(qpc_ops.max_pool2d.default))


def test_pairs_are_two_numbers_however_they_are_written() -> None:
    for given, expected in (([3], (3, 3)), ([3, 4], (3, 4)), (2, (2, 2))):
        assert AvgPool2d(call(aten.avg_pool2d.default, given)).kernel_size == expected


@pytest.mark.parametrize(
    ("view", "target"),
    [
        (MaxPool2d, aten.max_pool2d.default),
        (AvgPool2d, aten.avg_pool2d.default),
    ],
)
def test_a_pooling_stride_is_the_kernel_size_unless_given(
    view: type[MaxPool2d] | type[AvgPool2d], target: object
) -> None:
    assert view(call(target, [2, 3])).stride == (2, 3)
    assert view(call(target, [2, 3], [1, 2])).stride == (1, 2)


def test_a_reduction_without_dimensions_has_none() -> None:
    assert Mean(call(aten.mean.dim, None)).dims == ()
    assert Mean(call(aten.mean.dim, [2, 3])).dims == (2, 3)


def test_other_packages_can_declare_views() -> None:
    class Softmax(OpView, of=aten.softmax.int):
        """Normalises along `dim`."""

        input = Arg[Node]("self")
        dim = Arg[int]()

    softmax = Softmax(call(aten.softmax.int, 1))
    assert softmax.dim == 1
    softmax.dim = 2
    assert softmax.node.args[:2] == (softmax.input, 2)
    assert isinstance(Softmax.dim, Arg)
