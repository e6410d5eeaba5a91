"""A deployable as C99: one file that any compiler takes, in place of object files.

Kernels are functions of the file, constants its arrays; the one function with a name outside of it
is the library's. What a compiler may not do to floats is refused while it compiles: results never
differ without a word.
"""

from __future__ import annotations

import os
import re
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from qpc.backends.common.plan import Place, Step
from qpc.backends.deploy.abi import ARENA_ALIGNMENT
from qpc.backends.deploy.c_blob import DECLARED, Blob
from qpc.backends.deploy.c_helpers import HEAD, IS_MISALIGNED, helpers_for
from qpc.backends.deploy.deployable import Array, Deployable, Port
from qpc.backends.deploy.header import c_float
from qpc.backends.deploy.library import ExportedLibrary, write_library
from qpc.backends.deploy.report import footprint
from qpc.backends.tvm.codegen.c_text import CFunction, read_function
from qpc.backends.tvm.codegen.entry import Call
from qpc.errors import BackendError
from qpc.version import VERSION

FORM = "c"
_COLUMNS = 100
_AT = "#define AT(offset) ((void *)((unsigned char *)arena + (offset)))"
_BY_COMPILERS = {"memcpy", "memset"}  # which they call for loops, too
_LEAST = {"int32": -(2**31), "int64": -(2**63)}  # which C has no constant for


def write_c(
    model: Deployable,
    texts: Sequence[bytes],
    path: str | os.PathLike[str],
    *,
    weights: str = "arrays",
) -> ExportedLibrary:
    """Write the library of a model as source to the folder `path`.

    texts: its kernels as TVM prints them. weights: "arrays" of the source, or a "blob" beside it.
    Raises BackendError if the board has not the memory or
    the code needs what C does not have, and ArtifactError if the folder cannot be written; then
    nothing is.
    """
    if model.threads > 1:
        raise BackendError(
            "C source runs in one thread",
            fix="threads=1, or form='objects', whose layers are shared among threads",
        )
    functions = {f.name: f for f in map(read_function, map(bytes.decode, texts))}
    source = f"{model.name}.c"
    blob = Blob.of(model.weights) if weights == "blob" else None
    text = c_source(model, functions, blob)
    beside = blob.files(model.name) if blob is not None else {}
    needed = sorted(_BY_COMPILERS | _called(functions.values()))
    needs = footprint(model, None, sum(array.nbytes for array in model.weights.values()))
    note = "code: the compiler decides how large it is; `size` and the linker's map say so"
    model = replace(model, notes=(*model.notes, note))
    return write_library(
        model,
        {source: text.encode(), **beside},
        needs,
        needed,
        source,
        path,
        form=FORM,
        sources=[*beside][:1],
    )


def c_source(
    model: Deployable, functions: Mapping[str, CFunction], blob: Blob | None = None
) -> str:
    """The text of `<name>.c`, given the kernels by name, and constants that lie elsewhere."""
    return "".join(f"{part}\n" for part in _Writer(model, functions, blob).parts())


def _called(functions: Iterable[CFunction]) -> set[str]:
    return {name for function in functions for name in function.calls}


