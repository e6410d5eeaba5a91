"""Models that are called in forked processes, as servers and data loaders do.

python -m tests.robustness.test_forks --tries 100000 --children 4 --threads 2 --seed 0
"""

from __future__ import annotations

import argparse
import os
import select
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable
from functools import partial

import pytest

pytest.importorskip("tvm_ffi", reason="Apache TVM is not installed")

from qpc.backends.tvm.runtime.model import CompiledModel
from qpc.errors import BackendError
from tests.robustness.small_models import Answers, small_model

pytestmark = pytest.mark.tvm

_PATIENCE = 60.0  # seconds without an answer are a hang
_FAILED, _HUNG = 255, -1


@pytest.fixture(scope="module", params=[1, 2], ids=["one-thread", "two-threads"])
def model(request: pytest.FixtureRequest) -> CompiledModel:
    return small_model(request.param)


@pytest.fixture(scope="module")
def answers() -> Answers:
    return Answers()


def _fork_unmeasured() -> int:
    """Fork without a tool that measures coverage: it holds a lock at every call, in any thread.

    A child that was forked at such a moment would wait for that lock for ever.
    """
    tracing = sys.gettrace()
    sys.settrace(None)
    pid = os.fork()
    if pid:
        sys.settrace(tracing)
    return pid


class Child:
    """A forked process that returns a number below 255."""

    def __init__(self, work: Callable[[], int]) -> None:
        self._end, writer = os.pipe()
        with warnings.catch_warnings():  # Python warns of forks in processes with threads
            warnings.simplefilter("ignore", DeprecationWarning)
            self._pid = _fork_unmeasured()
        if self._pid == 0:
            code = _FAILED
            try:
                code = min(work(), _FAILED - 1)
            finally:
                os.write(writer, bytes([code]))
                os._exit(0)
        os.close(writer)

    def result(self, patience: float = _PATIENCE) -> int:
        """What it returned; 255 for an exception, -1 if it hung."""
        ready, _, _ = select.select([self._end], [], [], patience)
        if not ready:
            os.kill(self._pid, signal.SIGKILL)
        answer = os.read(self._end, 1)
        os.waitpid(self._pid, 0)
        os.close(self._end)
        return answer[0] if answer else _HUNG


def test_children_and_parent_do_not_disturb_each_other(
    model: CompiledModel, answers: Answers
) -> None:
    children = [Child(partial(answers.wrong_calls, model, 100, seed)) for seed in range(3)]
    assert answers.wrong_calls(model, 100, 9) == 0
    assert [child.result() for child in children] == [0, 0, 0]


def test_a_child_of_a_child_works_too(model: CompiledModel, answers: Answers) -> None:
    def grow() -> int:
        wrong = answers.wrong_calls(model, 5, 1)
        return wrong + Child(lambda: answers.wrong_calls(model, 5, 2)).result()

    assert Child(grow).result() == 0


@pytest.mark.thorough
def test_a_process_may_be_forked_while_a_thread_is_in_a_call(
    model: CompiledModel, answers: Answers
) -> None:
    stop = threading.Event()
    wrong: list[int] = []

    def call_all_the_time() -> None:
        while not stop.is_set():
            wrong.append(answers.wrong_calls(model, 1, 0))

    thread = threading.Thread(target=call_all_the_time)
    thread.start()
    try:
        results = [Child(lambda: answers.wrong_calls(model, 3, 1)).result() for _ in range(20)]
    finally:
        stop.set()
        thread.join()
    assert results == [0] * 20
    assert not sum(wrong)


def test_a_clone_works_in_a_child_and_a_model_can_be_cloned_there(
    model: CompiledModel, answers: Answers
) -> None:
    twin = model.clone()
    assert Child(lambda: answers.wrong_calls(twin, 5, 1)).result() == 0
    assert Child(lambda: answers.wrong_calls(model.clone(), 5, 1)).result() == 0


def test_a_child_may_free_the_model(answers: Answers) -> None:
    model = small_model(2)
    assert answers.wrong_calls(model, 1, 0) == 0
    holder = [model]

    def free() -> int:
        holder.clear()
        return 0

    del model
    assert Child(free).result() == 0
    assert answers.wrong_calls(holder[0], 1, 0) == 0


def test_a_call_that_is_forked_in_the_middle_is_an_error_in_the_child(answers: Answers) -> None:
    model = small_model(2)
    assert model._program is not None
    worker = model._program._worker
    assert worker is not None
    main = threading.main_thread().ident
    assert main is not None
    end, writer = os.pipe()
    forked = threading.Event()
    pids: list[int] = []
    started: list[bool] = []

    def interrupt_the_caller() -> None:
        signal.pthread_kill(main, signal.SIGUSR1)
        while not forked.wait(0.05):  # it came just before the caller began to wait
            signal.pthread_kill(main, signal.SIGUSR1)

    def fork(number: int, frame: object) -> None:
        if started:
            return
        started.append(True)
        pids.append(os.fork())
        if pids != [0]:  # the event's lock may be held in the child, by a thread that is not there
            forked.set()

    before = signal.signal(signal.SIGUSR1, fork)
    outcome = b"it returned"
    try:
        worker.run(interrupt_the_caller)
    except BackendError as e:
        outcome = str(e).encode()
    finally:
        if pids == [0]:
            os.write(writer, outcome)
            os._exit(0)
        signal.signal(signal.SIGUSR1, before)
    ready, _, _ = select.select([end], [], [], _PATIENCE)
    if not ready:
        os.kill(pids[0], signal.SIGKILL)
    os.waitpid(pids[0], 0)
    wanted = b"the process was forked while the model ran, and only its parent has the result"
    assert ready
    assert os.read(end, 200) == wanted
    assert outcome == b"it returned"
    assert answers.wrong_calls(model, 1, 0) == 0


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("children", [2, 4])
def test_many_calls_in_many_children(threads: int, children: int) -> None:
    assert campaign(25_000, children, threads, seed=0) == (0, 0)


def campaign(tries: int, children: int, threads: int, seed: int) -> tuple[int, int]:
    """Share `tries` calls among children, and count wrong values and hangs or failures."""
    answers, model = Answers(), small_model(threads)
    each = -(-tries // children)
    started = [Child(partial(answers.wrong_calls, model, each, seed + n)) for n in range(children)]
    here = answers.wrong_calls(model, each // 10, seed)
    results = [child.result(patience=600) for child in started]
    failed = sum(r in (_FAILED, _HUNG) for r in results)
    return here + sum(r for r in results if r not in (_FAILED, _HUNG)), failed


def main() -> None:
    parser = argparse.ArgumentParser()
    for name, default in (("tries", 100_000), ("children", 4), ("threads", 2), ("seed", 0)):
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    start = time.perf_counter()
    wrong, failed = campaign(options.tries, options.children, options.threads, options.seed)
    took = time.perf_counter() - start
    print(f"{options}: {wrong} wrong calls, {failed} children failed or hung, {took:.0f} s")  # noqa: T201
    raise SystemExit(bool(wrong or failed))


if __name__ == "__main__":
    main()
