"""Many exported libraries in one program, which runs once: for random graphs by the hundred.

To build and start a program for each takes longer than to compile most of them. All outputs must be
exact ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from torch.fx import GraphModule

from qpc.backends.deploy import bare_metal
from qpc.backends.deploy.manifest import LibraryEntry, read_library
from qpc.backends.deploy.sample import VECTORS
from qpc.backends.deploy.toolchain import Program, build, compiler_for, emulator_for, is_native
from qpc.deployment import export_library
from qpc.targets import Target
from qpc.targets.data import BARE_METAL
from tests.emulation import require_tools

_DRIVER = """#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

typedef int (*function)(const void *const *, void *const *, void *, size_t);
typedef struct {
    const char *name;
    function run;
    size_t arena;
    int cases, inputs, outputs;
    const size_t *sizes;
} library;

@declared@
static const library libraries[] = {
@table@
};
static unsigned char arena[@arena@] __attribute__((aligned(64)));
static unsigned char ports[@ports@] __attribute__((aligned(64))), wanted[@ports@];

static int replay(const library *it, FILE *file)
{
    const void *inputs[16];
    void *outputs[16];
    size_t at = 0;
    int i;
    for (i = 0; i < it->inputs; i++) {
        inputs[i] = ports + at;
        if (fread(ports + at, 1, it->sizes[i], file) != it->sizes[i]) return 0;
        at += (it->sizes[i] + 63) / 64 * 64;
    }
    for (i = 0; i < it->outputs; i++) {
        outputs[i] = ports + at;
        at += (it->sizes[it->inputs + i] + 63) / 64 * 64;
    }
    if (it->run(inputs, outputs, arena, it->arena)) return 0;
    for (i = 0; i < it->outputs; i++) {
        size_t size = it->sizes[it->inputs + i];
        if (fread(wanted, 1, size, file) != size || memcmp(wanted, outputs[i], size)) return 0;
    }
    return 1;
}

int main(void)
{
    FILE *file = fopen("vectors.bin", "rb");
    int i, number, count = (int)(sizeof libraries / sizeof *libraries);
    if (!file) return 2;
    for (i = 0; i < count; i++)
        for (number = 0; number < libraries[i].cases; number++)
            if (!replay(&libraries[i], file)) {
                printf("%s: test vector %d is wrong\\n", libraries[i].name, number);
                return 1;
            }
    printf("%d libraries, all equal\\n", count);
    return 0;
}
"""


@dataclass(frozen=True)
class Form:
    """What a graph is made into. target, form: for `qpc.export_library`.

    cpus: what runs the program; None is the target's own, or this machine. compilers: commands that
    compile C, with their options; None is GNU's without any.
    """

    target: str
    form: str = "objects"
    cpus: tuple[str | None, ...] = (None,)
    compilers: tuple[str | None, ...] = (None,)


def assert_all_exact(graphs: Mapping[int, GraphModule], form: Form, folder: Path) -> None:
    """Export graphs and run all of them in one program, by each compiler on each of the CPUs.

    graphs: by seed, which is in the library's name, and so in what the program says.
    """
    target = Target.parse(form.target)
    require_tools(target)
    libraries = []
    for seed, gm in graphs.items():
        out = folder / str(seed)
        export_library(gm, target, out, name=f"net{seed}", vectors=1, cache=False, form=form.form)
        entry, files = read_library(out)
        assert all(port.tolerance is None for port in entry.outputs), seed
        libraries.append((entry, files[VECTORS], out / entry.library))
    entries = [entry for entry, _, _ in libraries]
    (folder / "main.c").write_text(_driver(entries))
    (folder / VECTORS).write_bytes(b"".join(vectors for _, vectors, _ in libraries))
    sources = [folder / "main.c", *(library for _, _, library in libraries)]
    for named, cpu in product(form.compilers, form.cpus):
        compiler = compiler_for(target, named)
        emulator: tuple[str, ...] = ()
        if cpu is not None or not is_native(target):
            emulator = emulator_for(target, cpu)
        program = _built(target, sources, folder, compiler, emulator)
        done = program.run(seconds=600)
        said = (named, cpu, done.returncode, done.stdout[-300:], done.stderr[-300:])
        assert done.stdout == f"{len(entries)} libraries, all equal\n", said


def _built(
    target: Target,
    sources: Sequence[Path],
    folder: Path,
    compiler: Sequence[str],
    emulator: tuple[str, ...],
) -> Program:
    options = ["-static"] if emulator else []
    sources = list(sources)
    if target.architecture.system == BARE_METAL:
        machine = emulator[emulator.index("-M") + 1]
        for file, text in bare_metal.files(machine).items():
            (folder / file).write_text(text)
        sources.insert(0, folder / bare_metal.START)
        options += [*bare_metal.OPTIONS, "-L", str(folder)]
    build(sources, folder / "main", compiler, [*options, "-lm"], seconds=600)
    return Program(folder / "main", emulator)


def _driver(entries: Sequence[LibraryEntry]) -> str:
    declared, table = [], []
    for entry in entries:
        ports = (*entry.inputs, *entry.outputs)
        declared.append(
            f"int {entry.function}(const void *const *, void *const *, void *, size_t);"
        )
        sizes = ", ".join(str(port.bytes) for port in ports)
        declared.append(f"static const size_t {entry.name}_sizes[] = {{{sizes}}};")
        counts = f"{entry.cases}, {len(entry.inputs)}, {len(entry.outputs)}"
        about = f'"{entry.name}", {entry.function}, {entry.arena_bytes}, {counts}'
        table.append(f"    {{{about}, {entry.name}_sizes}},")
    most = [sum(port.bytes + 64 for port in (*e.inputs, *e.outputs)) for e in entries]
    text = _DRIVER.replace("@declared@", "\n".join(declared)).replace("@table@", "\n".join(table))
    text = text.replace("@arena@", str(max(entry.arena_bytes for entry in entries) + 64))
    return text.replace("@ports@", str(max(most)))