class _Writer:
    def __init__(
        self, model: Deployable, functions: Mapping[str, CFunction], blob: Blob | None
    ) -> None:
        self._model, self._functions, self._blob = model, functions, blob
        self._weights = dict(_names_of_weights(model))
        kernels = {step.kernel: step.operation for step in model.steps}
        self._kernels = {
            kernel: f"{re.sub(r'[^A-Za-z0-9_]', '_', operation)}_{number}"
            for number, (kernel, operation) in enumerate(kernels.items(), 1)
        }

    def parts(self) -> Iterator[str]:
        model = self._model
        text = "".join(function.body for function in self._functions.values())
        yield HEAD.replace("@name@", model.name).replace("@version@", VERSION)
        yield from helpers_for(text)
        if any(port.element.bytes > 1 for port in (*model.inputs, *model.outputs)) or (
            model.entry.arena
        ):
            yield IS_MISALIGNED
        yield from self._constants()
        used: dict[str, list[Step]] = {}
        for step in model.steps:
            used.setdefault(step.kernel, []).append(step)
        for kernel, steps in used.items():
            yield self._kernel(self._functions[kernel], steps)
        yield "\n".join(self._entry())

    def _constants(self) -> Iterator[str]:
        if self._blob is not None:
            yield DECLARED.replace("@name@", self._model.name)
            return
        users = self._users()
        for name, identifier in self._weights.items():
            yield _array(identifier, self._model.weights[name], users.get(name, ()))

    def _users(self) -> dict[str, tuple[str, ...]]:
        """By weight, the layers that read it."""
        users: dict[str, list[str]] = {}
        for step in self._model.steps:
            for place in step.reads:
                if place.kind == "weight":
                    users.setdefault(self._model.weight_of(place), []).append(layer(step))
        return {name: tuple(dict.fromkeys(layers)) for name, layers in users.items()}

    def _kernel(self, function: CFunction, steps: Sequence[Step]) -> str:
        about = _comment([layer(step) for step in steps])
        name = self._kernels[function.name]
        # What moves channels of one tensor reads and writes different bytes of it; yet GCC warns
        # of two `restrict` that begin at one address.
        addresses = [
            [self._address(place) for place in call.arguments]
            for call in self._model.entry.calls
            if call.kernel == function.name
        ]
        apart = all(len(set(each)) == len(each) for each in addresses)
        return f"{about}\n{function.definition(name, len(steps[0].reads), apart=apart)}"

    # --- the function of the library --------------------------------------------------------------

    def _entry(self) -> Iterator[str]:
        model = self._model
        if model.entry.arena:
            yield from ("/* A place in the arena. */", _AT, "")
        head = f"int {model.run}("
        yield f"{head}const void *const *inputs, void *const *outputs, void *arena,"
        yield f"{' ' * len(head)}size_t arena_bytes)"
        yield "{"
        yield from self._checks()
        for number, (call, step) in enumerate(zip(model.entry.calls, model.steps, strict=True), 1):
            yield ""
            yield textwrap.indent(_comment([f"{number}: {layer(step)}"]), "    ")
            yield from self._call(call)
        if model.entry.copies:
            yield ""
        for copy in model.entry.copies:
            to, source = self._address(copy.to), self._address(copy.source)
            yield f"    memcpy({to}, {source}, {copy.source.size});"
        yield f"    return {model.macro}_OK;"
        yield "}"

    def _checks(self) -> Iterator[str]:
        """Nothing is touched before all addresses and sizes are known to be right."""
        model = self._model
        if model.inputs:
            yield self._unless("inputs == NULL", "NULL")
        else:
            yield "    (void)inputs;"
        yield self._unless("outputs == NULL", "NULL")
        if model.entry.arena:
            yield self._unless("arena == NULL", "NULL")
            yield self._unless(f"arena_bytes < {model.macro}_ARENA_BYTES", "ARENA_SIZE")
            yield self._unless(f"is_misaligned(arena, {ARENA_ALIGNMENT})", "ARENA_ALIGNMENT")
        else:
            yield from ("    (void)arena;", "    (void)arena_bytes;")
        for kind, ports in (("inputs", model.inputs), ("outputs", model.outputs)):
            for number, port in enumerate(ports):
                yield from self._check_port(f"{kind}[{number}]", port)

    def _check_port(self, address: str, port: Port) -> Iterator[str]:
        yield self._unless(f"{address} == NULL", "NULL")
        if port.element.bytes > 1:
            yield self._unless(f"is_misaligned({address}, {port.element.bytes})", "ALIGNMENT")

    def _unless(self, condition: str, error: str) -> str:
        return f"    if ({condition}) return {self._model.macro}_ERROR_{error};"

    def _call(self, call: Call) -> Iterator[str]:
        parameters = self._functions[call.kernel].parameters
        arguments = [
            self._argument(place, parameter.element)
            for place, parameter in zip(call.arguments, parameters, strict=True)
        ]
        head = f"    {self._kernels[call.kernel]}("
        yield _wrapped(f"{head}{', '.join(arguments)});", " " * len(head))

    def _argument(self, place: Place, element: str) -> str:
        """An address, as that of elements of a type."""
        address = self._address(place)
        if place.kind != "weight" or self._blob is not None:
            return address
        array = self._model.weights[self._model.weight_of(place)]
        return address if _c_type(array) == element else f"(const void *){address}"

    def _address(self, place: Place) -> str:
        if place.kind == "weight":
            name = self._model.weight_of(place)
            if self._blob is not None:
                return f"CONSTANT({self._blob.offsets[name]})"
            return self._weights[name]
        if place.kind == "arena":
            return f"AT({place.start})"
        return f"{place.kind}s[{place.start}]"


