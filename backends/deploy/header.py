"""The header of a library: all that a C or C++ program must know of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from qpc.backends.deploy.abi import ARENA_ALIGNMENT, ERRORS
from qpc.backends.deploy.deployable import Deployable, Port
from qpc.backends.deploy.parallel import DECLARATION
from qpc.version import VERSION


def header(model: Deployable) -> str:
    """The text of `<name>.h`."""
    return "\n".join(_lines(model)) + "\n"


def _lines(model: Deployable) -> Iterator[str]:
    macro = model.macro
    yield f"/* {model.name}: a neural network for {model.target.name}, made by QPC {VERSION}."
    yield " *"
    yield from (f" * {line}" if line else " *" for line in _description(model))
    yield " */"
    yield from (f"#ifndef {macro}_H", f"#define {macro}_H", "")
    yield from ("#include <stddef.h>", "#include <stdint.h>", "")
    yield from ("#ifdef __cplusplus", 'extern "C" {', "#endif", "")
    yield f"#define {macro}_ARENA_BYTES {model.entry.arena}"
    yield f"#define {macro}_ARENA_ALIGNMENT {ARENA_ALIGNMENT}"
    yield f"#define {macro}_INPUTS {len(model.inputs)}"
    yield f"#define {macro}_OUTPUTS {len(model.outputs)}"
    for kind, ports in (("INPUT", model.inputs), ("OUTPUT", model.outputs)):
        for number, port in enumerate(ports):
            yield ""
            yield from _port(f"{macro}_{kind}_{number}", kind.lower(), number, port)
    yield ""
    yield "/* What the function returns. */"
    for name, (number, text) in ERRORS.items():
        yield f"#define {macro}_{name} {number} /* {text} */"
    yield ""
    yield from _declaration(model)
    yield from ("", "#ifdef __cplusplus", "}", "#endif", "", f"#endif /* {macro}_H */")


def _description(model: Deployable) -> Sequence[str]:
    return (
        f"{model.run} computes the outputs from the inputs. It allocates nothing and keeps",
        "nothing: whatever lies between inputs and outputs is in the arena, which the caller",
        "provides, and which holds nothing worth keeping between two calls. Calls at the same time",
        "need an arena each. Inputs, outputs and arena must not overlap; inputs and outputs begin",
        "at a multiple of the size of their elements, the arena at one of ARENA_ALIGNMENT. Nothing",
        "is written unless all addresses and sizes are right.",
    )


def _port(macro: str, kind: str, number: int, port: Port) -> Iterator[str]:
    yield f"/* {kind.capitalize()} {number}, {_safe(str(port))}.{_about(kind, port)} */"
    yield f"typedef {port.element.c} {macro.lower()}_t;"
    yield f"#define {macro}_ELEMENTS {port.elements}"
    yield f"#define {macro}_BYTES {port.bytes}"
    yield f"#define {macro}_DIMENSIONS {len(port.shape)}"
    for axis, size in enumerate(port.shape):
        yield f"#define {macro}_DIMENSION_{axis} {size}"
    if port.scale is not None:
        yield f"#define {macro}_SCALE {c_float(port.scale)}"
        yield f"#define {macro}_ZERO_POINT ({port.zero_point})"
    if kind == "output":
        yield f"#define {macro}_IS_EXACT {int(port.tolerance is None)}"


def _about(kind: str, port: Port) -> str:
    grid = ""
    if port.scale is not None and port.dtype.startswith("float"):
        verb = "rounded to" if kind == "input" else "on"
        grid = f" Values are {verb} the grid SCALE * (integer - ZERO_POINT)."
    elif port.scale is not None:
        grid = " It stands for SCALE * (value - ZERO_POINT)."
    if port.dtype in ("float16", "bfloat16", "bool"):
        grid += f" C has no such type: these are the bits of {port.dtype}."
    if kind == "input":
        return grid
    if port.tolerance is None:
        return f"{grid} Exact: the same bits on every machine."
    return f"{grid} Float operators round it: within {port.tolerance:.3g} of PyTorch's."


def _declaration(model: Deployable) -> Iterator[str]:
    yield "/* inputs: addresses of the inputs, in order; outputs: likewise, to be written. */"
    yield f"int {model.run}(const void *const *inputs, void *const *outputs, void *arena,"
    yield f"{' ' * len(f'int {model.run}(')}size_t arena_bytes);"
    if model.threads > 1:
        text = DECLARATION.replace("@name@", model.name)
        yield text.replace("@threads@", str(model.threads)).rstrip()


def c_float(value: float) -> str:
    """A number as a constant of type float in C, which reads it back to the last bit."""
    text = f"{value:.9g}"
    return f"{text}f" if any(mark in text for mark in ".e") else f"{text}.0f"


def _safe(text: str) -> str:
    """Text that cannot end a comment."""
    return text.replace("*/", "* /").replace("/*", "/ *")
