"""Samples of the one function that a program brings if calls are to be shared among threads.

A library with threads calls `<name>_parallel` for each layer that is large enough. Whoever writes
that function decides what threads there are; results never depend on it.
"""

from __future__ import annotations

from qpc.backends.deploy.deployable import Deployable
from qpc.targets import Target
from qpc.targets.data import BARE_METAL


def default(target: Target) -> str:
    """The sample that the test vectors are replayed with: threads, where there is a system."""
    bare = target.architecture.system == BARE_METAL
    return "parallel_serial.c" if bare else "parallel_pthread.c"


def samples(model: Deployable) -> dict[str, str]:
    """The samples by file name, for a model with more than one thread."""
    texts = {
        "parallel_serial.c": _SERIAL,
        "parallel_pthread.c": _PTHREAD,
        "parallel_openmp.c": _OPENMP,
    }
    name, threads = model.name, str(model.threads)
    return {
        file: text.replace("@name@", name).replace("@threads@", threads)
        for file, text in texts.items()
    }


DECLARATION = """
/* @name@ shares its larger layers among up to @threads@ tasks. The program defines @name@_parallel:
 * it calls task(context, number) once for every number from 0 to tasks - 1, in any order or at the
 * same time, and returns when all of these calls have. Results do not depend on how it does that;
 * see parallel_serial.c, parallel_pthread.c and parallel_openmp.c. */
void @name@_parallel(void (*task)(void *context, int number), void *context, int tasks);
"""

_SERIAL = """/* @name@_parallel without threads: one task after the other. */
#include "@name@.h"

void @name@_parallel(void (*task)(void *context, int number), void *context, int tasks)
{
    int number;
    for (number = 0; number < tasks; number++) task(context, number);
}
"""

_OPENMP = """/* @name@_parallel with OpenMP: compile it with -fopenmp. */
#include "@name@.h"

void @name@_parallel(void (*task)(void *context, int number), void *context, int tasks)
{
    int number;
#pragma omp parallel for schedule(static, 1) num_threads(tasks)
    for (number = 0; number < tasks; number++) task(context, number);
}
"""

_PTHREAD = """/* @name@_parallel with threads of POSIX, started for every layer that is shared.
 * A program that has a pool of threads will use that. */
#include "@name@.h"

#include <pthread.h>

struct work {
    void (*task)(void *context, int number);
    void *context;
    int number;
    pthread_t thread;
    int started;
};

static void *begin(void *given)
{
    struct work *work = given;
    work->task(work->context, work->number);
    return NULL;
}

void @name@_parallel(void (*task)(void *context, int number), void *context, int tasks)
{
    struct work works[@threads@];
    int first, number, count;
    for (first = 0; first < tasks; first += count) {
        count = tasks - first < @threads@ ? tasks - first : @threads@;
        for (number = 1; number < count; number++) {
            struct work *work = &works[number];
            work->task = task;
            work->context = context;
            work->number = first + number;
            work->started = pthread_create(&work->thread, NULL, begin, work) == 0;
        }
        task(context, first);
        for (number = 1; number < count; number++) {
            if (works[number].started)
                pthread_join(works[number].thread, NULL);
            else
                task(context, works[number].number);
        }
    }
}
"""
