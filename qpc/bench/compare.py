"""One quantized network in QPC and in other runtimes, measured in turns.

All run the same weights, scales and zero points; inputs and outputs are numpy arrays for all. The
ratio is taken within a round, so that a clock that moves, or other programs that want the cores,
meet all alike. A loop of dot products on registers takes part in the rounds: what it reaches is
the peak at the very time.

How well the results are is measured twice: against QPC's, which are those of the integer graph, and
against float32, of the same network with the same values of weights, where nothing is rounded. What
saturates in between is far from both.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.fx import GraphModule
from torch.utils._pytree import tree_leaves

from qpc.backends.tvm.measure.peak import peak
from qpc.backends.tvm.runtime.model import CompiledModel
from qpc.bench.peer import Array, Peer
from qpc.bench.peers import INT8_PEERS, PEERS, Files, signal_to_noise_db
from qpc.bench.request import check_peers
from qpc.bench.throughput import throughput
from qpc.bench.torch_peer import FloatModel
from qpc.bench.turns import Block, Ratio, Times, cpu_share, in_turns, ratio, times
from qpc.channels.cost import cost
from qpc.errors import MissingDependencyError, UnsupportedOpError
from qpc.explanation.evaluation import Part, any_size
from qpc.targets import Target
from qpc.terminal.notebook import Shown
from qpc.terminal.plain import plain


@dataclass(frozen=True)
class PeerResult:
    """Another runtime: its times, QPC's time over its time, and what it ran.

    agreement_db: signal-to-noise ratio of its output against QPC's. float_db: the same against the
    network in float32; NaN if that cannot be run. per_s: samples in a second, of all instances.
    accuracy: share of the samples that it gets right; None without labelled ones.
    """

    name: str
    version: str
    times: Times
    ratio: Ratio
    ready_s: float
    integer_layers: int
    float_layers: int
    agreement_db: float
    kernels: Mapping[str, int]
    per_s: float = math.nan
    accuracy: float | None = None
    float_db: float = math.nan


@dataclass(frozen=True, repr=False)
class Comparison(Shown):
    """One network in all runtimes.

    differing: how many output values of the compiled model are not those of the integer graph.
    peak_gmac_s: 1e9 multiply-accumulates per second of the loop on registers, all threads.
    share: what QPC reaches of that, the median over rounds; share_cpu: the same by processor time,
    that of all threads together.
    macs: multiply-accumulates of one call.
    load: the machine's load average before the rounds.
    instances: how many copies run side by side where samples in a second are counted: per_s.
    accuracy, float_db: as those of peers. samples: how many the accuracy was measured on.
    saturates: whether this CPU's fastest products of bytes are added in 16 bits.
    """

    network: str
    batch: int
    threads: int
    rounds: int
    macs: int
    differing: int
    times: Times
    share: float
    share_cpu: float
    peak_gmac_s: float
    peers: tuple[PeerResult, ...]
    cpu_share: float
    load: float
    instances: int = 1
    per_s: float = math.nan
    accuracy: float | None = None
    samples: int = 0
    float_db: float = math.nan
    saturates: bool = False

    def _bars(self) -> tuple[str, Iterator[tuple[str, float]]]:
        return (
            "median ms",
            (
                (one, t.median_ms)
                for one, t in [("QPC", self.times), *((p.name, p.times) for p in self.peers)]
            ),
        )

    @property
    def fastest(self) -> PeerResult | None:
        """The peer with the smallest median time."""
        return min(self.peers, key=lambda peer: peer.times.median_ms, default=None)

    def to_json(self) -> dict[str, Any]:
        """The comparison as JSON values, which know no infinity: equal outputs agree to null dB."""
        fastest = self.fastest
        values = plain(self)
        assert isinstance(values, dict)
        return values | {
            "fastest": fastest and fastest.name,
            "ratio_to_fastest": fastest and fastest.ratio.median,
        }


def compare(
    network: str,
    integer: GraphModule,
    compiled: CompiledModel,
    inputs: Sequence[Array],
    *,
    threads: int = 1,
    rounds: int = 50,
    peers: Sequence[str] = INT8_PEERS,
    instances: int = 1,
    parts: Iterable[Part] = (),
    told: Callable[[str], None] = lambda what: None,
) -> Comparison:
    """Measure `compiled`, which was made from the graph `integer`, and the same in other runtimes.

    inputs: float32 arrays of one batch size that `compiled` takes. peers: names of
    `qpc.bench.peers.PEERS`; each must be installed. instances: how many copies of each run side by
    side to count samples in a second. parts: labelled samples, to measure the accuracy of all.
    told: what is being measured.

    Raises MissingDependencyError for a runtime that is not installed.
    """
    check_peers(peers)
    batch, ours = len(inputs[0]), _flat(compiled(*inputs))
    told("getting the other runtimes ready")
    forms = Files(integer, batch)
    files = {name: forms.of(name) for name in peers}
    others = [PEERS[name](data, list(inputs), threads) for name, data in files.items()]
    loop, macs = peak(compiled.target), cost(integer).macs * batch
    calls = _calls(compiled, inputs, others) | {"peak": loop.run}
    told("timing in turns")
    load, blocks = os.getloadavg()[0], in_turns(calls, rounds)
    loops = blocks.pop("peak")
    rates = _rates(compiled, inputs, files, threads, instances, told)
    right, samples = _accuracies(compiled, others, parts, batch, told)
    real = _in_float(forms, inputs) if peers else []
    return Comparison(
        network=network,
        batch=batch,
        threads=threads,
        rounds=rounds,
        macs=macs,
        differing=count_differing(integer, inputs, ours),
        times=times(blocks[_OURS]),
        share=macs / loop.macs / threads * ratio(loops, blocks[_OURS]).median,
        share_cpu=macs / loop.macs * ratio(loops, blocks[_OURS]).cpu,
        peak_gmac_s=loop.macs / times(loops).median_ms / 1e6 * threads,
        peers=tuple(
            _peer_result(peer, blocks, (ours, real), rates.get(name), right, batch)
            for name, peer in zip(files, others, strict=True)
        ),
        cpu_share=cpu_share(blocks, threads),
        load=load,
        instances=instances,
        per_s=rates.get(_OURS) or _per_s(blocks[_OURS], batch),
        accuracy=right.get(_OURS),
        samples=samples,
        float_db=signal_to_noise_db(real, ours) if real else math.nan,
        saturates=Target.native().gains_by_safe_pairs,
    )


_OURS, _MS = "QPC", 1e3


def _calls(
    compiled: CompiledModel, inputs: Sequence[Array], others: Sequence[Peer]
) -> dict[str, Callable[[], object]]:
    """What is timed, by name."""
    return {_OURS: lambda: compiled(*inputs), **{peer.name: peer.run for peer in others}}


def _per_s(blocks: list[Block], batch: int) -> float:
    """Samples in a second, if one call follows the other."""
    return batch * _MS / times(blocks).median_ms


def _peer_result(
    peer: Peer,
    blocks: Mapping[str, list[Block]],
    outputs: tuple[Sequence[Array], Sequence[Array]],
    per_s: float | None,
    right: Mapping[str, float],
    batch: int,
) -> PeerResult:
    """outputs: QPC's and those in float32, which may be missing."""
    ours, real = outputs
    measured = times(blocks[peer.name])
    return PeerResult(
        peer.name,
        peer.version,
        measured,
        ratio(blocks[_OURS], blocks[peer.name]),
        peer.ready_s,
        peer.integer_layers,
        peer.float_layers,
        _agreement(peer, ours),
        peer.kernels,
        per_s or _per_s(blocks[peer.name], batch),
        right.get(peer.name),
        _agreement(peer, real),
    )


