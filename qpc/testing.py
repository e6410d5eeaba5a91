"""Test a pass in one call: what QPC's own tests use, and what other packages may use for theirs.

    def test_folds_and_keeps_the_output() -> None:
        x = torch.randn(2, 3, 8, 8)
        gm = traced(randomized(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))), x)
        check_pass(FoldBatchNorm(), gm, x, after='''
            graph:
              %input: f32[N, 3, 8, 8] = input
              %conv2d: f32[N, 4, 6, 6] = aten.conv2d(%input, @0.weight, @0.bias)  # 0
              return %conv2d
        ''')

All checks raise AssertionError with a text that says what to look at. Nothing here needs pytest.
"""

from __future__ import annotations

import copy
import difflib
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.utils import _pytree as pytree

from qpc.base import Pass, PassContext
from qpc.capture.trace import trace
from qpc.errors import ConfigError, InvariantError, PassError
from qpc.facts import CORE_FORM
from qpc.hashing import fingerprint
from qpc.meta import copied
from qpc.pipeline import Pipeline
from qpc.printer import format_graph

__all__ = ["assert_graph", "assert_same_output", "check_pass", "randomized", "traced"]

Inputs = Tensor | Sequence[Tensor] | Mapping[str, Tensor]
Model = Callable[..., object]

LOOSEST_TOLERANCE = 1e-2
"""A looser one finds nothing: a relative tolerance of 1 accepts a factor of two."""


def check_pass(
    pass_: Pass,
    gm: GraphModule,
    inputs: Inputs,
    *,
    before: str | None = None,
    after: str | None = None,
    declines: Iterable[str] = (),
    rtol: float = 1e-5,
    atol: float = 1e-5,
    exact: bool = False,
    idempotent: bool = True,
) -> GraphModule:
    """Run a pass on a copy of `gm`, check everything that a pass must keep, and return the copy.

    inputs: one tensor, positional tensors, or keyword tensors, for which the outputs of `gm` and of
    the result must agree (see `assert_same_output`; `rtol`, `atol` and `exact` are passed on).
    before, after: the graph as `qpc.format_graph` prints it; common indentation does not matter.
    declines: exactly what the pass must decline, each as `node: reason`, in any order.
    idempotent: applying the pass to its own result must change nothing.

    Also proven: the facts that the pass requires, keeps and establishes (see `Fact.proof`). Also
    checked: that it returned True exactly when something changed; that `gm`, its tensors, node info
    and training flags are as they were. What the pass itself raises comes through.
    """
    if before is not None:
        assert_graph(gm, before, what=f"the graph before {pass_.name!r}")
    original, modes = fingerprint(gm), _modes(gm)
    result, changed, context = _run(pass_, gm)
    if fingerprint(gm) != original:
        raise AssertionError(
            f"{pass_.name!r} changed the graph it was given a copy of: "
            "it changes a value that copies share, such as an object in node.meta, in place"
        )
    if _modes(gm) != modes:
        raise AssertionError(f"{pass_.name!r} changed the training flag of the graph it was given")
    _check_flag(pass_, changed, differs=fingerprint(result) != original)
    _check_declines(pass_, context, declines)
    if after is not None:
        assert_graph(result, after, what=f"the graph after {pass_.name!r}")
    assert_same_output(gm, result, inputs, rtol=rtol, atol=atol, exact=exact)
    if idempotent:
        _check_idempotent(pass_, result)
    return result


def assert_graph(gm: GraphModule, text: str, *, what: str = "the graph") -> None:
    """Raise AssertionError with a diff unless `qpc.format_graph(gm)` is `text`, but for indents."""
    expected = textwrap.dedent(text).strip().splitlines()
    actual = format_graph(gm).strip().splitlines()
    if actual == expected:
        return
    diff = difflib.unified_diff(expected, actual, "expected", "actual", n=100, lineterm="")
    raise AssertionError("\n".join([f"{what} is not the expected one:", *diff]))


def assert_same_output(
    a: Model,
    b: Model,
    inputs: Inputs,
    *,
    rtol: float = 1e-5,
    atol: float = 1e-5,
    exact: bool = False,
) -> None:
    """Raise AssertionError unless two models (or graphs) give the same output for `inputs`.

    The outputs must have the same structure, shapes and dtypes. Floats may differ by
    `atol + rtol * |value of a|`, or not at all if `exact`; NaN equals NaN. Other dtypes are always
    compared exactly. Raises ConfigError for a tolerance above `LOOSEST_TOLERANCE`.
    """
    for name, tolerance in (("rtol", rtol), ("atol", atol)):
        if not 0 <= tolerance <= LOOSEST_TOLERANCE:
            raise ConfigError(f"{name} must be from 0 to {LOOSEST_TOLERANCE}, got {tolerance!r}")
    first, second = _call(a, inputs), _call(b, inputs)
    ours, our_structure = pytree.tree_flatten(first)
    theirs, their_structure = pytree.tree_flatten(second)
    if our_structure != their_structure:
        raise AssertionError(
            f"the outputs are built differently: {our_structure} and {their_structure}"
        )
    for index, (x, y) in enumerate(zip(ours, theirs, strict=True)):
        if problem := _difference(x, y, rtol=rtol, atol=atol, exact=exact):
            raise AssertionError(f"output {index} differs: {problem}")


