from __future__ import annotations

import math
from dataclasses import replace

from qpc.bench.compare import Comparison, PeerResult
from qpc.bench.table import table
from qpc.bench.turns import Ratio, Times

TIMES = Times(median_ms=1.0, p10_ms=1.0, p90_ms=1.0, p99_ms=1.0, best_ms=1.0, cpu_ms=1.0)
RATIO = Ratio(median=1.0, p10=1.0, p90=1.0, best=1.0, cpu=1.0)
PEER = PeerResult("ONNX Runtime", "1.0", TIMES, RATIO, 0.1, 5, 0, 30.0, {}, 1000.0, float_db=31.5)
RESULT = Comparison(
    network="small",
    batch=1,
    threads=1,
    rounds=2,
    macs=10**6,
    differing=0,
    times=TIMES,
    share=0.5,
    share_cpu=0.5,
    peak_gmac_s=10.0,
    peers=(PEER,),
    cpu_share=0.99,
    load=0.0,
    per_s=1000.0,
    float_db=32.5,
)


def test_the_table_warns_where_other_programs_had_the_cores() -> None:
    busy = table(replace(RESULT, cpu_share=0.5))
    assert "believe fastest calls and CPU time only" in busy
    assert "none of these figures" in table(replace(RESULT, cpu_share=0.5, threads=2))
    assert "other programs" not in table(RESULT)


def test_every_runtime_says_how_near_it_is_to_float() -> None:
    _, head, ours, theirs, *_ = table(RESULT).split("\n")
    for line, number in ((ours, "32.5"), (theirs, "31.5")):
        end = head.index("float dB") + len("float dB")
        assert line[:end].endswith(f" {number}")
    unknown = replace(RESULT, float_db=math.nan, peers=(replace(PEER, float_db=math.nan),))
    assert "nan" not in table(unknown)


def test_the_table_warns_of_a_runtime_that_computes_something_else_and_says_why() -> None:
    assert "something else" not in table(RESULT)
    other = replace(PEER, agreement_db=3.0)
    wrong = replace(RESULT, peers=(other,))
    assert "WARNING: ONNX Runtime computes something else\n" in table(wrong)
    text = table(replace(wrong, saturates=True))
    assert "something else: this CPU has no VNNI, where sums of two products of bytes are" in text
    assert "session.x64quantprecision=1" in text
    openvino = replace(wrong, peers=(replace(other, name="OpenVINO"),), saturates=True)
    assert "cut off at 16 bits\n" in table(openvino)
    in_float = replace(wrong, peers=(replace(other, integer_layers=0),), saturates=True)
    assert "VNNI" not in table(in_float)
