"""The function of a library that holds several instruction sets, written in LLVM's language.

It asks Linux at each call, which takes no memory and costs less than any layer, and calls the
function of the last one of which the CPU has all that it needs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from qpc.backends.deploy.deployable import Deployable
from qpc.backends.tvm.codegen.llvm_entry import frame, object_of
from qpc.targets import Target

ASKS = "getauxval"
"""The function of C by which Linux says what the CPU can do."""


def dispatch_object(model: Deployable, choices: Sequence[Deployable]) -> bytes:
    """The object file with the function of a model that calls one of its choices.

    The first of them is for every CPU of the architecture, the last the best.
    """
    return object_of("\n".join(_lines(model, choices)) + "\n")


def needed_bits(target: Target) -> dict[int, int]:
    """By entry of the auxiliary vector, the bits that code for a target needs."""
    found: dict[int, int] = {}
    for feature, entry, bit in target.architecture.capabilities:
        if feature in target.features:
            found[entry] = found.get(entry, 0) | 1 << bit
    return found


def _lines(model: Deployable, choices: Sequence[Deployable]) -> Iterator[str]:
    head, flag, attributes = frame(choices[0].target)
    parameters = "ptr %inputs, ptr %outputs, ptr %arena, i64 %arena_bytes"
    yield from head
    yield f"declare i64 @{ASKS}(i64)"
    for choice in choices:
        yield f"declare hidden i32 @{choice.run}(ptr, ptr, ptr, i64)"
    yield f"define i32 @{model.run}({parameters}) #0 {{"
    yield "entry:"
    bits = [needed_bits(choice.target) for choice in choices]
    for entry in sorted({entry for needed in bits for entry in needed}):
        yield f"  %has_{entry} = call i64 @{ASKS}(i64 {entry})"
    last = len(choices) - 1
    yield f"  br label %ask_{last}"
    for number in range(last, 0, -1):
        yield f"ask_{number}:"
        yield from _asked(number, bits[number])
        yield f"  br i1 %fits_{number}, label %run_{number}, label %ask_{number - 1}"
    yield from ("ask_0:", "  br label %run_0")
    for number, choice in enumerate(choices):
        yield f"run_{number}:"
        yield f"  %code_{number} = call i32 @{choice.run}({parameters})"
        yield f"  ret i32 %code_{number}"
    yield "}"
    yield f"attributes #0 = {{ nounwind {attributes} }}"
    yield from ("!llvm.module.flags = !{!0}", f"!0 = {flag}")


def _asked(number: int, bits: dict[int, int]) -> Iterator[str]:
    """Whether all bits of a choice are there."""
    missing = "0"
    for entry, mask in bits.items():
        name = f"{number}_{entry}"
        yield f"  %lacks_{name} = xor i64 %has_{entry}, -1"
        yield f"  %of_{name} = and i64 %lacks_{name}, {mask}"
        yield f"  %missing_{name} = or i64 {missing}, %of_{name}"
        missing = f"%missing_{name}"
    yield f"  %fits_{number} = icmp eq i64 {missing}, 0"
