from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from qpc.testing import traced
from tests.small_models import Call

pytest.importorskip("tvm_ffi", reason="Apache TVM is not installed")
import tvm as apache
import tvm_ffi
from tvm import relax, tirx

from qpc.backends import tvm
from qpc.backends.tvm.codegen.elementwise import join_loops
from qpc.backends.tvm.lowering.float_arithmetic import hidden

pytestmark = pytest.mark.tvm

SHAPE = (2, 3, 4, 5)


def joined(function: Any, *shapes: tuple[int, ...], vectors: bool = False) -> tirx.PrimFunc:
    """The one function that TVM makes of operators, with its loops joined."""
    builder = relax.BlockBuilder()
    inputs = [relax.Var(f"x{i}", relax.TensorType(s, "float32")) for i, s in enumerate(shapes)]
    with builder.function("main", inputs):
        with builder.dataflow():
            result = builder.emit_output(function(*inputs))
        builder.emit_func_output(result)
    transform = relax.transform
    passes = (transform.LegalizeOps(), transform.AnnotateTIROpPattern(), transform.FuseOps())
    made = apache.transform.Sequential([*passes, transform.FuseTIR()])(builder.get())
    functions = join_loops(made, vectors).functions_items()
    (found,) = [f for _, f in functions if isinstance(f, tirx.PrimFunc)]
    return found


def loops(function: tirx.PrimFunc) -> list[list[int]]:
    """The extents of each nest of loops."""
    nests: list[list[int]] = []

    def walk(statement: Any, nest: list[int] | None) -> None:
        if isinstance(statement, tirx.SeqStmt):
            for part in statement.seq:
                walk(part, None)
        elif isinstance(statement, tirx.For):
            if nest is None:
                nests.append(nest := [])
            nest.append(int(statement.extent))
            walk(statement.body, nest)

    walk(function.body.block.body, None)
    return nests


def vectors(function: tirx.PrimFunc) -> list[int]:
    """The widths of all vectors, as a function is written."""
    found: list[int] = []

    def note(loop: tirx.For) -> None:
        if loop.kind == tirx.ForKind.VECTORIZED:
            found.append(int(loop.extent))

    tvm_ffi.structural_walk(function.body, (tirx.For, note))
    return found


op = relax.op


@pytest.mark.parametrize(
    ("function", "shapes", "expected"),
    [
        (lambda x, y: op.add(op.abs(x), y), (SHAPE, SHAPE), [[120]]),
        (lambda x, y: op.multiply(op.add(x, y), y), (SHAPE, (3, 1, 1)), [[2, 3, 20]]),
        (lambda x, y: op.add(x, y), (SHAPE, (5,)), [[24, 5]]),
        (
            lambda x, y: op.add(x, op.permute_dims(y, [0, 2, 3, 1])),
            (SHAPE, (2, 5, 3, 4)),
            [[2, 12, 5]],
        ),
        (lambda x: op.sum(op.abs(x), axis=[1]), (SHAPE,), [[2, 3, 4, 5], [2, 4, 5, 3]]),
    ],
)
def test_axes_that_follow_each_other_everywhere_are_one_loop(
    function: Any, shapes: tuple[tuple[int, ...], ...], expected: list[list[int]]
) -> None:
    assert loops(joined(function, *shapes)) == expected


def test_a_chain_that_reads_each_value_twice_grows_with_its_length_and_not_faster() -> None:
    def chain(x: Any) -> Any:
        for _ in range(20):
            x = op.add(op.multiply(x, op.cos(x)), x)
        return x

    function = joined(chain, SHAPE)
    assert all(nest == [120] for nest in loops(function))
    assert len(str(function)) < 20_000


def test_what_a_choice_needs_is_read_before_it() -> None:
    """TVM would make a branch of it, and LLVM no vectors of that."""

    def slopes(x: Any, y: Any) -> Any:
        return op.where(op.greater(x, relax.const(0.0)), x, op.multiply(x, y))

    text = str(joined(slopes, SHAPE, (3, 1, 1)))
    assert text.index("read1") < text.index("T.Select")
    assert "x1" not in text[text.index("T.Select") :]


