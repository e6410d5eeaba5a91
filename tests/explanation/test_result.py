"""What an explanation says, line by line."""

from __future__ import annotations

import json
from dataclasses import replace

from qpc.explanation.result import Change, Explanation, LayerExplained

ROW = LayerExplained("a (conv)", "conv", "a", "conv2d", 100, 8, "integer")
FULL = replace(
    ROW,
    us=12.25,
    share=0.5,
    limit="memory",
    of_limit=0.75,
    float_us=30.0,
    own_noise=1e-3,
    local_noise=0.0,
    clipped=0.015,
    inside="b",
    why_float="f",
    why_whole="w",
    why_alone="s",
)
OTHER = replace(ROW, name="longer name", node="other", us=3.0, own_noise=float("inf"))
FOUND = Explanation(
    (ROW, FULL, OTHER),
    (Change("a (conv)", "accuracy", 0.5, "it is coarse", "more bits", "2 dB more"),),
    noise=1e-4,
    samples=4,
    own_samples=2,
    total_us=1500.0,
    other_us=250.0,
    batch=1,
    threads=2,
    target="x86-64",
)


def test_every_line_says_what_is_known() -> None:
    assert str(FOUND).splitlines() == [
        "layer              us   share  limit          float us  own dB   local  clipped  why",
        "a (conv)",
        "a (conv)         12.2   50.0%  memory 75%         30.0    30.0     inf    1.50%  in b;"
        " float: f; not pruned: w; alone: s",
        "longer name       3.0                                     -inf",
        "",
        "outputs agree with float to 40.0 dB",
        "own and local errors are those of 2 of 4 samples, as much is computed for each",
        "a call takes 1,500 us, 250 of them between operators (batch 1, 2 threads, x86-64)",
        "in float, PyTorch takes 30 us for the same operators",
        "",
        "what would gain most:",
        "1. a (conv): it is coarse",
        "   2 dB more: more bits",
    ]
    assert str(FOUND.changes[0]) == "a (conv): it is coarse. 2 dB more: more bits"
    assert repr(FOUND) == "<Explanation of 3 layers, 40.0 dB>"


def test_what_nobody_measured_is_left_out() -> None:
    assert str(Explanation((ROW,), (), noise=0.0)).splitlines() == [
        "layer           us   share  limit          float us  own dB   local  clipped  why",
        "a (conv)",
        "",
        "outputs agree with float to inf dB",
        "",
        "nothing stands out: no change would gain much",
    ]
    one = Explanation((), (), 0.0, total_us=5.0, batch=3, threads=1, target="aarch64")
    call = "a call takes 5 us, 0 of them between operators (batch 3, 1 thread, aarch64)"
    assert call in str(one)


def test_a_short_table_has_the_slowest_and_the_worst() -> None:
    rows = tuple(
        replace(ROW, name=f"r{i}", node=f"r{i}", us=float(us), own_noise=noise)
        for i, (us, noise) in enumerate(((9, 0.1), (1, 0.2), (2, 0.9), (3, 0.3), (4, 0.8)))
    )
    found = Explanation(rows, (), noise=0.1)
    assert [row.name for row in found.slowest(2)] == ["r0", "r4"]
    assert [row.name for row in found.worst(3)] == ["r2", "r4", "r3"]
    names = [line.split()[0] for line in found.table(3).splitlines()[1:4]]
    assert names == ["r0", "r2", "r4"], "one slow, two wrong, in the order of the graph"
    assert found.table(5) == found.table()


def test_it_is_json_without_numbers_that_are_none() -> None:
    data = json.loads(FOUND.dumps())
    assert (data["format"], data["sqnr_db"]) == ("qpc-explanation-1", 40.0)
    decibels = [(row["own_db"], row["local_db"]) for row in data["layers"]]
    assert decibels == [(None, None), (30.0, None), (None, None)]
