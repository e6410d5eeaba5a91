"""ARM's microcontrollers, without an operating system: cores, and boards with their memory."""

from __future__ import annotations

import re
from dataclasses import replace

from qpc.targets.costs import Costs
from qpc.targets.data import BARE_METAL, Architecture, Board, TargetData, Tools
from qpc.targets.host import NoSystem

_KIB = 2**10


# There is no cache to fit, but memory is dear: few input rows are copied at a time.
_COSTS = Costs(scratch_bytes=4 * _KIB)


def _core(
    name: str, triple: str, fpu: str | None, emulated: str, *, features: tuple[str, ...] = ("dsp",)
) -> TargetData:
    """A core.

    fpu: GCC's name of its unit for floats, None if there is none. emulated: QEMU's board with that
    core, or with one that can do more. features: the DSP extension, vectors.
    """
    float_flags = ("-mfloat-abi=hard", f"-mfpu={fpu}") if fpu else ("-mfloat-abi=soft",)
    return TargetData(
        name,
        triple,
        features,
        1,
        "generic",
        cpu=name,
        abi="hard" if fpu else "soft",
        libraries=(),
        counter=None,
        costs=_COSTS,
        c_flags=(f"-mcpu={name}", "-mthumb", *float_flags),
        emulated=emulated,
    )


def _board(name: str, core: TargetData, flash: int, ram: int) -> TargetData:
    """flash, ram: in units of 1024 bytes."""
    return replace(core, name=name, board=Board(flash=flash * _KIB, ram=ram * _KIB))


_M0_PLUS = _core("cortex-m0plus", "thumbv6m-unknown-none-eabi", None, "mps2-an385", features=())
_M3 = _core("cortex-m3", "thumbv7m-unknown-none-eabi", None, "mps2-an385", features=())
_M4 = _core("cortex-m4", "thumbv7em-unknown-none-eabihf", "fpv4-sp-d16", "mps2-an386")
_M7 = _core("cortex-m7", "thumbv7em-unknown-none-eabihf", "fpv5-d16", "mps2-an500")
_M33 = _core("cortex-m33", "thumbv8m.main-unknown-none-eabihf", "fpv5-sp-d16", "mps3-an547")
_M55 = _core(
    "cortex-m55",
    "thumbv8.1m.main-unknown-none-eabihf",
    "auto",
    "mps3-an547",
    features=("dsp", "mve.fp"),
)

CORTEX_M = Architecture(
    name="thumbv7em",
    triples=("thumbv6m", "thumbv7m", "thumbv7em", "thumbv8m.main", "thumbv8.1m.main"),
    triple="thumbv7em-unknown-none-eabihf",
    cpu="generic",
    instructions=re.compile("neon|mve|vfp|fp|dsp|hwdiv"),
    host=NoSystem(),
    permissions=(),
    targets=(),
    tools=Tools(
        "arm-none-eabi",
        "qemu-system-arm",
        ("gcc-arm-none-eabi", "libnewlib-arm-none-eabi", "qemu-system-arm"),
    ),
    system=BARE_METAL,
    address_bytes=4,
    presets=(
        _M0_PLUS,
        _M3,
        _M4,
        _M7,
        _M33,
        _M55,
        # Memory as in the makers' descriptions of the boards; RAM is what one program can use.
        _board("raspberry-pi-pico", _M0_PLUS, flash=2048, ram=264),
        _board("raspberry-pi-pico-2", _M33, flash=4096, ram=520),
        _board("arduino-nano-33-ble", _M4, flash=1024, ram=256),
        _board("stm32f4-discovery", _M4, flash=1024, ram=192),
        _board("stm32f746g-discovery", _M7, flash=1024, ram=320),
    ),
)
