from __future__ import annotations

import traceback

import pytest
import torch
from torch.fx import Graph

from qpc import errors
from qpc.errors import PassError, QPCError, UnsupportedOpError, user_line

CLASSES = [
    value
    for value in vars(errors).values()
    if isinstance(value, type) and value.__module__ == errors.__name__
]


def node(*frames: str) -> torch.fx.Node:
    graph = Graph()
    made = graph.call_function(torch.ops.aten.relu.default, (graph.placeholder("x"),))
    if frames:
        made.stack_trace = "\n".join(frames)
    return made


def test_an_error_has_four_parts() -> None:
    error = PassError(
        "no rule for sort",
        node=node('  File "net.py", line 7, in forward', "    return x.sort()"),
        fix="skip it",
    )
    assert error.full_text == (
        "no rule for sort\n"
        "  at node: %relu_default : [num_users=0] = call_function"
        "[target=torch.ops.aten.relu.default](args = (%x,), kwargs = {})\n"
        '  written: File "net.py", line 7, in forward\n'
        "  fix: skip it"
    )
    assert str(error) == "no rule for sort"
    assert "".join(traceback.format_exception_only(error)).endswith(error.full_text + "\n")


def test_parts_that_are_not_known_are_left_out() -> None:
    assert QPCError("what").full_text == "what"
    assert QPCError("what", fix="this").full_text == "what\n  fix: this"
    assert "written" not in QPCError("what", node=node()).full_text


def test_errors_keep_their_parts() -> None:
    at = node()
    error = QPCError("what", node=at, fix="this")
    assert (error.what, error.node, error.fix) == ("what", at, "this")


def test_what_torch_fx_adds_to_an_error_is_not_shown() -> None:
    @torch.library.custom_op("qpc_test_errors::refuse", mutates_args=())
    def refuse(x: torch.Tensor) -> torch.Tensor:
        raise PassError("the values are not finite")

    graph = Graph()
    target = torch.ops.qpc_test_errors.refuse.default
    graph.output(graph.call_function(target, (graph.placeholder("x"),)))
    with pytest.raises(PassError) as caught:
        torch.fx.Interpreter(torch.fx.GraphModule({}, graph)).run(torch.ones(1))
    assert "While executing" in caught.value.args[0]
    assert str(caught.value) == caught.value.full_text == "the values are not finite"


def test_an_output_node_can_be_named() -> None:
    graph = Graph()
    output = graph.output(graph.placeholder("x"))
    assert "at node: return x" in QPCError("what", node=output).full_text


@pytest.mark.parametrize("error", CLASSES, ids=lambda c: c.__name__)
def test_every_error_is_a_qpc_error_and_says_what_it_means(error: type) -> None:
    assert issubclass(error, QPCError)
    assert error.__name__.endswith("Error")
    assert error.__doc__


def test_an_unsupported_operator_is_a_pass_error() -> None:
    assert issubclass(UnsupportedOpError, PassError)


def test_the_users_line_is_the_innermost_one_outside_torch() -> None:
    at = node(
        '  File "train.py", line 3, in forward',
        "    return self.block(x)",
        '  File "block.py", line 9, in forward',
        "    return self.conv(x)",
        '  File "/site-packages/torch/nn/modules/conv.py", line 553, in forward',
        "    return self._conv_forward(input, self.weight, self.bias)",
    )
    assert user_line(at) == 'File "block.py", line 9, in forward'


def test_a_line_in_torch_is_better_than_none() -> None:
    inside = 'File "/site-packages/torch/nn/modules/conv.py", line 553, in forward'
    assert user_line(node(f"  {inside}")) == inside
    assert user_line(node()) is None
