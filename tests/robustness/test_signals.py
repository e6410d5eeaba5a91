"""Ctrl-C and other signals at any moment: no crash, nothing half done, and the next call works.

python -m tests.robustness.test_signals --tries 200 --seed 0
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import tempfile
import threading
import time
import weakref
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("tvm_ffi", reason="Apache TVM is not installed")
import torch
from torch import nn

import qpc
from qpc.backends.tvm.runtime.model import CompiledModel
from qpc.errors import BackendError
from qpc.targets import Target
from tests.robustness.small_models import Answers, small_model
from tests.sharing import sharing_freely

pytestmark = pytest.mark.tvm

THREADS = pytest.mark.parametrize("threads", [1, 2], ids=["one-thread", "two-threads"])


@pytest.fixture(scope="module")
def answers() -> Answers:
    return Answers()


@contextmanager
def handler(of: int, handle: Callable[[], object]) -> Iterator[None]:
    before = signal.signal(of, lambda number, frame: handle())
    try:
        yield
    finally:
        signal.signal(of, before)


@contextmanager
def during_a_call(model: CompiledModel, action: Callable[[], None]) -> Iterator[None]:
    """Do something in the middle of every call of a model, in the thread that runs it."""
    assert model._program is not None
    (call,) = model._program._calls.values()
    original = call.run

    def run(*args: object) -> None:
        action()
        original(*args)  # type: ignore[arg-type]  # whatever `run` was given

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(call, "run", run)
        yield


def signal_main(number: int, until: threading.Event) -> None:
    """Send a signal to the main thread until it has come: one that comes too early waits."""
    main = threading.main_thread().ident
    assert main is not None
    signal.pthread_kill(main, number)
    while not until.wait(0.05):
        signal.pthread_kill(main, number)


@THREADS
def test_a_call_in_a_signal_handler_during_a_call_is_an_error(
    threads: int, answers: Answers
) -> None:
    model, x = small_model(threads), answers.inputs[0]
    errors: list[BackendError] = []
    handled = threading.Event()

    def call_it() -> None:
        try:
            model(x)
        except BackendError as e:
            errors.append(e)
        handled.set()

    with (
        handler(signal.SIGUSR1, call_it),
        during_a_call(model, lambda: signal_main(signal.SIGUSR1, handled)),
    ):
        assert answers.right(0, model(x))
    assert errors
    assert str(errors[0]).startswith("the model is called while a call of it runs in the same")
    assert errors[0].fix == "call it later, or call another: model.clone()"
    assert answers.wrong_calls(model, 3, 0) == 0


def test_a_clone_may_be_called_in_a_signal_handler(answers: Answers) -> None:
    model, x = small_model(2), answers.inputs[0]
    twin, handled = model.clone(), threading.Event()
    found: list[bool] = []

    def call_the_twin() -> None:
        if not found:
            found.append(answers.right(0, twin(x)))
        handled.set()

    with (
        handler(signal.SIGUSR1, call_the_twin),
        during_a_call(model, lambda: signal_main(signal.SIGUSR1, handled)),
    ):
        assert answers.right(0, model(x))
    assert found == [True]


@THREADS
def test_a_call_by_an_object_that_is_destroyed_in_a_call_is_an_error(
    threads: int, answers: Answers
) -> None:
    model, messages = small_model(threads), []

    def call_it() -> None:  # in the worker's thread, if there is one
        try:
            model(answers.inputs[0])
        except BackendError as e:
            messages.append(str(e))

    with during_a_call(model, call_it):
        assert answers.right(1, model(answers.inputs[1]))
    assert len(messages) == 1
    assert "or while an object is destroyed" in messages[0]


def test_what_a_thread_still_writes_to_is_kept_when_the_caller_is_interrupted(
    answers: Answers,
) -> None:
    model = small_model(2)
    go_on, interrupted, done = threading.Event(), threading.Event(), threading.Event()

    def interrupt_and_wait() -> None:
        signal_main(signal.SIGINT, interrupted)
        go_on.wait()

    kept: list[weakref.ref[object]] = []
    assert model._program is not None
    types = model._program._calls[1].output_types
    original = np.empty

    def watched(*args: object) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
        made: np.ndarray[tuple[int, ...], np.dtype[np.float32]] = original(*args)  # type: ignore[call-overload]  # whatever `np.empty` was given
        kept.append(weakref.ref(made))
        return made

    x = answers.inputs[0].numpy().copy()
    kept.append(weakref.ref(x))
    with during_a_call(model, interrupt_and_wait), pytest.MonkeyPatch.context() as patch:
        patch.setattr("qpc.runtime.program.np.empty", watched)
        with pytest.raises(KeyboardInterrupt):
            model(x)
        interrupted.set()
    del x
    assert len(kept) == 1 + len(types)
    assert all(reference() is not None for reference in kept)
    go_on.set()
    assert answers.wrong_calls(model, 3, 0) == 0  # waits for the end of the call before
    assert all(reference() is None for reference in kept)
    done.set()


# --- Ctrl-C at random moments ---------------------------------------------------------------------


def _network() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.Flatten(), nn.Linear(8 * 64, 10)
    ).eval()


class Scenarios:
    """What may be interrupted, and how to see that all is well afterwards."""

    def __init__(self, folder: Path) -> None:
        torch.manual_seed(0)
        self.folder = folder
        self.answers = Answers(2)
        self.models = {threads: small_model(threads) for threads in (1, 2)}
        self.x = torch.randn(4, 3, 12, 12)
        self.float = qpc.trace(_network(), self.x)
        self.integer = qpc.quantize(self.float, [self.x])
        self.expected = self.integer(self.x)
        self.save()
        self.kinds: Mapping[str, Callable[[], object]] = {
            "trace": lambda: qpc.trace(_network(), self.x),
            "quantize": self.quantize,
            "compile": self.compile,
            "compile for two threads": lambda: self.compile(2),
            "save": self.save,
            "load": lambda: qpc.load(self.folder / "model"),
            "clone": lambda: [self.models[2].clone() for _ in range(5)],
            "profile": lambda: self.models[2].profile(repeats=3),
            "benchmark": lambda: self.models[2].benchmark(repeats=50),
            "calls": lambda: self.answers.wrong_calls(self.models[1], 300, 0),
            "calls in two threads": lambda: self.answers.wrong_calls(self.models[2], 300, 0),
            "calls on arrays": lambda: [
                self.models[2](self.answers.inputs[0].numpy()) for _ in range(300)
            ],
        }
        self.seconds = {name: self._seconds(action) for name, action in self.kinds.items()}

    def quantize(self) -> object:
        return qpc.quantize(self.float, [self.x])

    def compile(self, threads: int = 1) -> CompiledModel:
        target, cache = sharing_freely(Target.native()), self.folder / "cache"
        return qpc.compile(self.integer, target, batch_sizes=(4,), threads=threads, cache=cache)

    def save(self) -> None:
        self.models[2].save(self.folder / "model")
        qpc.save_graph(self.integer, self.folder / "graph")

    def interrupt(self, name: str, delay: float) -> bool:
        """Press Ctrl-C so many seconds after the start; whether that came before the end."""
        armed = [True]

        def stop(number: int, frame: object) -> None:
            if armed:
                armed.clear()
                raise KeyboardInterrupt

        before = signal.signal(signal.SIGINT, stop)
        timer = threading.Timer(delay, os.kill, (os.getpid(), signal.SIGINT))
        try:
            timer.start()
            self.kinds[name]()
            timer.cancel()
            timer.join()
            armed.clear()
        except KeyboardInterrupt:
            return True
        finally:
            signal.signal(signal.SIGINT, before)
        return False

    def check(self, name: str) -> None:
        """Everything works, and everything on disk is whole."""
        for model in (*self.models.values(), qpc.load(self.folder / "model")):
            assert self.answers.wrong_calls(model, 4, 0) == 0
        assert torch.equal(qpc.load_graph(self.folder / "graph")(self.x), self.expected)
        if name.startswith("compile"):
            assert torch.equal(self.compile()(self.x), self.expected)
        if name == "quantize":
            assert torch.equal(qpc.quantize(self.float, [self.x])(self.x), self.expected)
        left = [path.name for path in self.folder.iterdir() if path.name.startswith(".")]
        assert name == "save" or not left, f"left behind: {left}"
        if left:  # an interrupt while cleaning up: the next save does it
            self.save()
            assert not [p for p in self.folder.iterdir() if p.name.startswith(".")]

    def _seconds(self, action: Callable[[], object]) -> float:
        """How long it takes as in the tries: the first time, it imports and fills caches."""
        action()
        start = time.perf_counter()
        action()
        return time.perf_counter() - start


def campaign(tries: int, seed: int, folder: Path, report: int = 0) -> Counter[str]:
    """How many of the tries were interrupted, by what was; a line of progress every `report`."""
    choose, scenarios = random.Random(seed), Scenarios(folder)
    found: Counter[str] = Counter()
    for number in range(tries):
        name = choose.choice(list(scenarios.kinds))
        delay = choose.uniform(0, scenarios.seconds[name])
        found[name] += scenarios.interrupt(name, delay)
        try:
            scenarios.check(name)
        except BaseException as e:
            e.add_note(
                f"after try {number}, Ctrl-C {delay:.4f} s into {name!r}: python -m"
                f" tests.robustness.test_signals --tries {number + 1} --seed {seed}"
            )
            raise
        if report and (number + 1) % report == 0:
            print(f"{number + 1} tries, {found.total()} interrupted", flush=True)  # noqa: T201
    return found


# In the callback of a weak reference Python drops Ctrl-C with a warning, as it does any exception.
dropped_in_a_callback = pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning"
)


@dropped_in_a_callback
@pytest.mark.thorough
def test_ctrl_c_at_random_moments_leaves_nothing_half_done(tmp_path: Path) -> None:
    assert campaign(8, 0, tmp_path).total() > 0


@dropped_in_a_callback
@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_ctrl_c_at_many_random_moments_leaves_nothing_half_done(tmp_path: Path) -> None:
    assert campaign(200, 1, tmp_path).total() > 100


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--tries", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = campaign(options.tries, options.seed, Path(folder), report=10)
    print(f"{options}: {found.total()} interrupted: {dict(found)}")  # noqa: T201


if __name__ == "__main__":
    main()
