"""The programs that come with a library: a `main` that replays the test vectors, and its build.

`main.c` is at once an example of how the library is called and what `qpc verify` and `qpc bench`
run on other machines. It wants nothing but the standard library of C99; the clock is POSIX's.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from qpc.backends.deploy.deployable import Deployable, Port
from qpc.targets.data import BARE_METAL

VECTORS = "vectors.bin"
MAIN = "main.c"


def vectors_file(model: Deployable) -> bytes:
    """Test vectors one after the other: of each the inputs, then the outputs, in order."""
    return b"".join(b"".join((*case.inputs, *case.outputs)) for case in model.cases)


def main_program(model: Deployable) -> str:
    """The text of `main.c`."""
    name, macro = model.name, model.macro
    buffers = "\n".join(
        (*_buffers(macro, "input", model.inputs), *_buffers(macro, "output", model.outputs))
    )
    inputs = ", ".join(f"input_{i}.bytes" for i in range(len(model.inputs)))
    outputs = ", ".join(f"output_{i}.bytes" for i in range(len(model.outputs)))
    reads = "\n".join(
        f"    if (fread(input_{i}.bytes, 1, {macro}_INPUT_{i}_BYTES, file) != "
        f"{macro}_INPUT_{i}_BYTES) return 0;"
        for i in range(len(model.inputs))
    )
    compares = "\n".join(
        f"    wrong |= compare(file, number, {i}, output_{i}.bytes, {macro}_OUTPUT_{i}_BYTES, "
        f"sizeof(*output_{i}.values), {_distance(i, port)});"
        for i, port in enumerate(model.outputs)
    )
    distances = "\n\n".join(
        _distance_function(i, port)
        for i, port in enumerate(model.outputs)
        if port.tolerance is not None
    )
    text = _MAIN
    for word, written in {
        "@NAME@": macro,
        "@name@": name,
        "@buffers@": buffers,
        "@inputs@": inputs or "0",
        "@outputs@": outputs or "0",
        "@reads@": reads,
        "@compares@": compares,
        "@distances@": f"{distances}\n\n" if distances else "",
        "@vectors@": VECTORS,
        "@target@": model.target.name,
    }.items():
        text = text.replace(word, written)
    return text


def cmake_file(model: Deployable, library: str, sources: Sequence[str] = ()) -> str:
    """The text of `CMakeLists.txt`, for programs that add the folder to theirs, or by itself.

    library: the file that programs link, or source of it. sources: more source of it.
    """
    needs_math = "m" if model.target.architecture.system == "Linux" else ""
    parallel = ""
    if model.threads > 1:
        bare = model.target.architecture.system == BARE_METAL
        parallel = _CMAKE_SERIAL if bare else _CMAKE_PARALLEL
        parallel = parallel.replace("@name@", model.name)
    form = _CMAKE_SOURCE if library.endswith(".c") else _CMAKE_ARCHIVE
    assembled = [source for source in sources if source.endswith(".S")]
    text = _CMAKE.replace("@library@", form).replace("@file@", " ".join([library, *assembled]))
    text = text.replace("@languages@", "C ASM" if assembled else "C")
    text = text.replace("@name@", model.name).replace("@math@", needs_math)
    return text.replace("@flags@", " ".join(model.target.c_flags)).replace("@parallel@", parallel)


def _buffers(macro: str, kind: str, ports: tuple[Port, ...]) -> Iterator[str]:
    for i, _ in enumerate(ports):
        size = f"{macro}_{kind.upper()}_{i}"
        yield (
            f"static union {{ {size.lower()}_t values[{size}_ELEMENTS]; "
            f"unsigned char bytes[{size}_BYTES]; }} {kind}_{i};"
        )


def _distance(number: int, port: Port) -> str:
    return "NULL" if port.tolerance is None else f"is_near_{number}"


def _distance_function(number: int, port: Port) -> str:
    """Whether an element is near enough to the expected one, where float operators round."""
    convert = {
        "float16": "half_as_double(bits)",
        "bfloat16": "brain_as_double(bits)",
    }.get(port.dtype, "(double)bits")
    needed = {"float16": _HALF, "bfloat16": _BRAIN}.get(port.dtype, "")
    body = f"""/* Float operators round output {number}: it may differ by {port.tolerance:.9g}. */
