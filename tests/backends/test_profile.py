from __future__ import annotations

import json

import pytest

from qpc.backends.profile import KernelTime, Machine, Profile

MACHINE = Machine(gmac_s=100.0, gb_s={1000: 50.0, 10_000: 10.0}, call_us=0.5)


def call(us: float, macs: int = 0, size: int = 0) -> KernelTime:
    return KernelTime.of("kernel", ("layer[0]",), us, macs, size, MACHINE)


@pytest.mark.parametrize(
    ("macs", "size", "limit", "of_limit"),
    [
        (1_000_000, 1000, "compute", 0.5),  # 10 us at 100 GMAC/s
        (1000, 10_000, "memory", 0.05),  # 1 us at 10 GB/s
        (0, 16, "overhead", 0.025),
    ],
)
def test_the_limit_is_what_alone_takes_the_longest(
    macs: int, size: int, limit: str, of_limit: float
) -> None:
    found = call(20.0, macs, size)
    assert found.limit == limit
    assert found.of_limit == pytest.approx(of_limit)


def test_the_share_is_of_the_peak() -> None:
    assert call(20.0, 1_000_000).share == pytest.approx(0.5)
    assert call(0.0, 0).share == 0
    assert call(0.0, 100).share == pytest.approx(1.0)  # 1 ns, in a call that the clock did not see


def test_bytes_go_at_the_speed_of_the_cache_that_they_fit() -> None:
    assert MACHINE.memory_us(1000) == pytest.approx(0.02)
    assert MACHINE.memory_us(1001) == pytest.approx(0.1001)
    assert MACHINE.memory_us(20_000) == pytest.approx(2.0)  # more than any


def test_what_is_not_in_kernels_is_told_apart() -> None:
    profile = Profile((call(20.0, 1_000_000), call(5.0, 0, 16)), 30.0, 1, 1, MACHINE)
    assert (profile.kernels_us, profile.other_us) == (25.0, 5.0)
    assert profile.share == pytest.approx(1 / 3)


def test_the_time_of_floats_is_told_apart() -> None:
    names = {"qpc_conv2d_0": 10.0, "qpc_float_softmax_0": 5.0, "fused_add": 2.0}
    calls = [KernelTime.of(name, (), us, 0, 16, MACHINE) for name, us in names.items()]
    assert Profile(tuple(calls), 20.0, 1, 1, MACHINE).float_us == 7.0
    assert "35% of the time in float" in str(Profile(tuple(calls), 20.0, 1, 1, MACHINE))
    assert "in float" not in str(Profile((calls[0],), 20.0, 1, 1, MACHINE))


def test_it_prints_and_is_json() -> None:
    profile = Profile((call(20.0, 1_000_000, 1), call(5.0, 0, 16)), 30.0, 2, 1, MACHINE)
    text = str(profile)
    assert "layer[0]" in text
    assert "compute 50%" in text
    assert "between the kernels" in text
    data = json.loads(json.dumps(profile.to_json()))
    assert data["calls"][0]["layers"] == ["layer[0]"]
    assert data["machine"]["gb_s"] == {"1000": 50.0, "10000": 10.0}
    assert data["kernels_us"] == 25.0
