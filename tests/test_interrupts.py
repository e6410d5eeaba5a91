from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Iterator

import pytest
import torch
from torch import nn

import qpc
from qpc.interrupts import deferred_signals, signals_that_end_no_process


@pytest.fixture(autouse=True)
def _handlers() -> Iterator[None]:
    before = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def test_ctrl_c_comes_when_the_block_has_ended() -> None:
    done = []

    def work() -> None:
        with deferred_signals():
            signal.raise_signal(signal.SIGINT)
            done.append("the rest of the block")

    with pytest.raises(KeyboardInterrupt):
        work()
    assert done
    with pytest.raises(KeyboardInterrupt):  # and at once again
        signal.raise_signal(signal.SIGINT)


def test_every_handler_is_called_for_every_signal_in_its_order() -> None:
    came = []
    for number in (signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, lambda number, _: came.append(number))
    with deferred_signals():
        for number in (signal.SIGUSR2, signal.SIGUSR1, signal.SIGUSR2):
            signal.raise_signal(number)
        assert came == []
    assert came == [signal.SIGUSR2, signal.SIGUSR1, signal.SIGUSR2]


def test_an_exception_of_the_block_gets_out_and_handlers_are_as_before() -> None:
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(ZeroDivisionError), deferred_signals():
        raise ZeroDivisionError
    assert signal.getsignal(signal.SIGINT) is before


def test_a_handler_that_the_block_installs_stays() -> None:
    with deferred_signals():
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN


def test_in_another_thread_there_is_nothing_to_defer() -> None:
    handlers = []

    def look() -> None:
        with deferred_signals():
            handlers.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert handlers == [signal.getsignal(signal.SIGINT)]


def find_torch_dispatch_rule(steps: list[str]) -> None:
    """Called like what C++ of PyTorch calls where no exception must leave it."""
    signal.raise_signal(signal.SIGINT)
    steps.append("the rest of the lookup")


def test_ctrl_c_comes_after_what_no_exception_must_leave() -> None:
    steps: list[str] = []

    def work() -> None:
        with signals_that_end_no_process():
            find_torch_dispatch_rule(steps)
            time.sleep(60.0)
            steps.append("slept")

    with pytest.raises(KeyboardInterrupt):
        work()
    assert steps == ["the rest of the lookup"]


def test_elsewhere_it_comes_at_once_in_nested_blocks_too() -> None:
    before = signal.getsignal(signal.SIGINT)

    def work() -> None:
        with signals_that_end_no_process(), signals_that_end_no_process():
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        work()
    assert signal.getsignal(signal.SIGINT) is before


# In the callback of a weak reference Python drops Ctrl-C with a warning, as it does any exception.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.thorough
def test_ctrl_c_while_a_model_is_traced_ends_no_process() -> None:
    """The lookup takes a small share of the time: each try is one more chance of it."""
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 2))
    x, tries, came = torch.ones(1, 3, 4, 4), 60, 0
    qpc.trace(model, x)  # the first time, it imports
    start = time.perf_counter()
    qpc.trace(model, x)
    seconds = time.perf_counter() - start
    armed: list[bool] = []

    def stop(_number: int, _frame: object) -> None:
        if armed:  # one that comes late would interrupt whatever runs then
            armed.clear()
            raise KeyboardInterrupt

    signal.signal(signal.SIGINT, stop)
    for number in range(tries):
        armed.append(True)
        timer = threading.Timer(seconds * number / tries, signal.raise_signal, [signal.SIGINT])
        try:
            timer.start()
            qpc.trace(model, x)
            timer.join()
        except KeyboardInterrupt:
            came += 1
        with contextlib.suppress(KeyboardInterrupt):
            armed.clear()
        for thread in threading.enumerate():
            if isinstance(thread, threading.Timer):
                thread.join()
    assert came > tries / 2
