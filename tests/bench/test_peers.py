from __future__ import annotations

import importlib.util
import subprocess
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.fx import GraphModule

from qpc.bench import peers
from qpc.bench.peers import (
    INT8_PEERS,
    PEERS,
    check_peers,
    installed_peers,
    signal_to_noise_db,
    usable_peers,
)
from qpc.bench.qdq import to_qdq
from qpc.errors import BackendError, MissingDependencyError
from tests.quantizing import Parts, fake_quantized, integer


def graph() -> GraphModule:
    model = Parts(lambda m, x: m.conv(x).relu(), conv=nn.Conv2d(3, 8, 3))
    return integer(fake_quantized(model, torch.randn(1, 3, 8, 8)))


@pytest.mark.parametrize("name", PEERS)
def test_a_peer_runs_the_layers_in_integers_if_it_can(name: str) -> None:
    pytest.importorskip("onnx")
    pytest.importorskip(name)
    gm, x = graph(), torch.randn(1, 3, 8, 8)
    peer = PEERS[name](to_qdq(gm), [x.numpy()], 1)
    assert (peer.integer_layers, peer.float_layers) == ((1, 0) if name in INT8_PEERS else (0, 1))
    assert signal_to_noise_db([gm(x).detach().numpy()], peer.run()) > 20
    assert peer.version
    assert peer.kernels


def test_a_peer_that_crashes_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnx")
    returned = iter([(0, ""), (-11, ""), (1, "Traceback\nRuntimeError: no such thing\n")])

    def run(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        status, text = next(returned)
        return subprocess.CompletedProcess(command, status, "", text)

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(peers, "PEERS", {"onnx": None, "numpy": None, "torch": None})
    usable, failures = usable_peers(["onnx", "numpy", "torch"], graph(), 1, 1)
    assert usable == ["onnx"]
    assert failures == {"numpy": "crashes with SIGSEGV", "torch": "RuntimeError: no such thing"}


def test_transposed_convolutions_count_as_layers() -> None:
    pytest.importorskip("onnx")
    model = Parts(
        lambda m, x: m.up(m.conv(x).relu()),
        conv=nn.Conv2d(3, 16, 3),
        up=nn.ConvTranspose2d(16, 16, 2, 2),
    )
    x = torch.randn(1, 3, 8, 8)
    qdq = to_qdq(integer(fake_quantized(model, x)))
    for name in PEERS:
        pytest.importorskip(name)
        peer = PEERS[name](qdq, [x.numpy()], 1)
        assert peer.integer_layers + peer.float_layers == 2, name


def test_what_has_no_onnx_form_is_run_by_none() -> None:
    pytest.importorskip("onnx")
    model = Parts(lambda m, x: torch.cumsum(m.conv(x), 1), conv=nn.Conv2d(3, 8, 3))
    gm = integer(fake_quantized(model, torch.randn(1, 3, 8, 8)))
    assert usable_peers(["torch"], gm, 1, 1) == (
        [],
        {"torch": "no ONNX form for aten.cumsum.default, at cumsum"},
    )


def test_a_peer_is_tried_in_another_process() -> None:
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    assert usable_peers(["onnxruntime"], graph(), 1, 1) == (["onnxruntime"], {})


def test_unknown_and_missing_peers_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BackendError, match="unknown runtime 'tflite'") as caught:
        check_peers(["tflite"])
    assert caught.value.fix == "one of onnxruntime, openvino, torch"
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match="openvino is not installed"):
        check_peers(["openvino"])
    assert installed_peers() == []


def test_the_installed_peers_are_some_of_the_known() -> None:
    assert set(installed_peers()) <= set(PEERS)


def test_signal_to_noise() -> None:
    a = [np.array([3.0, 4.0])]
    assert signal_to_noise_db(a, a) == float("inf")
    assert signal_to_noise_db(a, [np.array([3.0, 4.5])]) == pytest.approx(20.0)
