"""The function of an exported library, written in LLVM's language.

It is the same plan that entry points for Python follow; only where memory comes from differs:
inputs, outputs and arena are arguments, whose addresses and sizes are checked, and weights have
symbols. Kernels and weights are undefined here; `qpc.backends.deploy.merge` binds them.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import tvm
from tvm import tirx
from tvm.ir import PrimType

from qpc.backends.common.plan import Place
from qpc.backends.deploy.abi import ARENA_ALIGNMENT, ERRORS
from qpc.backends.deploy.deployable import Deployable, Port
from qpc.backends.tvm.codegen.entry import Call
from qpc.backends.tvm.codegen.objects import tvm_target
from qpc.runtime.scratch import in_scratch_file
from qpc.targets import Target

_ROOM = 16 << 20  # bytes that LLVM may need for the object file
_HEAD = re.compile(r"^target (?:datalayout|triple) = .*$", re.MULTILINE)
_FLAG = re.compile(r'^!\d+ = (!\{i32 \d+, !"tvm_target", .*\})$', re.MULTILINE)
_ATTRIBUTES = re.compile(
    r'^attributes #0 = \{ .*?((?:"target-[a-z]+"="[^"]*" ?)+).*\}$', re.MULTILINE
)


def entry_object(model: Deployable) -> bytes:
    """The object file with the function of a model."""
    return object_of(entry_text(model))


def object_of(text: str) -> bytes:
    """The object file of a text in LLVM's language."""
    load = tvm.get_global_func("ffi.Module.load_from_file.ll")

    def compiled(source: str) -> bytes:
        module = load(source, "ll")

        def written(path: str) -> bytes:
            module.write_to_file(path, "o")
            return Path(path).read_bytes()

        return in_scratch_file(b"", written, room=_ROOM)

    return in_scratch_file(text.encode(), compiled)


def entry_text(model: Deployable) -> str:
    """The function of a model in LLVM's language."""
    return "\n".join(_Writer(model).lines()) + "\n"


class _Writer:
    def __init__(self, model: Deployable) -> None:
        self._model = model
        self._word = f"i{8 * model.target.architecture.address_bytes}"
        self._numbers = iter(range(10**9))

    def lines(self) -> Iterator[str]:
        head, flag, attributes = frame(self._model.target)
        yield from head
        yield from (f"@{name} = external hidden constant i8" for name in self._weights())
        yield from self._declared()
        arguments = f"ptr %inputs, ptr %outputs, ptr %arena, {self._word} %arena_bytes"
        yield f"define i32 @{self._model.run}({arguments}) #0 {{"
        yield "entry:"
        yield from self._checks()
        for call in self._model.entry.calls:
            yield from self._call(call)
        for copy in self._model.entry.copies:
            (to, source), moves = self._addresses((copy.to, copy.source))
            yield from moves
            arguments = f"ptr {to}, ptr {source}, {self._word} {copy.source.size}"
            yield f"  {self._new()} = call ptr @memcpy({arguments})"
        yield "  ret i32 0"
        for name, (number, _) in ERRORS.items():
            if number:
                yield from (f"{name}:", f"  ret i32 {number}")
        yield "}"
        if self._model.threads > 1:
            launcher = _LAUNCHER.replace("@name@", self._model.name)
            yield launcher.replace("@threads@", str(self._model.threads))
        yield f"attributes #0 = {{ nounwind {attributes} }}"
        yield from ("!llvm.module.flags = !{!0}", f"!0 = {flag}")

    def _new(self) -> str:
        return f"%v{next(self._numbers)}"

    def _weights(self) -> list[str]:
        return sorted(set(self._model.weight_names))

    def _declared(self) -> Iterator[str]:
        arities = {call.kernel: len(call.arguments) for call in self._model.entry.calls}
        for kernel, count in arities.items():
            yield f"declare hidden i32 @{kernel}({', '.join(['ptr'] * count)})"
        if self._model.entry.copies:
            yield f"declare ptr @memcpy(ptr, ptr, {self._word})"

    # --- arguments --------------------------------------------------------------------------------

    def _checks(self) -> Iterator[str]:
        """Nothing is touched before all addresses and sizes are known to be right."""
        model, word = self._model, self._word
        if model.inputs:
            yield from self._unless("icmp eq ptr %inputs, null", "ERROR_NULL")
        yield from self._unless("icmp eq ptr %outputs, null", "ERROR_NULL")
        if model.entry.arena:
            yield from self._unless("icmp eq ptr %arena, null", "ERROR_NULL")
            yield from self._unless(
                f"icmp ult {word} %arena_bytes, {model.entry.arena}", "ERROR_ARENA_SIZE"
            )
            yield from self._aligned("%arena", ARENA_ALIGNMENT, "ERROR_ARENA_ALIGNMENT")
        for kind, ports in (("input", model.inputs), ("output", model.outputs)):
            for number, port in enumerate(ports):
                yield from self._loaded(kind, number, port)

    def _loaded(self, kind: str, number: int, port: Port) -> Iterator[str]:
        address, place = f"%{kind}_{number}", self._new()
        yield f"  {place} = getelementptr ptr, ptr %{kind}s, {self._word} {number}"
        yield f"  {address} = load ptr, ptr {place}"
        yield from self._unless(f"icmp eq ptr {address}, null", "ERROR_NULL")
        if port.element.bytes > 1:
            yield from self._aligned(address, port.element.bytes, "ERROR_ALIGNMENT")

    def _aligned(self, address: str, to: int, error: str) -> Iterator[str]:
        number, rest = self._new(), self._new()
        yield f"  {number} = ptrtoint ptr {address} to {self._word}"
        yield f"  {rest} = and {self._word} {number}, {to - 1}"
        yield from self._unless(f"icmp ne {self._word} {rest}, 0", error)

    def _unless(self, condition: str, error: str) -> Iterator[str]:
        """Go on if the condition does not hold."""
        found = self._new()
        yield f"  {found} = {condition}"
        yield f"  br i1 {found}, label %{error}, label %go{found[1:]}"
        yield f"go{found[1:]}:"

    # --- calls ------------------------------------------------------------------------------------

    def _call(self, call: Call) -> Iterator[str]:
        addresses, moves = self._addresses(call.arguments)
        yield from moves
        code = self._new()
        yield f"  {code} = call i32 @{call.kernel}({', '.join(f'ptr {a}' for a in addresses)})"
        yield from self._unless(f"icmp ne i32 {code}, 0", "ERROR_KERNEL")

    def _addresses(self, places: Sequence[Place]) -> tuple[list[str], list[str]]:
        """Where places begin, and the lines that compute it."""
        found, moves = [], []
        for place in places:
            if place.kind == "weight":
                found.append(f"@{self._model.weight_of(place)}")
            elif place.kind != "arena":
                found.append(f"%{place.kind}_{place.start}")
            elif not place.start:
                found.append("%arena")
            else:
                found.append(self._new())
                start = f"{self._word} {place.start}"
                moves.append(f"  {found[-1]} = getelementptr i8, ptr %arena, {start}")
        return found, moves


