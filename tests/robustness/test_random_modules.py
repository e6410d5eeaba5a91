"""Random networks of ordinary PyTorch agree at every stage; and the checks can fail."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("tvm_ffi", reason="Apache TVM is not installed")
from qpc.capture.trace import trace
from qpc.errors import BackendError, InvariantError, PassError, TraceError
from qpc.recipes import quantize
from tests.quantizing import min_max
from tests.robustness import random_modules
from tests.robustness.modules import random_module
from tests.robustness.outcome import DifferenceError, Outcome, in_general, may_refuse, outcome_of
from tests.robustness.random_modules import Job, run, seconds_in_line
from tests.robustness.segments import check_pieces, check_same, with_steps_as_outputs

pytestmark = pytest.mark.tvm


def _check(job: Job) -> None:
    outcome = run(job)
    assert outcome.verdict != "fault", job.text(outcome)


@pytest.mark.thorough
@pytest.mark.parametrize("seed", [1, 2, *(pytest.param(s, marks=pytest.mark.slow) for s in (4, 5))])
def test_a_random_network_agrees_at_every_stage(seed: int) -> None:
    _check(Job(seed, steps=8, prune=False))


@pytest.mark.every(3)
@pytest.mark.parametrize(
    "seed", [0, 1, *(pytest.param(s, marks=pytest.mark.slow) for s in (2, 4, 5)), 3]
)
def test_a_random_network_is_the_same_pruned_and_masked(seed: int) -> None:
    _check(Job(seed, steps=10, prune=True))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3001, 3051))
def test_many_random_networks_are_the_same_pruned_and_masked(seed: int) -> None:
    _check(Job(seed, steps=10, prune=True))


# --- the generator --------------------------------------------------------------------------------


def test_equal_seeds_write_equal_networks_and_others_write_others() -> None:
    sources = [random_module(seed).source for seed in (5, 5, 6)]
    assert sources[0] == sources[1] != sources[2]


def test_a_network_runs_from_its_text_alone_at_any_batch_size() -> None:
    for seed in range(20):
        defined: dict[str, object] = {}
        exec(random_module(seed).source, defined)
        net, inputs = defined["net"], defined["inputs"]
        assert isinstance(net, nn.Module)
        assert callable(inputs)
        for batch in (1, 3):
            with torch.no_grad():
                net(*inputs(batch))


def test_a_fault_is_told_with_the_network_and_the_command_that_repeats_it() -> None:
    job = Job(7, steps=9, prune=True)
    text = job.text(Outcome("fault", "a wrong value", "5 differ", "Traceback"))
    assert text.startswith("seed 7: a wrong value: 5 differ\nTraceback\n")
    assert random_module(7, 9).source in text
    command = "python -m tests.robustness.random_modules --count 1 --seed 7 --steps 9 --prune"
    assert text.endswith(f"repeat with: {command}")


def test_what_waits_for_a_core_does_not_hang(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the system counts the time in line, it is not held against a network."""
    assert seconds_in_line(None) == 0.0
    counted = Path("/proc/self/schedstat").exists()
    assert (seconds_in_line(os.getpid()) > 0) == counted
    monkeypatch.setattr(random_modules, "_PATIENCE_S", 5.0)
    monkeypatch.setattr(random_modules, "seconds_in_line", lambda pid: time.monotonic())
    worker = random_modules._Worker(Job(0, 1, prune=False))
    try:
        monkeypatch.setattr(time, "monotonic", lambda: 1e9)
        assert worker.outcome(ready=False) is None
        monkeypatch.setattr(random_modules, "seconds_in_line", lambda pid: 0.0)
        outcome = worker.outcome(ready=False)
        assert outcome == Outcome("fault", "it hangs", "no answer in 5 s")
    finally:
        worker.stop()


# --- the verdict ----------------------------------------------------------------------------------


