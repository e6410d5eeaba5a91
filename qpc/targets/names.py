"""Names of targets that nobody knows: which one may be meant, and what there is no code for."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NoReturn

from qpc.errors import UnsupportedTargetError

_NOT_YET = {
    "GPUs": r"cuda|gpu|mali|metal|nvidia|opencl|rocm|vulkan",
    "Xtensa": r"esp32|esp8266|xtensa",
    "Hexagon": r"hexagon|snapdragon",
    "Windows": r"windows|msvc|mingw",
}
"""How names of machines begin, or parts of them behind a hyphen, for which there is no code."""

_FORMS = {
    "onnx-tensorrt": r"tensor-?rt|trt",
    "onnx-qdq": r"onnx|openvino|ort",
    "tflite": r"tf-?lite|lite-?rt|edge-?tpu",
}
"""How names of runtimes begin, by the form in which they read what QPC exports."""

# What others call our targets, and words for "this machine".
_ALSO_CALLED = {
    "amd64": "x86-64",
    **dict.fromkeys(("arm64", "armv8", "armv8-a", "aarch64-linux-gnu"), "aarch64"),
    **dict.fromkeys(("arm", "arm32", "armhf", "armv7", "armv7l"), "armv7-a"),
    **dict.fromkeys(("risc-v", "riscv", "rv64", "rv64gc"), "riscv64"),
    **dict.fromkeys(("graviton", "graviton2", "ampere-altra"), "neoverse-n1"),
    **dict.fromkeys(("graviton3", "neoverse-v2", "graviton4"), "neoverse-v1"),
    **dict.fromkeys(("m1", "m2", "m3", "m4", "apple-m2", "apple-m3", "apple-m4"), "apple-m1"),
    **dict.fromkeys(("jetson", "jetson-orin", "cortex-a78ae"), "cortex-a78"),
    **dict.fromkeys(("nrf52840", "arduino-nano"), "arduino-nano-33-ble"),
    **dict.fromkeys(("pico", "rp2040"), "raspberry-pi-pico"),
    **dict.fromkeys(("pico-2", "rp2350"), "raspberry-pi-pico-2"),
    **{f"{short}{model}": f"raspberry-pi-{model}" for short in ("rpi", "pi") for model in "2345"},
    **{f"rpi-{model}": f"raspberry-pi-{model}" for model in "2345"},
    **dict.fromkeys(("auto", "cpu", "host", "local"), "native"),
}


def refuse(name: str, targets: Sequence[str]) -> NoReturn:
    """Raise UnsupportedTargetError for a name that is none of `targets`, with the nearest one."""
    plain = name.strip().lower().replace("_", "-").replace(" ", "-")
    others = "`qpc targets` lists them all, `native` is this machine's"
    near = _nearest(plain, ["native", *targets])
    for family, pattern in _NOT_YET.items():
        if near not in targets and re.search(rf"(^|-)({pattern})", plain):
            raise UnsupportedTargetError(
                f"no code for {family} yet: {name!r} is not supported", fix=others
            )
    for form, pattern in _FORMS.items():
        if near not in targets and re.match(rf"({pattern})", plain):
            raise UnsupportedTargetError(
                f"{name!r} is a runtime, not a machine to make code for",
                fix=f"`qpc export --form {form}` writes a file for it; else {others}",
            )
    raise UnsupportedTargetError(
        f"unknown target {name!r}", fix=f"{near!r} may be meant; else {others}" if near else others
    )


def _nearest(plain: str, known: list[str]) -> str | None:
    import difflib  # here, as right names need none

    names = [*known, "reference"]
    if plain in names:  # but for capitals or underscores
        return plain
    if plain in _ALSO_CALLED:
        return _ALSO_CALLED[plain]
    ends = [name for name in names if plain and name.endswith(f"-{plain}")]
    joined = [name for name in names if name.replace("-", "") == plain.replace("-", "")]
    close = difflib.get_close_matches(plain, names, n=1)
    return next(iter(joined or ends or close), None)