def test_a_border_is_read_behind_its_branch() -> None:
    def sizes(x: Any) -> Any:
        framed = op.nn.pad(x, [0, 0, 0, 0, 0, 0, 0, 1])
        return op.where(op.greater(framed, relax.const(0.0)), framed, op.negative(framed))

    text = str(joined(sizes, SHAPE))
    assert "T.if_then_else" in text
    assert "T.Select" in text
    assert "read0" not in text


def test_parts_that_read_elsewhere_once_they_are_put_together_stay_as_they_are() -> None:
    def first_twice(x: Tensor) -> Tensor:
        copied = x.clone()
        copied[:, 1] = x[:, 0]
        return copied

    x = torch.randn(1, 6, 5, 7)
    assert torch.equal(tvm.compile_graph(traced(Call(first_twice), x))(x), first_twice(x))


def test_arithmetic_stays_as_it_is_written() -> None:
    """TVM would make 0 of these, as if floats were real numbers."""
    model = Call(lambda x, y: ((x - x) * y, y.abs() * 0.0 + (x - x)))
    x = torch.tensor([[1.0, torch.inf, torch.nan, -2.0]])
    found = tvm.compile_graph(traced(model, x, x))(x, x)
    for got, wanted in zip(found, model(x, x), strict=True):
        assert isinstance(got, Tensor)
        torch.testing.assert_close(got, wanted, equal_nan=True)


@pytest.mark.parametrize(
    ("function", "shapes", "expected"),
    [
        (op.multiply, ((3, 40), (40,)), [16, 16, 8]),
        (op.multiply, ((3, 33), (33,)), [16, 16]),
        (op.multiply, ((2, 3, 7, 7), (3, 1, 1)), [16, 16, 16]),
        (op.multiply, ((3, 16), (16,)), [16]),
        (op.multiply, ((), ()), []),  # a single value
        (op.multiply, ((3, 65), (65,)), []),  # LLVM finds these
        (op.multiply, ((3, 8), (8,)), []),
        (lambda x, y: op.add(x, op.permute_dims(y)), ((3, 20), (20, 3)), []),
        (lambda x, y: op.add(op.atan(x), y), ((3, 20), (20,)), []),  # calls of a library
        (lambda x, y: op.add(op.nn.pad(x, [0, 0, 0, 1]), y), ((3, 19), (20,)), []),
    ],
)
def test_rows_in_which_llvm_finds_no_vectors_are_made_of_them(
    function: Any, shapes: tuple[tuple[int, ...], ...], expected: list[int]
) -> None:
    assert vectors(joined(function, *shapes, vectors=True)) == expected
    assert not vectors(joined(function, *shapes))


def _choice(x: Tensor, y: Tensor) -> Tensor:
    return torch.where(x > y, x * y, torch.where(x == x, y - x, y.abs().sqrt()))


def _long_chain(x: Tensor, y: Tensor) -> Tensor:
    for _ in range(20):
        x = x * (x + y).floor() + x
    return x


@pytest.mark.parametrize(
    "function",
    [
        _choice,
        _long_chain,
        lambda x, y: (x - x) * y,
        lambda x, y: x.clamp(-1, 0.5).abs() / y,
        lambda x, y: (x != y).float() + (x <= y).float() * y,
        lambda x, y: torch.maximum(x, y) - torch.minimum(-y, x),
        lambda x, y: x.sinh() * (y.abs() ** 1.5),
        lambda x, y: (x.round() + x.sign() * y.ceil()) * x.rsqrt(),
    ],
)
@pytest.mark.parametrize("width", [13, 40])
def test_short_rows_are_what_they_are_in_pytorch(function: Any, width: int) -> None:
    model = Call(function)
    x = torch.randn(1, 6, width)
    x[:, 1:3] = torch.tensor([torch.inf, torch.nan])[:, None]
    y = torch.randn(1, 1, width)
    found = tvm.compile_graph(traced(model, x, y))(x, y)
    torch.testing.assert_close(found, function(x, y), rtol=1e-5, atol=0, equal_nan=True)


def test_hidden_arithmetic_is_printed_without_a_warning(capfd: pytest.CaptureFixture[str]) -> None:
    """TVM prints functions in errors, which we catch."""
    assert "qpc.Mul" in str(hidden(joined(op.multiply, SHAPE, SHAPE)))
    assert not capfd.readouterr().err