static double as_double_{number}(const unsigned char *at)
{{
    {port.element.c} bits;
    memcpy(&bits, at, sizeof bits);
    return {convert};
}}

static int is_near_{number}(const unsigned char *found, const unsigned char *expected)
{{
    double value = as_double_{number}(found), wanted = as_double_{number}(expected);
    double distance = value - wanted;
    if (value != value || wanted != wanted) return value != value && wanted != wanted;
    return distance <= {port.tolerance:.9g} && distance >= -{port.tolerance:.9g};
}}"""
    return f"{needed}{body}"


_BRAIN = """static double brain_as_double(uint16_t bits)
{
    uint32_t wide = (uint32_t)bits << 16;
    float value;
    memcpy(&value, &wide, sizeof value);
    return (double)value;
}

"""
_HALF = """static double half_as_double(uint16_t bits)
{
    int exponent = (bits >> 10) & 31;
    double value = (double)(bits & 1023) / 1024 + (exponent != 0);
    exponent = exponent ? exponent - 15 : -14;
    for (; exponent > 0; exponent--) value *= 2;
    for (; exponent < 0; exponent++) value /= 2;
    return bits & 32768 ? -value : value;
}

"""

_MAIN = """/* Calls @name@_run on its test vectors and compares every byte of the outputs.
 *
 *     main [FILE]            the vectors in FILE, @vectors@ by default; "-" for standard input
 *     main --time N [FILE]   then N timed calls: nanoseconds of each, one per line
 *
 * Returns 0 if all outputs are as expected, 1 if not, 2 if the vectors cannot be read.
 */
#define _POSIX_C_SOURCE 199309L

#include "@name@.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* With room for the arena to begin where it must: C99 has no alignas. */
static unsigned char memory[@NAME@_ARENA_BYTES + @NAME@_ARENA_ALIGNMENT];
@buffers@

static const void *const inputs[] = {@inputs@};
static void *const outputs[] = {@outputs@};

static int run(void)
{
    size_t past = (size_t)((uintptr_t)memory % @NAME@_ARENA_ALIGNMENT);
    unsigned char *arena = past ? memory + (@NAME@_ARENA_ALIGNMENT - past) : memory;
    return @name@_run(inputs, outputs, arena, @NAME@_ARENA_BYTES);
}

typedef int (*is_near)(const unsigned char *found, const unsigned char *expected);

@distances@/* Whether an output differs from the one in the file; near: what decides for elements of
 * outputs that are not exact, else null. */
static int compare(FILE *file, int number, int output, const unsigned char *found, size_t size,
                   size_t element, is_near near)
{
    unsigned char *expected = malloc(size ? size : 1);
    size_t i, wrong = 0, first = 0;
    if (expected == NULL || fread(expected, 1, size, file) != size) {
        printf("case %d: the expected output %d cannot be read\\n", number, output);
        free(expected);
        return 1;
    }
    for (i = 0; i < size; i += element) {
        int equal = memcmp(found + i, expected + i, element) == 0;
        if (!equal && !(near != NULL && near(found + i, expected + i))) {
            if (wrong++ == 0) first = i / element;
        }
    }
    if (wrong)
        printf("case %d: output %d differs in %lu of %lu elements, first in element %lu\\n", number,
               output, (unsigned long)wrong, (unsigned long)(size / element), (unsigned long)first);
    free(expected);
    return wrong != 0;
}

static int read_inputs(FILE *file)
{
@reads@
    return 1;
}

