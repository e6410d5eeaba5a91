from qpc.targets import PRESETS, TARGETS
from qpc.targets.listing import list_targets, listing_text, readable


def test_every_target_is_listed_once() -> None:
    names = [line.name for line in list_targets()]
    assert sorted(names) == sorted(target.name for target in (*TARGETS, *PRESETS))


def test_a_line_says_what_a_target_needs() -> None:
    lines = {line.name: line for line in list_targets()}
    pi = lines["raspberry-pi-5"]
    assert (pi.architecture, pi.cpu) == ("aarch64, Linux", "cortex-a76")
    assert "dotprod" in pi.needs
    assert pi.memory == "RAM 1 GiB"
    nano = lines["arduino-nano-33-ble"]
    assert (nano.architecture, nano.memory) == (
        "thumbv7em, bare metal",
        "flash 1 MiB, RAM 256 KiB",
    )
    assert nano.missing == "code is for bare metal, this machine runs Linux"
    assert nano.to_json()["board"]["ram"] == 256 * 1024


def test_sizes_are_whole_numbers() -> None:
    assert [readable(size) for size in (2**20, 3 * 2**10, 1000)] == [
        "1 MiB",
        "3 KiB",
        "1,000 bytes",
    ]


def test_the_list_is_by_architecture_and_says_what_runs_here() -> None:
    text = listing_text(list_targets())
    assert text.index("x86_64, Linux") < text.index("aarch64, Linux")
    assert text.index("aarch64, Linux") < text.index("thumbv7em, bare metal")
    assert "    cortex-m4" in text
    assert "CPU cortex-a76, neon-dot kernels, int8; needs " in text