def layer(step: Step) -> str:
    """What a step does, and for which layers."""
    return f"{step.operation}: {' + '.join(step.nodes)}" if step.nodes else step.operation


def _names_of_weights(model: Deployable) -> Iterator[tuple[str, str]]:
    """Names of constants in C: by the first call that takes them, and which of its arguments."""
    found: set[str] = set()
    for number, step in enumerate(model.steps, 1):
        for argument, place in enumerate(step.reads):
            name = model.weight_of(place) if place.kind == "weight" else None
            if name is not None and name not in found:
                found.add(name)
                yield name, f"layer_{number}_constant_{argument}"
    for copy in model.entry.copies:
        if copy.source.kind == "weight":
            name = model.weight_of(copy.source)
            if name not in found:
                found.add(name)
                yield name, f"output_{copy.to.start}_constant"


def _wrapped(text: str, indent: str) -> str:
    """Text that begins with an indent of its own, as lines."""
    lines = textwrap.wrap(
        text, _COLUMNS, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )
    return "\n".join(lines)


def _array(identifier: str, values: Array, users: Sequence[str]) -> str:
    flat = values.reshape(-1)
    written = ", ".join(_constants(flat)) or "0"
    lines = _wrapped(f"    {written}", "    ")
    shape = " x ".join(map(str, values.shape)) or "1"
    about = _comment([f"{shape}, of {user}" for user in users] or [shape])
    return (
        f"{about}\nstatic const {_c_type(values)} {identifier}[{max(flat.size, 1)}] = {{\n"
        f"{lines}\n}};\n"
    )


def _c_type(values: Array) -> str:
    name = values.dtype.name
    return {"float32": "float", "float64": "double", "bool": "uint8_t"}.get(name, f"{name}_t")


def _constants(flat: Array) -> Iterator[str]:
    kind = flat.dtype.name
    if kind.startswith("float"):
        yield from (_float(value, kind) for value in flat.tolist())
    elif kind in _LEAST:
        ending = "LL" if kind == "int64" else ""
        for value in flat.tolist():
            small = value == _LEAST[kind]
            yield f"({value + 1}{ending} - 1)" if small else f"{value}{ending}"
    else:
        yield from map(str, flat.astype(np.int64).tolist())


def _float(value: float, kind: str) -> str:
    if np.isnan(value):
        return "NAN"
    if np.isinf(value):
        return "INFINITY" if value > 0 else "-INFINITY"
    return c_float(value) if kind == "float32" else repr(value)


def _comment(lines: Sequence[str]) -> str:
    shown = [_safe(line) for line in dict.fromkeys(lines)]
    wrapped = [
        part
        for line in shown
        for part in textwrap.wrap(line, _COLUMNS - 6, subsequent_indent="    ") or [""]
    ]
    return "/* " + "\n * ".join(wrapped) + " */"


def _safe(text: str) -> str:
    """Text that cannot end a comment."""
    return text.replace("*/", "* /").replace("/*", "/ *")