static int replay(FILE *file)
{
    int number, wrong = 0;
    for (number = 0; read_inputs(file); number++) {
        int code;
        /* What a call does not write must not look right. */
        size_t i;
        for (i = 0; i < sizeof memory; i++) memory[i] = 0xA5;
        code = run();
        if (code != @NAME@_OK) {
            printf("case %d: @name@_run returned %d\\n", number, code);
            return 1;
        }
@compares@
    }
    if (number == 0) {
        printf("there are no test vectors in the file\\n");
        return 2;
    }
    printf("%d cases, %s\\n", number, wrong ? "not all equal" : "all equal");
    return wrong;
}

static int measure(long calls)
{
#ifdef CLOCK_MONOTONIC
    while (calls-- > 0) {
        struct timespec start, end;
        clock_gettime(CLOCK_MONOTONIC, &start);
        if (run() != @NAME@_OK) return 1;
        clock_gettime(CLOCK_MONOTONIC, &end);
        printf("%lld ns\\n", (long long)(end.tv_sec - start.tv_sec) * 1000000000LL +
                                (end.tv_nsec - start.tv_nsec));
    }
    return 0;
#else
    if (calls > 0) printf("there is no clock to time calls with\\n");
    return calls > 0;
#endif
}

int main(int count, char **arguments)
{
    const char *path = "@vectors@";
    long calls = 0;
    int at = 1, code;
    FILE *file;
    if (count > at + 1 && strcmp(arguments[at], "--time") == 0) {
        calls = strtol(arguments[at + 1], NULL, 10);
        at += 2;
    }
    if (count > at) path = arguments[at];
    file = strcmp(path, "-") == 0 ? stdin : fopen(path, "rb");
    if (file == NULL) {
        printf("cannot read %s\\n", path);
        return 2;
    }
    code = replay(file);
    fclose(file);
    return code ? code : measure(calls);
}
"""

_CMAKE = """# add_subdirectory(this folder), then target_link_libraries(program PRIVATE @name@);
# or by itself: cmake -B build && cmake --build build && ctest --test-dir build
cmake_minimum_required(VERSION 3.13)
project(@name@ @languages@)

@library@@parallel@
if(CMAKE_SOURCE_DIR STREQUAL CMAKE_CURRENT_SOURCE_DIR)
  enable_testing()
  add_executable(main main.c)
  target_compile_options(main PRIVATE @flags@)
  target_link_libraries(main PRIVATE @name@)
  add_test(NAME vectors COMMAND main ${CMAKE_CURRENT_SOURCE_DIR}/vectors.bin)
endif()
"""
_CMAKE_ARCHIVE = """add_library(@name@ STATIC IMPORTED GLOBAL)
set_target_properties(@name@ PROPERTIES
  IMPORTED_LOCATION ${CMAKE_CURRENT_SOURCE_DIR}/@file@
  INTERFACE_INCLUDE_DIRECTORIES ${CMAKE_CURRENT_SOURCE_DIR}
  INTERFACE_LINK_LIBRARIES "@math@")
"""
_CMAKE_SOURCE = """add_library(@name@ STATIC @file@)
target_include_directories(@name@ PUBLIC ${CMAKE_CURRENT_SOURCE_DIR})
target_compile_options(@name@ PRIVATE @flags@)
if(CMAKE_C_COMPILER_ID MATCHES "GNU|Clang")
  target_compile_options(@name@ PRIVATE -O3)  # without a build type, and while the rest is debugged
endif()
target_link_libraries(@name@ PUBLIC @math@)
"""
_CMAKE_SERIAL = """
# One task after the other; tasks of a system of yours can take its place.
add_library(@name@_parallel STATIC parallel_serial.c)
set_property(TARGET @name@ APPEND PROPERTY INTERFACE_LINK_LIBRARIES @name@_parallel)
"""
_CMAKE_PARALLEL = """
# Threads by POSIX; parallel_openmp.c and parallel_serial.c do the same with OpenMP, or without.
find_package(Threads REQUIRED)
add_library(@name@_parallel STATIC parallel_pthread.c)
target_link_libraries(@name@_parallel PUBLIC Threads::Threads)
set_property(TARGET @name@ APPEND PROPERTY INTERFACE_LINK_LIBRARIES @name@_parallel)
"""
