"""Kernels and entry points as object files or as C, each kernel by itself, so it can be kept."""

from __future__ import annotations

import hashlib
import inspect
import json
import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import tvm
from tvm import tirx
from tvm.target.codegen import llvm_get_cpu_features

from qpc.backends.tvm.codegen import c_functions, c_scalars
from qpc.backends.tvm.codegen.c_functions import lower_kernels, scratch_bytes
from qpc.backends.tvm.codegen.c_scalars import in_scalars
from qpc.backends.tvm.codegen.cache import KernelCache
from qpc.backends.tvm.compat import FFI_VERSION, TVM_VERSION
from qpc.backends.tvm.lowering import float_arithmetic
from qpc.errors import UnsupportedTargetError
from qpc.runtime.scratch import in_scratch_file
from qpc.targets import Target
from qpc.targets.data import C_SOURCE
from qpc.version import VERSION

CODEGEN_OPTIONS = {"tirx.disable_assert": True}
"""What functions are compiled with, besides the target."""

_SOURCES = "".join(map(inspect.getsource, (c_functions, c_scalars, float_arithmetic)))
_LOWERING = hashlib.sha256(_SOURCES.encode()).hexdigest()
"""A kernel's text is what it was before lowering, so how that is done belongs to its key."""

_told = logging.getLogger("qpc.progress")
_log = logging.getLogger("qpc.backends")
_Functions = Mapping[tvm.ir.GlobalVar, tirx.PrimFunc]
_NUMBER_BYTES = 8
_ROOM = 16 << 20  # bytes that LLVM may need for an object file; it ends the process without them
_LONG_S = 30.0
"""When to say that LLVM still works on a kernel: the slowest take it a few seconds."""
_CALLS_ANOTHER = '"ir.GlobalVar"'


@dataclass(frozen=True)
class KernelCode:
    """An object file, and how much scratch memory each of its functions needs, in bytes."""

    code: bytes
    scratch: Mapping[str, int]


def tvm_target(target: Target) -> tvm.target.Target:
    """`target` in TVM's words, of which it says every one; C is the same for all of them.

    Raises UnsupportedTargetError for features that LLVM does not know, which it would leave out.
    """
    if target.object_format == C_SOURCE:
        return tvm.target.Target({"kind": "c"})
    options = {"kind": "llvm", "mtriple": target.triple, "mcpu": target.llvm_cpu, "num-cores": 1}
    if target.mattr:
        options["mattr"] = list(target.mattr)
    if target.abi is not None:
        options[target.architecture.abi_option] = target.abi
    made = tvm.target.Target(options)
    if unknown := set(target.features) - set(map(str, llvm_get_cpu_features(made))):
        raise UnsupportedTargetError(
            f"LLVM knows no features {', '.join(sorted(unknown))} of target {target.name!r}",
            fix="use LLVM's names of features",
        )
    return made


def kernel_code(
    kernels: _Functions, target: tvm.target.Target, cache: KernelCache
) -> list[KernelCode]:
    """Object files that together hold all kernels."""
    by_name = sorted(kernels.items(), key=lambda entry: str(entry[0].name_hint))
    texts = {gv: tvm.ir.save_json(function) for gv, function in by_name}
    if any(_CALLS_ANOTHER in text for text in texts.values()):
        return [_compiled_kernels(kernels, target)]  # an entry could not do without others
    made = []
    for number, (gv, function) in enumerate(by_name, start=1):
        made.append(_cached_kernel(gv, function, texts[gv], target, cache))
        _told.info("kernels are compiled", extra={"done": number, "total": len(by_name)})
    return made


def entry_code(functions: _Functions, target: tvm.target.Target, cache: KernelCache) -> bytes:
    """One object file with all entry points, which are functions that need no lowering."""
    texts = [tvm.ir.save_json(functions[gv]) for gv in sorted(functions, key=str)]
    return cached("\n".join(texts), target, cache, lambda: _object_file(functions, target))


def _cached_kernel(
    gv: tvm.ir.GlobalVar,
    function: tirx.PrimFunc,
    text: str,
    target: tvm.target.Target,
    cache: KernelCache,
) -> KernelCode:
    """The entry of a kernel is its scratch memory as a number, and its object file."""
    name = str(gv.name_hint)

    def make() -> bytes:
        made = _compiled_kernels({gv: function}, target)
        return made.scratch[name].to_bytes(_NUMBER_BYTES, "little") + made.code

    kept = cached(f"{name}\n{text}", target, cache, make)
    scratch = int.from_bytes(kept[:_NUMBER_BYTES], "little")
    return KernelCode(kept[_NUMBER_BYTES:], {name: scratch})


def cached(
    text: str, target: tvm.target.Target, cache: KernelCache, make: Callable[[], bytes]
) -> bytes:
    """What the cache has for functions of this text, which `make` makes."""
    versions = [VERSION, TVM_VERSION, FFI_VERSION]
    about = json.dumps([versions, _LOWERING, str(target), CODEGEN_OPTIONS], sort_keys=True)
    key = hashlib.sha256(f"{about}\n{text}".encode()).hexdigest()
    code = cache.get(key)
    if code is None:
        code = make()
        cache.put(key, code)
    return code


def _compiled_kernels(kernels: _Functions, target: tvm.target.Target) -> KernelCode:
    lowered = lower_kernels(tvm.IRModule(dict(kernels)), target)
    functions = dict(lowered.functions_items())
    scratch = {str(gv.name_hint): scratch_bytes(f) for gv, f in functions.items()}
    with _told_if_long(functions):
        return KernelCode(_object_file(functions, target), scratch)


@contextmanager
def _told_if_long(functions: _Functions) -> Iterator[None]:
    """Say what LLVM is at if it takes long: it can neither be asked nor be stopped."""
    names = ", ".join(str(gv.name_hint) for gv in functions)
    say = partial(
        _log.warning,
        "LLVM has worked for %.0f s on the kernel %s; if it does not end, end the process, compile"
        " for a simpler target, and report the model",
        *(_LONG_S, names),
    )
    timer = threading.Timer(_LONG_S, say)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _object_file(functions: _Functions, target: tvm.target.Target) -> bytes:
    if str(target.kind.name) == "c":
        plain = {gv: in_scalars(function) for gv, function in functions.items()}
        printed = tvm.get_global_func("target.build.c")(tvm.IRModule(plain), target)
        return str(printed.inspect_source()).encode()
    compiled = tvm.get_global_func("target.build.llvm")(tvm.IRModule(dict(functions)), target)

    def written(path: str) -> bytes:
        compiled.write_to_file(path, "o")
        return Path(path).read_bytes()

    return in_scratch_file(b"", written, room=_ROOM)