def test_a_reason_is_a_refusal_inside_a_stage_and_a_fault_elsewhere() -> None:
    def refuse() -> None:
        with may_refuse("trace"):
            raise TraceError("'conv1' holds 3 of 9 values that are NaN")

    def fail() -> None:
        raise TraceError("no")

    assert outcome_of(refuse) == Outcome(
        "refused",
        "trace",
        "... holds ... of ... values that are NaN",
        "'conv1' holds 3 of 9 values that are NaN",
    )
    assert outcome_of(fail).where == "a raw TraceError"


def test_unexpected_exceptions_in_passes_and_broken_promises_are_faults() -> None:
    def wrapped() -> None:
        with may_refuse("prune"):
            raise PassError("pass 'create-masks' failed: IndexError: 3") from IndexError("3")

    def broken() -> None:
        with may_refuse("prune"):
            raise InvariantError("fact does not hold")

    def wrong_code() -> None:
        with may_refuse("compile"):
            raise BackendError("TVM cannot compile the graph: LLVM module verification failed: ...")

    checks = (wrapped, broken, wrong_code)
    assert [outcome_of(check).verdict for check in checks] == ["fault", "fault", "fault"]


def test_messages_are_counted_without_the_numbers_and_names_in_them() -> None:
    assert in_general("input 'x0' has shape (3, 4.5e-3)\nmore") == "input ... has shape (..., ...)"


# --- the comparison -------------------------------------------------------------------------------


def test_a_difference_of_values_shapes_types_or_nans_is_found() -> None:
    x = torch.tensor([1.0, torch.nan, torch.inf])
    check_same(x.clone(), x, 0.0, "x")
    check_same(x * (1 + 5e-5), x, 1e-4, "x")
    for other, message in (
        (x * (1 + 2e-4), "1 of 3 values differ"),
        (x.double(), "float64"),
        (x[:2], r"\(2,\)"),
        (x.nan_to_num(posinf=torch.inf), "NaN on one side"),
        (-x, "values differ"),
    ):
        with pytest.raises(DifferenceError, match=message):
            check_same(other, x, 1e-4, "x")


class _FloatThenInteger(nn.Module):
    """A float operator whose value is quantized."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.fc(torch.softmax(x, -1))
        return y


@pytest.fixture
def pieces() -> tuple[torch.fx.GraphModule, Tensor]:
    x = torch.randn(8, 6)
    gm = quantize(trace(_FloatThenInteger().eval(), x), [x], min_max())
    return with_steps_as_outputs(gm), x


def test_a_step_may_differ_only_where_the_value_is_at_an_edge(
    pieces: tuple[torch.fx.GraphModule, Tensor],
) -> None:
    gm, x = pieces
    outputs, steps = gm(x)
    assert len(steps) == 1
    check_pieces(gm, (outputs, steps), [x])
    moved = steps[0].clone()
    moved[0, 0] += 1
    with pytest.raises(DifferenceError, match="1 wrong steps of 48"):
        check_pieces(gm, (outputs, (moved,)), [x])


def test_what_follows_a_step_must_be_right_for_that_step(
    pieces: tuple[torch.fx.GraphModule, Tensor],
) -> None:
    gm, x = pieces
    outputs, steps = gm(x)
    with pytest.raises(DifferenceError, match=r"output dequantize\w*: 1 of 32 values differ"):
        check_pieces(gm, (outputs + torch.eye(8, 4) * torch.eye(8)[:, :1], steps), [x])


def test_gelu_of_infinity_is_infinity_however_many_values_there_are() -> None:
    x = torch.tensor([[torch.inf, torch.inf, 1.0, -1.0]])  # PyTorch: NaN, and inf for one alone
    gm = with_steps_as_outputs(trace(nn.GELU(), x))
    right = torch.tensor([[torch.inf, torch.inf, 0.84134475, -0.15865525]])
    check_pieces(gm, (right, ()), [x])
    with pytest.raises(DifferenceError, match="NaN on one side"):
        check_pieces(gm, (right * torch.nan, ()), [x])


@pytest.mark.thorough
def test_code_with_missing_rows_of_a_kernel_is_made_in_time() -> None:
    """LLVM never ended with one of its kernels, in which one row of inputs stood for three."""
    _check(Job(720104, steps=10, prune=False))