def traced(model: nn.Module, *inputs: Tensor) -> GraphModule:
    """Return the core-form graph of `model`: `qpc.trace` with the inputs written out."""
    return trace(model, inputs)


def randomized(model: nn.Module, seed: int = 0) -> nn.Module:
    """Give every float parameter and buffer of `model` random values, and return it.

    A fresh batch norm is the identity and a fresh bias is often zero, which hides errors. Running
    variances are positive.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            if not tensor.is_floating_point():
                continue
            if name.endswith("running_var"):
                tensor.uniform_(0.5, 2.0, generator=generator)
            else:
                tensor.normal_(0.0, 0.5, generator=generator)
    return model


# --- the parts of check_pass ----------------------------------------------------------------------


def _run(pass_: Pass, gm: GraphModule) -> tuple[GraphModule, object, PassContext]:
    context = PassContext(thorough=True)
    try:
        pipeline = Pipeline((pass_,), assume={CORE_FORM, *pass_.requires})
        result = pipeline.run(gm, context)
    except InvariantError as e:
        raise AssertionError(e.full_text) from e
    except PassError as e:
        if not context.reports and e.what.startswith("the graph is not "):
            raise AssertionError(f"{pass_.name!r} cannot run here: {e.what}") from e
        raise
    return result, context.reports[-1].changed, context


def _check_flag(pass_: Pass, changed: object, *, differs: bool) -> None:
    if changed is not True and changed is not False:
        raise AssertionError(f"{pass_.name!r} returned {changed!r}, not whether anything changed")
    if changed and not differs:
        raise AssertionError(f"{pass_.name!r} returned True, but nothing changed")
    if differs and not changed:
        raise AssertionError(f"{pass_.name!r} returned False, but it changed the graph")


def _check_declines(pass_: Pass, context: PassContext, expected: Iterable[str]) -> None:
    wanted, found = sorted(expected), sorted(map(str, context.declined))
    if found == wanted:
        return
    lines = [f"  missing: {text}" for text in wanted if text not in found]
    lines += [f"  not expected: {text}" for text in found if text not in wanted]
    raise AssertionError("\n".join([f"{pass_.name!r} declined other things:", *lines]))


def _check_idempotent(pass_: Pass, result: GraphModule) -> None:
    again = copied(result)
    changed = pass_.apply(again, PassContext())
    if changed or fingerprint(again) != fingerprint(result):
        raise AssertionError(
            f"{pass_.name!r} changed its own result when applied again; "
            "pass idempotent=False if it is meant to"
        )


def _modes(gm: GraphModule) -> list[bool]:
    return [module.training for module in gm.modules()]


def _call(model: Model, inputs: Inputs) -> object:
    inputs = copy.deepcopy(inputs)  # a model may write to its inputs
    with torch.no_grad():
        if isinstance(inputs, Tensor):
            return model(inputs)
        if isinstance(inputs, Mapping):
            return model(**inputs)
        return model(*inputs)


def _difference(x: object, y: object, *, rtol: float, atol: float, exact: bool) -> str | None:
    if not isinstance(x, Tensor) or not isinstance(y, Tensor):
        return None if type(x) is type(y) and x == y else f"{x!r} and {y!r}"
    if x.dtype != y.dtype or x.shape != y.shape:
        return f"{x.dtype} {list(x.shape)} and {y.dtype} {list(y.shape)}"
    exact = exact or not x.is_floating_point()
    if exact:
        wrong = (x != y) & ~(x.isnan() & y.isnan())
    else:
        wrong = ~torch.isclose(y.double(), x.double(), rtol=rtol, atol=atol, equal_nan=True)
    if not wrong.any():
        return None
    gap = (x.double() - y.double()).abs().nan_to_num(nan=torch.inf)
    worst = int(torch.where(wrong, gap, -1.0).argmax())
    place = [int(i) for i in torch.unravel_index(torch.tensor(worst), x.shape)]
    values = x.flatten()[worst].item(), y.flatten()[worst].item()
    allowed = "exactly" if exact else f"with rtol={rtol:g}, atol={atol:g}"
    return (
        f"{int(wrong.sum())} of {wrong.numel()} values, compared {allowed}; "
        f"the worst at {place}: {values[0]!r} and {values[1]!r}"
    )