def _rates(
    compiled: CompiledModel,
    inputs: Sequence[Array],
    files: Mapping[str, bytes],
    threads: int,
    instances: int,
    told: Callable[[str], None],
) -> dict[str, float]:
    """Samples in a second of several instances, by runtime; nothing for one, which was timed."""
    told("counting samples in a second")
    if instances == 1:
        return {}
    clones = [compiled.clone() for _ in range(instances)]
    calls: dict[str, list[Callable[[], object]]] = {
        _OURS: [lambda clone=clone: clone(*inputs) for clone in clones]  # type: ignore[misc]  # mypy types no defaults
    }
    for name, data in files.items():
        calls[name] = [PEERS[name](data, list(inputs), threads).run for _ in range(instances)]
    return {name: throughput(each, len(inputs[0])) for name, each in calls.items()}


@dataclass(frozen=True)
class _OneSize:
    """A runtime that takes one batch size, as `any_size` wants it."""

    call: Callable[[Sequence[Array]], list[Array]]
    batch_sizes: tuple[int, ...]

    def __call__(self, *inputs: torch.Tensor) -> list[torch.Tensor]:
        found = self.call([x.numpy() for x in inputs])
        return [torch.from_numpy(np.array(value)) for value in found]


def _accuracies(
    compiled: CompiledModel,
    others: Sequence[Peer],
    parts: Iterable[Part],
    batch: int,
    told: Callable[[str], None],
) -> tuple[dict[str, float], int]:
    """The share of samples that each runtime gets right, and how many samples there are."""
    told("measuring accuracy")
    sized: dict[str, Any] = {_OURS: compiled}
    sized |= {peer.name: _OneSize(peer.call, (batch,)) for peer in others}
    calls = {name: any_size(model) for name, model in sized.items()}
    right, count = dict.fromkeys(calls, 0), 0
    for part in parts:
        if part.labels is None:
            continue
        count += len(part.labels)
        for name, call in calls.items():
            best = call(*part.inputs)[0].argmax(1)
            right[name] += int((best == part.labels).sum())
    return ({name: hits / count for name, hits in right.items()} if count else {}), count


def count_differing(integer: GraphModule, inputs: Sequence[Array], found: Sequence[Array]) -> int:
    """How many of the values in `found` are not what the integer graph gives."""
    with torch.no_grad():
        expected = _flat(integer(*(torch.from_numpy(x) for x in inputs)))
    return sum(int((a != b).sum()) for a, b in zip(expected, found, strict=True))


def _agreement(peer: Peer, wanted: Sequence[Array]) -> float:
    return signal_to_noise_db(wanted, peer.run()) if wanted else math.nan


def _in_float(files: Files, inputs: Sequence[Array]) -> list[Array]:
    """The outputs in float32; nothing if it has operators that ONNX or PyTorch lacks."""
    try:
        import onnx

        return FloatModel(onnx.load_model_from_string(files.of("torch")))(*inputs)
    except (ImportError, MissingDependencyError, UnsupportedOpError):
        return []


def _flat(outputs: Any) -> list[Array]:
    return [np.asarray(leaf) for leaf in tree_leaves(outputs)]