# What kernels call to share their work is a pointer to a function, of which TVM expects to be set;
# here it is a constant. The program's own function sees neither TVM's environments nor its codes.
_LAUNCHER = """
%context = type { ptr, ptr, i32, { ptr, i32 } }
@__TVMBackendParallelLaunch = hidden constant ptr @launch
declare void @@name@_parallel(ptr, ptr, i32)
define internal i32 @launch(ptr %task, ptr %data, i32 %wanted) #0 {
  %context = alloca %context
  %all = icmp slt i32 %wanted, 1
  %tasks = select i1 %all, i32 @threads@, i32 %wanted
  store ptr %task, ptr %context
  %data_at = getelementptr %context, ptr %context, i32 0, i32 1
  store ptr %data, ptr %data_at
  %code_at = getelementptr %context, ptr %context, i32 0, i32 2
  store i32 0, ptr %code_at
  %handle_at = getelementptr %context, ptr %context, i32 0, i32 3, i32 0
  store ptr null, ptr %handle_at
  %tasks_at = getelementptr %context, ptr %context, i32 0, i32 3, i32 1
  store i32 %tasks, ptr %tasks_at
  call void @@name@_parallel(ptr @begin, ptr %context, i32 %tasks)
  %code = load i32, ptr %code_at
  ret i32 %code
}
define internal void @begin(ptr %context, i32 %number) #0 {
entry:
  %task = load ptr, ptr %context
  %data_at = getelementptr %context, ptr %context, i32 0, i32 1
  %data = load ptr, ptr %data_at
  %environment = getelementptr %context, ptr %context, i32 0, i32 3
  %code = call i32 %task(i32 %number, ptr %environment, ptr %data)
  %failed = icmp ne i32 %code, 0
  br i1 %failed, label %note, label %end
note:
  %code_at = getelementptr %context, ptr %context, i32 0, i32 2
  store i32 %code, ptr %code_at
  br label %end
end:
  ret void
}"""


@functools.cache
def frame(target: Target) -> tuple[tuple[str, ...], str, str]:
    """What TVM writes around code for a target: its lines, the flag that names it, attributes."""
    chosen = tvm_target(target)
    attributes = tvm.ir.make_node("ir.DictAttrs", global_symbol="nothing", target=chosen)
    body = tirx.Return(tirx.IntImm("int32", 0))
    function = tirx.PrimFunc([], body, PrimType("int32"), attributes)
    module = tvm.IRModule({tvm.ir.GlobalVar("nothing"): function})
    text = tvm.get_global_func("target.build.llvm")(module, chosen).inspect_source("ll")
    flag, wanted = _FLAG.search(text), _ATTRIBUTES.search(text)
    assert flag is not None, "TVM does not say what a module is for"
    return tuple(_HEAD.findall(text)), flag[1], wanted[1] if wanted else ""
