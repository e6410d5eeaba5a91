"""C source with a program around it, as makers' tools take it: for Arduino, and for Zephyr.

The program calls the library with inputs of zeros, for which real ones are to be put in, and says
how long that took.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

from qpc.backends.deploy.manifest import LibraryEntry, read_library
from qpc.errors import ArtifactError, BackendError
from qpc.files import replace_folder

_SOURCES = (".c", ".h", ".S", ".bin")
_OTHERS = frozenset({"main.c", "vectors.bin"})


def write_project(
    library: str | os.PathLike[str], system: str, out: str | os.PathLike[str]
) -> Path:
    """Write the C source in a folder as a project: "arduino" or "zephyr". Returns the new folder.

    library: what `qpc.export_library(..., form="c")` wrote. out: a folder that does not exist yet;
    an Arduino sketch is called as it is.

    Raises BackendError for a library that is no C source or that the system cannot build, and
    ArtifactError if a folder cannot be read or written.
    """
    make = _SYSTEMS.get(system)
    if make is None:
        raise BackendError(
            f"unknown kind of project {system!r}", fix=f"use one of: {', '.join(_SYSTEMS)}"
        )
    entry, files = read_library(library)
    if entry.form != "c":
        raise BackendError(
            f"{str(library)!r} holds no C source", fix="export it with form='c' (--emit c)"
        )
    source = {
        name: data
        for name, data in files.items()
        if name.endswith(_SOURCES) and name not in _OTHERS
    }
    goal = Path(out)
    content = {**source, **make(entry, source, goal.name)}
    try:
        replace_folder(goal, content, lambda there: "a project is written to a new folder")
    except ArtifactError as e:
        raise ArtifactError(
            f"cannot write {str(goal)!r}: {e.what}", fix="choose another folder"
        ) from e
    return goal


def _arduino(entry: LibraryEntry, source: Mapping[str, bytes], name: str) -> dict[str, bytes]:
    if any(file.endswith(".S") for file in source):
        raise BackendError(
            "Arduino's tools do not say where constants beside the source are",
            fix="export it with weights='arrays'",
        )
    return {f"{name}.ino": _filled(_SKETCH, entry).encode()}


def _zephyr(entry: LibraryEntry, source: Mapping[str, bytes], name: str) -> dict[str, bytes]:
    own = [file for file in source if file.endswith((".c", ".S"))]
    built = " ".join(
        ["main.c", *sorted(own, key=os.path.splitext, reverse=True)]
    )  # constants first
    lists = _LISTS.replace("@project@", name).replace("@sources@", built)
    lists = lists.replace("@library@", entry.library)
    needs_float = any(port.dtype.startswith("float") for port in (*entry.inputs, *entry.outputs))
    settings = _SETTINGS + "CONFIG_FPU=y\n" * (needs_float and entry.target["abi"] == "hard")
    return {
        "CMakeLists.txt": lists.encode(),
        "prj.conf": settings.encode(),
        "main.c": _filled(_APPLICATION, entry).encode(),
    }


_SYSTEMS: Mapping[str, Callable[[LibraryEntry, Mapping[str, bytes], str], dict[str, bytes]]] = {
    "arduino": _arduino,
    "zephyr": _zephyr,
}


def _filled(text: str, entry: LibraryEntry) -> str:
    macro = entry.name.upper()
    buffers, addresses = [], {}
    for kind, ports in (("input", entry.inputs), ("output", entry.outputs)):
        for number, _ in enumerate(ports):
            elements = f"{macro}_{kind.upper()}_{number}_ELEMENTS"
            buffers.append(f"static {entry.name}_{kind}_{number}_t {kind}_{number}[{elements}];")
        addresses[kind] = ", ".join(f"{kind}_{number}" for number in range(len(ports))) or "0"
    for word, written in {
        "@name@": entry.name,
        "@NAME@": macro,
        "@buffers@": "\n".join(buffers),
        "@inputs@": addresses["input"],
        "@outputs@": addresses["output"],
    }.items():
        text = text.replace(word, written)
    return text


_MEMORY = """static unsigned char arena[@NAME@_ARENA_BYTES + 1]
    __attribute__((aligned(@NAME@_ARENA_ALIGNMENT)));
@buffers@
"""
_SKETCH = f"""// Calls a neural network once a second. Fill input_0 with what it is to judge.
#include "@name@.h"

{_MEMORY}
void setup() {{
  Serial.begin(115200);
}}

void loop() {{
  const void *inputs[] = {{@inputs@}};
  void *outputs[] = {{@outputs@}};
  unsigned long start = micros();
  int code = @name@_run(inputs, outputs, arena, @NAME@_ARENA_BYTES);
  unsigned long took = micros() - start;
  Serial.print("code ");
  Serial.print(code);
  Serial.print(", microseconds ");
  Serial.println(took);
  for (int i = 0; i < @NAME@_OUTPUT_0_ELEMENTS; i++) Serial.println(output_0[i]);
  delay(1000);
}}
"""
_APPLICATION = f"""/* Calls a neural network once a second. Fill input_0 with what it judges. */
#include <zephyr/kernel.h>
#include <zephyr/sys/printk.h>

#include "@name@.h"

{_MEMORY}
int main(void)
{{
    const void *inputs[] = {{@inputs@}};
    void *outputs[] = {{@outputs@}};

    for (;;) {{
        uint32_t start = k_cycle_get_32();
        int code = @name@_run(inputs, outputs, arena, @NAME@_ARENA_BYTES);
        uint32_t took = k_cycle_get_32() - start;

        printk("code %d, cycles %u\\n", code, (unsigned)took);
        k_sleep(K_SECONDS(1));
    }}
}}
"""
_LISTS = """# west build -b BOARD this-folder
cmake_minimum_required(VERSION 3.20.0)
find_package(Zephyr REQUIRED HINTS $ENV{ZEPHYR_BASE})
project(@project@)

target_sources(app PRIVATE @sources@)
target_include_directories(app PRIVATE ${CMAKE_CURRENT_SOURCE_DIR})
# Zephyr makes all of its code small; this one shall be fast.
set_source_files_properties(@library@ PROPERTIES COMPILE_OPTIONS -O3)
"""
_SETTINGS = """CONFIG_PRINTK=y
CONFIG_MAIN_STACK_SIZE=4096
"""
