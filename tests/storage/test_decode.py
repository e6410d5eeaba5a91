"""A forged graph is refused before any source is made of it, whatever was forged."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import qpc
from qpc import storage
from qpc.errors import ArtifactError
from tests.forging import Edit, forged

EVIL = "__import__('os').system('touch owned')"


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.relu(self.conv(x)).sum((2, 3))


@cache
def content() -> dict[str, bytes]:
    return storage.graph_files(qpc.trace(Small(), torch.randn(2, 1, 3, 3)))


@cache
def quantized() -> dict[str, bytes]:
    x = torch.randn(2, 1, 3, 3)
    return storage.graph_files(qpc.quantize(qpc.trace(Small(), x), [x]))


def node(document: dict[str, Any], name: str) -> dict[str, Any]:
    found: dict[str, Any] = next(n for n in document["nodes"] if n["name"].startswith(name))
    return found


def change(which: str, /, **changes: object) -> Edit:
    return lambda document: node(document, which).update(changes)


def call(target: str, *args: object, **kwargs: object) -> Edit:
    return change("relu", target=target, args=list(args), kwargs=kwargs)


X = {"node": "x"}


def rename(document: dict[str, Any]) -> None:
    node(document, "relu")["name"] = "x"


def move(document: dict[str, Any]) -> None:
    document["nodes"].insert(0, document["nodes"].pop(-2))


def without_output(document: dict[str, Any]) -> None:
    document["nodes"].pop()


def another_input(document: dict[str, Any]) -> None:
    document["nodes"].insert(0, {**node(document, "x"), "name": "y"})


def twice(document: dict[str, Any]) -> None:
    document["tensors"][1]["names"] = document["tensors"][0]["names"]


def tensor(**changes: object) -> Edit:
    return lambda document: document["tensors"][0].update(changes)


def channels(size: int, target: str, *args: object) -> Edit:
    """`x` and `other` go into an operator, whose first result is used."""

    def edit(document: dict[str, Any]) -> None:
        other = {**node(document, "x"), "name": "other", "target": "other", "shape": [size]}
        at = document["nodes"].index(node(document, "x")) + 1
        document["nodes"].insert(at, other)
        made = {**node(document, "relu"), "name": "made", "target": target, "args": list(args)}
        del made["shape"], made["dtype"]
        document["nodes"].insert(at + 1, made)

    return edit


def sizes(*calls: tuple[str, Sequence[object]]) -> Edit:
    def edit(document: dict[str, Any]) -> None:
        first = document["nodes"].index(node(document, "x")) + 1
        for number, (target, args) in enumerate(calls):
            made = {"op": "call_function", "target": target, "args": [*args], "name": f"n{number}"}
            document["nodes"].insert(first + number, made)

    return edit


def squares(document: dict[str, Any]) -> None:
    sizes(
        ("aten.sym_size.int", [X, 1]),
        ("operator.add", [N0, 2**40]),
        *(("operator.mul", [{"node": f"n{i}"}] * 2) for i in range(1, 70)),
    )(document)


def unbound(document: dict[str, Any]) -> None:
    sizes(("aten.zeros.default", [[4000]]), *[("aten.unbind.int", [N0])] * 10)(document)


def shadowed(document: dict[str, Any]) -> None:
    document["nodes"].insert(-1, {**node(document, "x"), "name": "late", "target": "conv2d"})


def deep_paths(document: dict[str, Any]) -> None:
    names = [f"a{i}" + ".a" * 240 for i in range(900)]
    document["tensors"][0]["names"] = names


N0, OTHER = {"node": "n0"}, {"node": "other"}


def endless(document: dict[str, Any]) -> None:
    change("x", shape=[1_000_000])(document)
    change("conv2d", target="aten.unbind.int", args=[X, 0])(document)


CASES: dict[str, tuple[Edit, str]] = {
    # names, all of which end up in source
    "an input's name": (change("x", target=f"x={EVIL}"), r"nodes.*target: it is no name"),
    "a node's name": (change("x", name=f"x;{EVIL}"), r"name: it is no name"),
    "a name that Python reads as another": (
        change("x", name="\uff4f\uff53"),
        r"name: it is no name",
    ),
    "a name of operators": (change("x", target="_operator_add"), r"target: it is no name"),
    "an input over a node": (shadowed, "the input 'conv2d' has the name of a node before it"),
    "a tensor that Python reads as another": (
        change("conv_weight", target="\uff4f\uff53.weight"),
        "'\uff4f\uff53' cannot be written in Python",
    ),
    "a tensor that is a keyword": (
        change("conv_weight", target="lambda.weight"),
        "'lambda' cannot be written in Python",
    ),
    "modules without end": (deep_paths, "there are too many names of tensors"),
    "a keyword": (change("x", name="lambda"), r"name: it is no name"),
    "a name of the source": (change("x", target="torch"), r"target: it is no name"),
    "an argument's name": (
        change("conv2d", kwargs={f"bias={EVIL} or None, weight": X}),
        r"kwargs.*it is no name",
    ),
    "a tensor's name": (change("conv_weight", target='a"' + EVIL), "it is no path of a tensor"),
    "a tensor that is a method": (
        change("conv_weight", target="forward"),
        "'forward' is an attribute of every graph",
    ),
    "no tensor": (change("conv_weight", target="conv.none"), "there is no tensor 'conv.none'"),
    "a built-in name": (change("x", name="sum"), "no node can be called 'sum'"),
    # operators
    "a method": (change("relu", op="call_method", target="tofile"), "does not match any of the"),
    "a module": (change("relu", op="call_module", target="conv"), "does not match any of the"),
    "a function": (call("os.system", EVIL), "'os.system' is no operator that a saved graph may"),
    "arithmetic": (call("operator.attrgetter", "x"), "is no arithmetic on sizes"),
    "a file": (call("aten.from_file.default", "owned", True, 8), "from_file.* is no operator"),
    "foreign memory": (
        call("inductor._reinterpret_tensor.default", X, [99], [1]),
        "is no operator that",
    ),
    "more than a tensor": (call("aten.as_strided.default", X, [9], [1]), "is no operator that"),
    "unset memory": (call("aten.empty.memory_format", [9]), "is no operator that"),
    "in place": (call("aten.relu_.default", X), "is no operator that"),
    "into another": (call("aten.add.out", X, X, out=X), "writes to its arguments"),
    "a generator": (call("aten.rand.generator", [2], generator=None), "takes or returns"),
    "no overload": (call("aten.relu.nonsense", X), "is no operator that"),
    # arguments
    "too few": (call("aten.relu.default"), "is not given 'self'"),
    "too many": (call("aten.relu.default", X, X), "takes 1 arguments by position"),
    "twice": (call("aten.relu.default", X, self=X), "is given 'self' twice"),
    "unknown": (call("aten.relu.default", X, other=X), "takes no argument 'other'"),
    "another type": (call("aten.relu.default", "x"), "takes Tensor for 'self'"),
    "a truth value as a number": (
        call("aten.softmax.int", X, True),
        "takes int for 'dim'",
    ),
    "a huge number": (call("aten.softmax.int", X, 2**63), "takes int for 'dim'"),
    "a long word": (call("aten.gelu.default", X, approximate="\n" + EVIL), "takes str for"),
    "a node that comes later": (
        change("conv2d", args=[{"node": "relu"}, X]),
        "no node 'relu' stands before it",
    ),
    "another device": (
        call("aten.zeros.default", [1], device={"device": "cuda:0"}),
        "computes on the CPU, not on 'cuda:0'",
    ),
    "a value of no kind": (call("aten.relu.default", {"eval": EVIL}), "unknown value of kind"),
    "two kinds": (call("aten.relu.default", {"node": "x", "a": 1}), "a value has one kind"),
    "a deep value": (
        call("aten.relu.default", [[[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]]]),
        "too deeply",
    ),
    "sizes": (call("operator.add", X), "operator.add takes 2 sizes"),
    "a list without end": (
        call("aten.repeat.default", X, [1] * 5000),
        r"takes List\[int\] for 'repeats'",
    ),
    # sizes that PyTorch takes, although they reach beyond a tensor
    "too few statistics": (
        channels(2, "aten.native_batch_norm.default", X, *[OTHER] * 4, False, 0.1, 1e-5),
        "takes one number for each channel for 'weight'",
    ),
    "too few statistics for inference": (
        channels(
            3,
            "aten._native_batch_norm_legit_no_training.default",
            *(X, None, None, OTHER, OTHER, 0.1, 1e-5),
        ),
        "takes one number for each channel for 'running_mean'",
    ),
    "too few norms": (
        channels(2, "aten._weight_norm_interface.default", X, OTHER, 2),
        "takes one number for each slice of 'v' for 'g'",
    ),
    "a norm of no axis": (
        channels(2, "aten._weight_norm.default", X, OTHER, 9),
        "takes an axis of 'v' for 'dim'",
    ),
    "a scale beyond all numbers": (
        call("aten.upsample_nearest2d.default", X, [8, 8], 1e-30, 1e-30),
        "takes no 1e-30 for 'scales_h'",
    ),
    "numbers without end": (squares, "arithmetic takes sizes that fit into 64 bits"),
    "a tuple many times": (
        sizes(("aten.unbind.int", [X]), ("operator.mul", [N0, 2**27])),
        "arithmetic takes sizes",
    ),
    "a part of a tensor": (
        sizes(("operator.getitem", [X, 0])),
        "operator.getitem takes what returns several values",
    ),
    "steps without end": (
        unbound,
        "the graph takes too many steps",
    ),
    "differences without end": (
        sizes(("aten.zeros.default", [[2**30]]), ("aten.diff.default", [N0, 2**29])),
        "the graph takes too many steps",
    ),
    "a value without end": (
        sizes(("aten.zeros.default", [[2**40]])),
        r"a value of shape \(1099511627776,\) is too large",
    ),
    "axes without end": (sizes(("aten.ones.default", [[1] * 65])), "its value has 65 axes"),
    # shapes
    "a wrong shape": (change("relu", shape=[[1, 0], 3, 3, 3]), r"its shape is \(N, 2, 3, 3\), not"),
    "no shape": (change("x", shape=None), "an input has a shape and a dtype"),
    "a negative size": (change("relu", shape=[-1]), "shape.*greater than or equal to 0"),
    "a wrong dtype": (change("relu", dtype="int8"), "its value is torch.float32, not torch.int8"),
    "no dtype": (change("relu", dtype="evil"), "there is no dtype 'evil'"),
    "inputs that do not fit": (change("x", shape=[[1, 0], 5, 3, 3]), "does not accept its inputs"),
    "pieces without end": (
        endless,
        "would make more than 4096 pieces",
    ),
    # the whole
    "two nodes of one name": (rename, "two nodes have one name"),
    "a node before its arguments": (move, "stands before it"),
    "no output": (without_output, "there is not one output, at the end"),
    "two inputs of one name": (another_input, "two inputs have one name"),
    "two tensors of one name": (twice, "two tensors have one name"),
    "an output that is no value": (
        change("output", result={"dtype": "int8"}),
        "a graph does not return dtype",
    ),
    "an entry that nobody knows": (lambda d: d.update(hook=EVIL), "hook: Extra inputs are not"),
    "a field that nobody knows": (change("relu", hook=EVIL), "hook: Extra inputs are not"),
    "no nodes": (lambda d: d.update(nodes=[]), "nodes: List should have at least 1 item"),
    "no list": (lambda d: d.update(nodes={}), "nodes: Input should be a valid list"),
    # tensors
    "a parameter that is left out": (tensor(transient=["conv.weight"]), "it cannot be transient"),
    "packed numbers": (tensor(bits_of=[2, 1, 1, 1]), "a packed mask of 2 elements must be"),
    "a truth value that is none": (tensor(parameter=1), "parameter: Input should be a valid bool"),
    "another tensor": (tensor(names=["other"]), "the file of tensors holds others"),
}


@pytest.mark.parametrize("case", CASES)
def test_a_forged_graph_is_refused(case: str) -> None:
    edit, message = CASES[case]
    _check_refused(content(), edit, message)


def quantize(number: int, value: object) -> Edit:
    def edit(document: dict[str, Any]) -> None:
        node(document, "quantize")["args"][number] = value

    return edit


QUANTIZED: dict[str, tuple[Edit, str]] = {
    "a scale that is no number": (quantize(1, {"float": "nan"}), "takes no nan for 'scale'"),
    "a scale without end": (quantize(1, 1e300), "takes no 1e.300 for 'scale'"),
    "a zero point beyond the grid": (quantize(2, 2**40), "takes no .* for 'zero_point'"),
    "a grid without points": (quantize(4, -1), "is given the empty range from 0 to -1"),
    "a stored grid": (
        lambda d: next(n for n in d["nodes"] if "qparams" in n)["qparams"].update(scale=-1.0),
        "scale must be from",
    ),
    "settings": (
        lambda d: next(n for n in d["nodes"] if "config" in n)["config"].update(evil=1),
        "LayerConfig: evil",
    ),
    "settings of another kind": (
        lambda d: next(n for n in d["nodes"] if "config" in n).update(config=[]),
        "config: Input should be a valid dictionary",
    ),
}


@pytest.mark.parametrize("case", QUANTIZED)
def test_a_forged_integer_graph_is_refused(case: str) -> None:
    edit, message = QUANTIZED[case]
    _check_refused(quantized(), edit, message)


def test_an_observer_that_is_not_there_is_refused() -> None:
    x = torch.randn(2, 1, 3, 3)
    observed = storage.graph_files(qpc.recipes.prepare().run(qpc.trace(Small(), x)))

    def edit(document: dict[str, Any]) -> None:
        node(document, "observe")["args"][1] = "nobody"

    _check_refused(observed, edit, "there is no observer 'nobody'")


def _check_refused(files: dict[str, bytes], edit: Edit, message: str) -> None:
    assert storage.graph_of_files(files, "it") is not None
    changed = forged(files, "graph.json", edit)
    assert changed["graph.json"] != files["graph.json"]
    with pytest.raises(
        ArtifactError, match=re.compile(f"graph.json of it is damaged: .*{message}", re.S)
    ):
        storage.graph_of_files(changed, "it")
