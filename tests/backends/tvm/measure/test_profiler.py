from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("tvm")

import qpc
from qpc.backends import tvm
from qpc.backends.common.plan import KernelUse
from qpc.backends.profile import Profile
from qpc.backends.tvm.measure import profiler
from qpc.backends.tvm.measure.peak import Peak
from qpc.backends.tvm.runtime.model import CompiledModel
from qpc.backends.tvm.runtime.tensors import TensorProgram
from qpc.errors import BackendError, UnsupportedTargetError
from qpc.targets import TARGETS, Target
from tests.quantizing import Parts, fake_quantized, integer

pytestmark = pytest.mark.tvm


def compiled(
    target: Target | str = "native", batch_sizes: tuple[int, ...] = (1,), threads: int = 1
) -> CompiledModel:
    model = Parts(
        lambda m, x: m.head(m.second(m.first(x).relu()).mean((2, 3))),
        first=nn.Conv2d(3, 16, 3, padding=1),
        second=nn.Conv2d(16, 32, 3),
        head=nn.Linear(32, 10),
    )
    gm = integer(fake_quantized(model, torch.randn(2, 3, 64, 64)))
    return tvm.compile_graph(gm, target, batch_sizes=batch_sizes, threads=threads)


@pytest.fixture(scope="module")
def model() -> CompiledModel:
    return compiled()


def test_every_kernel_is_timed_and_knows_its_layers(model: CompiledModel) -> None:
    profile = model.profile(repeats=3)
    assert [call.kernel.rpartition("_")[0] for call in profile.calls] == [
        "qpc_quantize",
        "qpc_conv2d",
        "qpc_conv2d",
        "qpc_mean",
        "qpc_conv2d",  # a linear layer is a convolution of one pixel
        "qpc_dequantize",
    ]
    assert [call.macs for call in profile.calls] == [
        0,
        64 * 64 * 16 * 27,
        62 * 62 * 32 * 144,
        0,
        320,
        0,
    ]
    assert all(call.us > 0 for call in profile.calls if call.macs)
    assert profile.calls[1].layers == ("first (conv2d_default)",)
    assert profile.calls[2].bytes > 62 * 62 * 32 + 64 * 64 * 16
    assert 0 < profile.share < 4  # minimal filtering takes a quarter of the multiplications


def test_the_kernels_take_most_of_the_time(model: CompiledModel) -> None:
    profile = model.profile(repeats=9)
    assert 0.4 < profile.kernels_us / profile.total_us <= 1


class SlowMotion:
    """A program on a clock that only it moves: three ticks of the counter are a nanosecond.

    Checks take 1000 ns before the kernels and 500 ns after them.
    """

    def __init__(self, kernels_ns: Sequence[int], interruptions: Mapping[tuple[int, int], int]):
        self.kernels_ns, self.interruptions = kernels_ns, interruptions
        self.now, self.lost, self.runs = 0, 0, 0

    def empty_stamps(self, batch: int) -> Tensor:
        return torch.zeros(len(self.kernels_ns) + 1, dtype=torch.int64)

    def run(self, batch: int, inputs: Sequence[Tensor], stamps: Tensor) -> None:
        self.now += 1000
        stamps[0] = 3 * self.now
        for i, ns in enumerate(self.kernels_ns):
            self.now += ns
            self.interrupt(i)
            stamps[i + 1] = 3 * self.now
        self.now += 500
        self.interrupt(-1)
        self.runs += 1

    def interrupt(self, after: int) -> None:
        ns = self.interruptions.get((self.runs, after), 0)
        self.now += ns
        self.lost += ns

    def loop(self) -> None:
        self.now += 10_000

    def profile(self, repeats: int) -> Profile:
        uses = [KernelUse(f"kernel_{i}", (), 1000, 10) for i in range(len(self.kernels_ns))]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(profiler, "peak", lambda target: Peak(self.loop, 1_000_000))
            patch.setattr(profiler, "_copy_speeds", lambda: {1024: 10.0})
            patch.setattr("time.perf_counter_ns", lambda: self.now)
            patch.setattr("time.thread_time_ns", lambda: self.now - self.lost)
            return profiler.profile(
                cast(TensorProgram, self),
                uses,
                [],
                target=TARGETS[0],
                batch=1,
                threads=1,
                repeats=repeats,
            )


@pytest.mark.parametrize(
    "interruptions",
    [
        pytest.param({}, id="quiet"),
        pytest.param({(2, 0): 4_000_000, (3, -1): 4_000_000}, id="busy"),
        pytest.param({(i, 0): 4_000_000 for i in range(1, 12)}, id="at the same kernel each time"),
    ],
)
def test_parts_add_up_and_are_right_although_others_had_the_core_meanwhile(
    interruptions: dict[tuple[int, int], int],
) -> None:
    found = SlowMotion((20_000, 5_000), interruptions).profile(repeats=5)
    assert [call.us for call in found.calls] == pytest.approx([20, 5])
    assert (found.other_us, found.total_us) == pytest.approx((1.5, 26.5))
    assert found.machine.gmac_s == pytest.approx(100)


def test_where_all_rounds_are_interrupted_the_least_times_count() -> None:
    slow = SlowMotion((20_000, 5_000), {(i, i % 4 != 0): 4_000_000 for i in range(100)})
    found = slow.profile(repeats=5)
    assert slow.runs == 1 + 4 * 5
    assert [call.us for call in found.calls] == pytest.approx([20, 5])


def test_no_run_takes_less_time_than_its_kernels() -> None:
    """An interruption after the last run makes the ticks between the first and it seem long."""
    found = SlowMotion((20_000, 5_000), {(1, -1): 4_000_000}).profile(repeats=1)
    assert found.other_us >= 0
    assert 25 <= found.kernels_us <= 26.5


def test_a_loaded_model_knows_the_same(model: CompiledModel, tmp_path: Path) -> None:
    model.save(tmp_path / "model")
    found = qpc.load(tmp_path / "model").profile(repeats=1)
    assert [(c.kernel, c.layers, c.macs, c.bytes) for c in found.calls] == [
        (c.kernel, c.layers, c.macs, c.bytes) for c in model.profile(repeats=1).calls
    ]


def test_results_are_the_same_afterwards(model: CompiledModel) -> None:
    x = torch.randn(1, 3, 64, 64)
    before = model(x)
    model.profile([x], repeats=1)
    assert torch.equal(model(x), before)


@pytest.mark.thorough
def test_each_batch_size_has_its_own_calls() -> None:
    model = compiled(batch_sizes=(1, 2), threads=2)
    two = model.profile([torch.zeros(2, 3, 64, 64)], repeats=1)
    assert (two.batch, two.threads) == (2, 2)
    assert two.calls[1].macs == 2 * model.profile(repeats=1).calls[1].macs


def test_wrong_requests_are_refused(model: CompiledModel) -> None:
    with pytest.raises(ValueError, match="repeats must be at least 1, got 0"):
        model.profile(repeats=0)
    with pytest.raises(BackendError, match="has shape"):
        model.profile([torch.zeros(1, 3, 9, 9)])


def test_code_for_another_cpu_has_no_profile(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Target, "runs_here", lambda self: "this CPU lacks magic")
    with pytest.raises(UnsupportedTargetError, match="this CPU lacks magic"):
        compiled(TARGETS[-1]).profile(repeats=1)
