from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from qpc.backends.deploy.header import header
from qpc.backends.deploy.parallel import default, samples
from qpc.targets import Target
from tests.backends.deploy.models import deployable
from tests.emulation import require

STRICT = ("-std=c99", "-Wall", "-Wextra", "-pedantic", "-Wconversion", "-Werror", "-fopenmp")
COUNTED = """
#include "net.h"
#include <stdio.h>

static int seen[9];

static void count(void *context, int number)
{
    (void)context;
    seen[number]++;
}

int main(void)
{
    int tasks, number;
    for (tasks = 1; tasks <= 9; tasks++) net_parallel(count, NULL, tasks);
    for (number = 0; number < 9; number++) printf("%d ", seen[number]);
    return 0;
}
"""


@pytest.mark.parametrize("name", ["parallel_serial.c", "parallel_pthread.c", "parallel_openmp.c"])
def test_every_task_runs_once(tmp_path: Path, name: str) -> None:
    require("gcc")
    model = replace(deployable(), threads=4)
    (tmp_path / "net.h").write_text(header(model))
    (tmp_path / "main.c").write_text(COUNTED)
    (tmp_path / name).write_text(samples(model)[name])
    program = tmp_path / "main"
    sources = [tmp_path / "main.c", tmp_path / name]
    subprocess.run(["gcc", *STRICT, *sources, "-pthread", "-o", program], check=True)
    done = subprocess.run([program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(9 - number) for number in range(9)]


def test_the_sample_that_replays_vectors_is_one_of_them() -> None:
    assert default(Target.parse("aarch64")) == "parallel_pthread.c"
    assert default(Target.parse("cortex-m4")) == "parallel_serial.c"
    assert {"parallel_pthread.c", "parallel_serial.c"} <= samples(deployable()).keys()
