from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

pytest.importorskip("tvm", reason="Apache TVM is not installed")

import qpc
from qpc.backends.deploy.projects import write_project
from qpc.errors import ArtifactError, BackendError
from tests.emulation import require
from tests.generators import IntegerGraph

pytestmark = [pytest.mark.tvm, pytest.mark.arm]
FLOATS = ("-mfloat-abi=hard", "-mfpu=fpv4-sp-d16")
CORE = ["-mcpu=cortex-m4", "-mthumb", *FLOATS, "-Wall", "-Wextra", "-Werror"]
ARDUINO = """
#include <stddef.h>
#include <stdint.h>
struct Port {
  void begin(long);
  template <typename T> void print(T);
  template <typename T> void println(T);
};
extern Port Serial;
unsigned long micros();
void delay(unsigned long);
"""
KERNEL = """
#include <stdint.h>
#define K_SECONDS(n) (n)
uint32_t k_cycle_get_32(void);
int k_sleep(int);
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A library as C source."""
    out = tmp_path_factory.mktemp("c") / "net"
    g = IntegerGraph()
    gm = g.module(g.dequantize(g.linear(g.quantize(g.input(8)), 4)))
    qpc.export_library(gm, "cortex-m4", out, name="net", form="c")
    return out


def test_an_arduino_sketch_compiles(library: Path, tmp_path: Path) -> None:
    require("arm-none-eabi-g++")
    made = write_project(library, "arduino", tmp_path / "blink")
    assert {file.name for file in made.iterdir()} == {"blink.ino", "net.c", "net.h"}
    (tmp_path / "Arduino.h").write_text(ARDUINO)
    given = ["-include", str(tmp_path / "Arduino.h"), "-x", "c++", str(made / "blink.ino")]
    command = ["arm-none-eabi-g++", *CORE, "-std=gnu++11", "-fsyntax-only", *given]
    subprocess.run(command, check=True)
    assert 'Serial.print("code ");' in (made / "blink.ino").read_text()


def test_a_zephyr_application_compiles(library: Path, tmp_path: Path) -> None:
    require("arm-none-eabi-gcc")
    made = write_project(library, "zephyr", tmp_path / "app")
    names = {"CMakeLists.txt", "prj.conf", "main.c", "net.c", "net.h"}
    assert {file.name for file in made.iterdir()} == names
    assert "target_sources(app PRIVATE main.c net.c)" in (made / "CMakeLists.txt").read_text()
    assert (
        "properties(net.c PROPERTIES COMPILE_OPTIONS -O3)" in (made / "CMakeLists.txt").read_text()
    )
    assert "project(app)" in (made / "CMakeLists.txt").read_text()
    assert "CONFIG_FPU=y" in (made / "prj.conf").read_text()
    for name, text in (("kernel.h", KERNEL), ("sys/printk.h", "void printk(const char *, ...);\n")):
        header = tmp_path / "include" / "zephyr" / name
        header.parent.mkdir(parents=True, exist_ok=True)
        header.write_text(text)
    folder = ["-I", str(tmp_path / "include"), str(made / "main.c")]
    subprocess.run(["arm-none-eabi-gcc", *CORE, "-fsyntax-only", *folder], check=True)


def test_what_cannot_be_a_project_is_refused(library: Path, tmp_path: Path) -> None:
    with pytest.raises(BackendError, match="unknown kind of project 'mbed'"):
        write_project(library, "mbed", tmp_path / "net")
    with pytest.raises(ArtifactError, match="cannot write"):
        write_project(library, "zephyr", library)
    g = IntegerGraph()
    gm = g.module(g.linear(g.image(8), 4))
    qpc.export_library(gm, "cortex-m4", tmp_path / "objects", name="net")
    with pytest.raises(BackendError, match="holds no C source"):
        write_project(tmp_path / "objects", "zephyr", tmp_path / "net")
    qpc.export_library(gm, "cortex-m4", tmp_path / "blob", name="net", form="c", weights="blob")
    with pytest.raises(BackendError, match="where constants beside the source are"):
        write_project(tmp_path / "blob", "arduino", tmp_path / "net")
    made = write_project(tmp_path / "blob", "zephyr", tmp_path / "net")
    assert "main.c net_weights.S net.c)" in (made / "CMakeLists.txt").read_text()
