"""A comparison as text.

"CPU share" says how much of the cores' time the measurement got. Where that is little, processor
times and fastest calls of one thread still mean something, but nothing of several threads does:
they wait for each other, and how much a thread that waits actively loses to other programs is no
property of the network.
"""

from __future__ import annotations

import math

from qpc.bench.compare import Comparison, PeerResult
from qpc.bench.turns import Times

LEAST_AGREEMENT_DB = 15.0
"""All round sums to grids in their own way; what agrees less than this is another network."""
ENOUGH = 0.8
"""The share of the cores' time for the wall-clock times to be believed."""


def table(result: Comparison) -> str:
    """The comparison as text."""
    head = (
        f"{'':<16}{'p50 ms':>8}{'p10':>8}{'p90':>8}{'p99':>8}{'best':>8}{'CPU ms':>8}{'ratio':>8}"
        f"{'samples/s':>11}{'agree dB':>10}{'float dB':>10}{'top-1':>8}"
    )
    rows = [_row("QPC", result.times, "", result.per_s, "", result.float_db, result.accuracy)]
    rows += [
        _row(
            p.name,
            p.times,
            f"{p.ratio.median:.3f}",
            p.per_s,
            f"{p.agreement_db:.1f}",
            p.float_db,
            p.accuracy,
        )
        for p in result.peers
    ]
    lines = [
        f"{result.network}: int8, batch {result.batch}, {result.threads} thread(s), "
        f"{result.instances} instance(s), {result.rounds} rounds, {result.macs / 1e6:,.1f} M MACs"
        + (f", top-1 of {result.samples:,} samples" if result.samples else ""),
        head,
        *rows,
        f"QPC reaches {result.share:.1%} of {result.peak_gmac_s:.0f} GMAC/s "
        f"({result.share_cpu:.1%} by CPU time); "
        f"{result.differing} values differ from the integer graph",
    ]
    for peer in result.peers:
        r = peer.ratio
        lines.append(
            f"QPC / {peer.name} {peer.version}: {r.median:.3f} (10 % to 90 % of the rounds: "
            f"{r.p10:.3f} to {r.p90:.3f}); fastest calls {r.best:.3f}, CPU time {r.cpu:.3f}; "
            f"{peer.integer_layers} layers in integers, {peer.float_layers} in float; "
            f"agrees to {peer.agreement_db:.1f} dB"
        )
        if peer.agreement_db < LEAST_AGREEMENT_DB:
            lines.append(f"WARNING: {peer.name} computes something else{_why(result, peer)}")
    lines.append(f"CPU share {result.cpu_share:.2f}, load {result.load:.1f}")
    if result.cpu_share < ENOUGH:
        lines.append(_doubt(result.threads))
    return "\n".join([*lines, ""])


def _row(
    name: str,
    t: Times,
    ratio: str,
    per_s: float,
    agreement: str,
    float_db: float,
    accuracy: float | None,
) -> str:
    values = (t.median_ms, t.p10_ms, t.p90_ms, t.p99_ms, t.best_ms, t.cpu_ms)
    numbers = "".join(f"{v:>8.2f}" for v in values)
    top1 = "" if accuracy is None else f"{accuracy:.2%}"
    real = "" if math.isnan(float_db) else f"{float_db:.1f}"
    quality = f"{agreement:>10}{real:>10}{top1:>8}"
    return f"{name:<16}{numbers}{ratio:>8}{per_s:>11,.0f}{quality}".rstrip()


def _why(result: Comparison, peer: PeerResult) -> str:
    """Why a runtime may compute something else, as far as it is known."""
    if not result.saturates or not peer.integer_layers:
        return ""
    return (
        ": this CPU has no VNNI, where sums of two products of bytes are cut off at 16 bits"
        + _REMEDIES.get(peer.name, "")
    )


_REMEDIES = {
    "ONNX Runtime": "; its slower, exact kernels are the session option"
    " session.x64quantprecision=1",
}


def _doubt(threads: int) -> str:
    rest = "fastest calls and CPU time only" if threads == 1 else "none of these figures"
    return f"WARNING: other programs had the cores; believe {rest}"
