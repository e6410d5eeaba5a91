from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.fx import GraphModule

from qpc.bench import peers
from qpc.bench.peers import (
    PEERS,
    Files,
    signal_to_noise_db,
    usable_peers,
)
from qpc.bench.request import RUNTIMES
from qpc.children import Ended
from tests.quantizing import Parts, fake_quantized, integer


def graph() -> GraphModule:
    model = Parts(lambda m, x: m.conv(x).relu(), conv=nn.Conv2d(3, 8, 3))
    return integer(fake_quantized(model, torch.randn(1, 3, 8, 8)))


def installed(name: str) -> None:
    """Skip the test without a runtime."""
    for package in RUNTIMES[name]:
        pytest.importorskip(package)


@pytest.mark.parametrize("name", PEERS)
def test_a_peer_runs_the_layers_in_integers_if_it_can(name: str) -> None:
    installed(name)
    gm, x = graph(), torch.randn(1, 3, 8, 8)
    peer = PEERS[name](Files(gm, 1).of(name), [x.numpy()], 1)
    assert (peer.integer_layers, peer.float_layers) == ((0, 1) if name == "torch" else (1, 0))
    assert signal_to_noise_db([gm(x).detach().numpy()], peer.run()) > 20
    for found, again in zip(peer.run(), peer.call([x.numpy()]), strict=True):
        assert np.array_equal(found, again)
    assert peer.version
    assert peer.kernels


@pytest.mark.parametrize("name", PEERS)
def test_other_values_are_not_written_into_the_inputs_that_are_timed(name: str) -> None:
    installed(name)
    gm, x = graph(), torch.randn(1, 3, 8, 8).numpy()
    before = x.copy()
    peer = PEERS[name](Files(gm, 1).of(name), [x], 1)
    first = [np.array(value) for value in peer.run()]
    peer.call([x + 1.0])
    assert np.array_equal(x, before)
    assert all(np.array_equal(a, b) for a, b in zip(first, peer.run(), strict=True))


def test_a_peer_that_crashes_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnx")
    ended = iter([Ended(0), Ended(-11), Ended(1, "", "Traceback\nRuntimeError: no such thing\n")])
    monkeypatch.setattr(peers, "run_module", lambda *_, **__: next(ended))
    monkeypatch.setattr(peers, "check_peers", lambda names: None)
    usable, failures = usable_peers(["onnxruntime", "openvino", "torch"], graph(), 1, 1)
    assert usable == ["onnxruntime"]
    assert failures == {"openvino": "crashed with SIGSEGV", "torch": "RuntimeError: no such thing"}


def test_transposed_convolutions_count_as_layers() -> None:
    pytest.importorskip("onnx")
    model = Parts(
        lambda m, x: m.up(m.conv(x).relu()),
        conv=nn.Conv2d(3, 16, 3),
        up=nn.ConvTranspose2d(16, 16, 2, 2),
    )
    x = torch.randn(1, 3, 8, 8)
    gm = integer(fake_quantized(model, x))
    for name in PEERS:
        installed(name)
        peer = PEERS[name](Files(gm, 1).of(name), [x.numpy()], 1)
        assert peer.integer_layers + peer.float_layers == 2, name


def test_what_has_no_form_that_a_runtime_reads_is_not_run_by_it() -> None:
    installed("litert")
    pytest.importorskip("onnx")
    model = Parts(lambda m, x: torch.logcumsumexp(m.conv(x), 1), conv=nn.Conv2d(3, 8, 3))
    gm = integer(fake_quantized(model, torch.randn(1, 3, 8, 8)))
    assert usable_peers(["torch", "litert"], gm, 1, 1) == (
        [],
        {
            "torch": "no ONNX form for aten.logcumsumexp.default, at logcumsumexp",
            "litert": "no .tflite form for aten.logcumsumexp.default at logcumsumexp (it has none)",
        },
    )


@pytest.mark.thorough
def test_a_peer_is_tried_in_another_process() -> None:
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    installed("litert")
    names = ["onnxruntime", "litert"]
    assert usable_peers(names, graph(), 1, 1) == (names, {})


def test_every_runtime_that_can_be_asked_for_can_be_made() -> None:
    assert set(PEERS) == set(RUNTIMES)


def test_signal_to_noise() -> None:
    a = [np.array([3.0, 4.0])]
    assert signal_to_noise_db(a, a) == float("inf")
    assert signal_to_noise_db(a, [np.array([3.0, 4.5])]) == pytest.approx(20.0)
