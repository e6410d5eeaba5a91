"""Programs for cores without an operating system, as QEMU's boards run them.

`main.c` stays as it is: files and texts go through semihosting, with which newlib's `rdimon`
library asks QEMU. What is added are the vector table, the start of the program, and where memory
is. On a board of one's own, the maker's files take their place.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Machine:
    """A board that QEMU knows: bytes of memory for code at 0, and for data at 0x20000000."""

    code: int
    data: int


_MIB = 2**20
MACHINES = {
    "mps2-an385": Machine(4 * _MIB, 4 * _MIB),
    "mps2-an386": Machine(4 * _MIB, 4 * _MIB),
    "mps2-an500": Machine(4 * _MIB, 4 * _MIB),
    "mps3-an547": Machine(_MIB // 2, _MIB // 2),
}
"""By QEMU's names, the boards of ARM's cores M3, M4, M7 and M55."""

START = "start.c"
SCRIPT = "memory.ld"
OPTIONS = ("-nostartfiles", "--specs=rdimon.specs", "-T", SCRIPT)
EMULATOR = ("-nographic", "-monitor", "none", "-semihosting-config", "enable=on,target=native")


def files(machine: str) -> dict[str, str]:
    """The files that a program for a board needs besides its own, by name."""
    board = MACHINES[machine]
    script = _SCRIPT.replace("@code@", str(board.code)).replace("@data@", str(board.data))
    return {START: _START, SCRIPT: script}


_START = """/* Vector table and start of a program on a core of the M profile. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

extern uint32_t __data_start, __data_end, __data_load, __bss_start__, __bss_end__, __stack;
extern void initialise_monitor_handles(void);
extern int main(int count, char **arguments);

#define ACCESS_CONTROL (*(volatile uint32_t *)0xE000ED88)

static void reset(void)
{
    ACCESS_CONTROL |= 0xFu << 20; /* turns the unit for floats on, if there is one */
    __asm__ volatile("dsb\\n isb");
    memcpy(&__data_start, &__data_load, (size_t)((char *)&__data_end - (char *)&__data_start));
    memset(&__bss_start__, 0, (size_t)((char *)&__bss_end__ - (char *)&__bss_start__));
    initialise_monitor_handles();
    exit(main(0, NULL));
}

static void fault(void)
{
    _Exit(3);
}

void _init(void) {}
void _fini(void) {}

__attribute__((section(".vectors"), used)) static const void *const vectors[16] = {
    &__stack, (void *)reset, (void *)fault, (void *)fault, (void *)fault, (void *)fault,
    (void *)fault};
"""

_SCRIPT = """ENTRY(reset)
MEMORY
{
  FLASH (rx) : ORIGIN = 0x00000000, LENGTH = @code@
  RAM (rwx) : ORIGIN = 0x20000000, LENGTH = @data@
}
SECTIONS
{
  .text : { KEEP(*(.vectors)) *(.text*) *(.rodata*) . = ALIGN(8); } > FLASH
  .ARM.exidx : { __exidx_start = .; *(.ARM.exidx*) __exidx_end = .; } > FLASH
  .data : { __data_start = .; *(.data*) . = ALIGN(8); __data_end = .; } > RAM AT > FLASH
  __data_load = LOADADDR(.data);
  .bss (NOLOAD) : {
    __bss_start__ = .; *(.bss*) *(COMMON) . = ALIGN(8); __bss_end__ = .; end = .;
  } > RAM
  __stack = ORIGIN(RAM) + LENGTH(RAM);
}
"""
