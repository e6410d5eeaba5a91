"""How kernels share their work among threads: code that is linked into libraries that need it.

A parallel loop calls `TVMBackendParallelLaunch`, with the function that does a part, its data, and
how many parts there are. TVM's runtime has such a function; with one of its own, a library runs
where TVM is not. It hands out work to the pool that the caller keeps, see `qpc.runtime.pool`, or
does all of it itself. It is written in the language of LLVM, in which functions can be called by
their address and memory has an order; what differs from machine to machine is filled in.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import tvm

from qpc.backends.tvm.codegen.cache import KernelCache
from qpc.backends.tvm.codegen.objects import cached, tvm_target
from qpc.errors import UnsupportedTargetError
from qpc.runtime.abi import POOL_KEY
from qpc.runtime.scratch import in_scratch_file
from qpc.targets import Target

_LAUNCHER = b"__TVMBackendParallelLaunch"
_ROOM = 16 << 20  # bytes that LLVM may need for an object file


@dataclass(frozen=True)
class _Words:
    """What a machine calls things: Linux's number of `futex`, and how a thread says that it waits.

    Without such an instruction a thread only gives its core away.
    """

    futex: int
    declare: str = ""
    pause: str = ""


_MACHINES: Mapping[str, _Words] = {
    "x86_64": _Words(
        202, "declare void @llvm.x86.sse2.pause()", "call void @llvm.x86.sse2.pause()"
    ),
    "aarch64": _Words(
        98, "declare void @llvm.aarch64.hint(i32)", "call void @llvm.aarch64.hint(i32 1)"
    ),
    "riscv64": _Words(98),
}
_PAUSES = 16  # in one look: together less than a microsecond


def shares_work(code: bytes) -> bool:
    """Whether a kernel in an object file has loops for several threads."""
    return _LAUNCHER in code


def sharing_code(target: Target, cache: KernelCache) -> bytes:
    """An object file with what hands out work, and what waits for it.

    Raises UnsupportedTargetError for machines that have no words for it.
    """
    text = _text(target)
    return cached(text, tvm_target(target), cache, lambda: _object_file(text))


def _object_file(text: str) -> bytes:
    parsed = tvm.get_global_func("ffi.Module.load_from_file.ll")
    module = in_scratch_file(text.encode(), lambda path: parsed(path, "ll"))

    def written(path: str) -> bytes:
        module.write_to_file(path, "o")
        return Path(path).read_bytes()

    return in_scratch_file(b"", written, room=_ROOM)


def _text(target: Target) -> str:
    architecture = target.architecture.name
    if architecture not in _MACHINES:
        raise UnsupportedTargetError(
            f"code for {architecture} cannot share its work among threads",
            fix="compile it with threads=1",
        )
    return _filled(_MACHINES[architecture], target.triple, target.llvm_cpu)


def _filled(words: _Words, triple: str, cpu: str | None) -> str:
    about = {"kind": "llvm", "mtriple": triple} | ({"mcpu": cpu} if cpu else {})
    return (
        _CODE.replace("KEY", POOL_KEY)
        .replace("FUTEX", str(words.futex))
        .replace("DECLARE", words.declare)
        .replace("PAUSE", "\n  ".join([words.pause] * _PAUSES))
        .replace("TARGET", json.dumps(about).replace('"', "\\22"))
    )


# Numbers of `futex`: 128 waits while a word has a value, 129 wakes those who wait for it; both
# within one process. -2147483648 is the highest bit of a word. Of the pool the library itself uses
# bytes 24 (the function), 32 (its data), 40 (what the function is told: an address that is zero,
# and at 48 the number of parts).
#
# Nobody sleeps too long: who goes to sleep says so first, then looks again; who has news changes
# the word first, then looks for sleepers; all of it in one order for all threads (seq_cst).
_CODE = """
@KEY = global i32 -1
@__TVMBackendParallelLaunch = global ptr @qpc_share

declare ptr @pthread_getspecific(i32)
declare i64 @syscall(i64, ...)
declare i32 @sched_yield()
DECLARE

; Looks away for a moment.
define internal void @look_away() {
  PAUSE
  %ignored = call i32 @sched_yield()
  ret void
}

; Waits while a word has a value.
define internal void @await(ptr %word, i32 %value) {
  %code = call i64 (i64, ...) @syscall(
      i64 FUTEX, ptr %word, i32 128, i32 %value, ptr null, ptr null, i32 0)
  ret void
}

; Wakes at most so many of those who wait for a word.
define internal void @wake(ptr %word, i32 %most) {
  %code = call i64 (i64, ...) @syscall(
      i64 FUTEX, ptr %word, i32 129, i32 %most, ptr null, ptr null, i32 0)
  ret void
}

; Does the parts first, first + step, ... below parts.
define internal i32 @do_parts(ptr %task, ptr %told, ptr %data, i32 %first, i32 %step, i32 %parts) {
entry:
  br label %test
test:
  %part = phi i32 [ %first, %entry ], [ %next, %body ]
  %failed = phi i32 [ 0, %entry ], [ %worse, %body ]
  %more = icmp slt i32 %part, %parts
  br i1 %more, label %body, label %done
body:
  %code = call i32 %task(i32 %part, ptr %told, ptr %data)
  %worse = or i32 %failed, %code
  %next = add i32 %part, %step
  br label %test
done:
  ret i32 %failed
}

; Does all parts of a task, as many as there are threads if count is 0. Returns 0, or not if one
; failed.
define i32 @qpc_share(ptr %task, ptr %data, i32 %count) {
entry:
  %alone_told = alloca { ptr, i32 }
  %key = load i32, ptr @KEY
  %keyed = icmp ne i32 %key, -1
  br i1 %keyed, label %find, label %alone
find:
  %pool = call ptr @pthread_getspecific(i32 %key)
  %found = icmp ne ptr %pool, null
  br i1 %found, label %together, label %alone

alone:
  %some = icmp sgt i32 %count, 0
  %alone_parts = select i1 %some, i32 %count, i32 1
  %alone_number = getelementptr { ptr, i32 }, ptr %alone_told, i32 0, i32 1
  store ptr null, ptr %alone_told
  store i32 %alone_parts, ptr %alone_number
  %alone_code = call i32 @do_parts(
      ptr %task, ptr %alone_told, ptr %data, i32 0, i32 1, i32 %alone_parts)
  ret i32 %alone_code

together:
  %sleeping_at = getelementptr i8, ptr %pool, i64 4
  %threads_at = getelementptr i8, ptr %pool, i64 12
  %looks_at = getelementptr i8, ptr %pool, i64 16
  %task_at = getelementptr i8, ptr %pool, i64 24
  %data_at = getelementptr i8, ptr %pool, i64 32
  %told = getelementptr i8, ptr %pool, i64 40
  %parts_at = getelementptr i8, ptr %pool, i64 48
  %pending_at = getelementptr i8, ptr %pool, i64 64
  %failed_at = getelementptr i8, ptr %pool, i64 68
  %threads = load i32, ptr %threads_at
  %looks = load i32, ptr %looks_at
  %wanted = icmp sgt i32 %count, 0
  %parts = select i1 %wanted, i32 %count, i32 %threads
  %workers = sub i32 %threads, 1
  store ptr %task, ptr %task_at
  store ptr %data, ptr %data_at
  store ptr null, ptr %told
  store i32 %parts, ptr %parts_at
  store atomic i32 0, ptr %failed_at monotonic, align 4
  store atomic i32 %workers, ptr %pending_at monotonic, align 4
  %round = atomicrmw add ptr %pool, i32 1 seq_cst
  %sleepers = load atomic i32, ptr %sleeping_at seq_cst, align 4
  %asleep = icmp ne i32 %sleepers, 0
  br i1 %asleep, label %wake, label %work
wake:
  call void @wake(ptr %pool, i32 2147483647)
  br label %work
work:
  %own = call i32 @do_parts(ptr %task, ptr %told, ptr %data, i32 0, i32 %threads, i32 %parts)
  br label %look
look:
  %looked = phi i32 [ 0, %work ], [ %again, %away ]
  %pending = load atomic i32, ptr %pending_at acquire, align 4
  %all = icmp eq i32 %pending, 0
  br i1 %all, label %done, label %patience
patience:
  %again = add i32 %looked, 1
  %patient = icmp ult i32 %again, %looks
  br i1 %patient, label %away, label %lie_down
away:
  call void @look_away()
  br label %look
lie_down:
  %before = atomicrmw or ptr %pending_at, i32 -2147483648 seq_cst
  %none = icmp eq i32 %before, 0
  br i1 %none, label %done, label %sleep
sleep:
  %left = load atomic i32, ptr %pending_at seq_cst, align 4
  %awaited = icmp ne i32 %left, -2147483648
  br i1 %awaited, label %wait, label %done
wait:
  call void @await(ptr %pending_at, i32 %left)
  br label %sleep
done:
  %failed = load atomic i32, ptr %failed_at acquire, align 4
  %code = or i32 %own, %failed
  ret i32 %code
}

; Works as the worker of a number until the pool is to stop.
define i32 @qpc_work(ptr %pool, i32 %number) {
entry:
  %sleeping_at = getelementptr i8, ptr %pool, i64 4
  %stop_at = getelementptr i8, ptr %pool, i64 8
  %threads_at = getelementptr i8, ptr %pool, i64 12
  %looks_at = getelementptr i8, ptr %pool, i64 16
  %task_at = getelementptr i8, ptr %pool, i64 24
  %data_at = getelementptr i8, ptr %pool, i64 32
  %told = getelementptr i8, ptr %pool, i64 40
  %parts_at = getelementptr i8, ptr %pool, i64 48
  %pending_at = getelementptr i8, ptr %pool, i64 64
  %failed_at = getelementptr i8, ptr %pool, i64 68
  %threads = load i32, ptr %threads_at
  %looks = load i32, ptr %looks_at
  br label %start
start:
  %seen = phi i32 [ 0, %entry ], [ %now, %next ]
  br label %look
look:
  %looked = phi i32 [ 0, %start ], [ %again, %away ]
  %found = load atomic i32, ptr %pool acquire, align 4
  %news = icmp ne i32 %found, %seen
  br i1 %news, label %go, label %patience
patience:
  %again = add i32 %looked, 1
  %patient = icmp ult i32 %again, %looks
  br i1 %patient, label %away, label %lie_down
away:
  call void @look_away()
  br label %look
lie_down:
  %others = atomicrmw add ptr %sleeping_at, i32 1 seq_cst
  br label %sleep
sleep:
  %late = load atomic i32, ptr %pool seq_cst, align 4
  %nothing = icmp eq i32 %late, %seen
  br i1 %nothing, label %wait, label %get_up
wait:
  call void @await(ptr %pool, i32 %seen)
  br label %sleep
get_up:
  %one = atomicrmw sub ptr %sleeping_at, i32 1 seq_cst
  br label %go
go:
  %now = phi i32 [ %found, %look ], [ %late, %get_up ]
  %stop = load atomic i32, ptr %stop_at acquire, align 4
  %stopped = icmp ne i32 %stop, 0
  br i1 %stopped, label %end, label %work
work:
  %task = load ptr, ptr %task_at
  %data = load ptr, ptr %data_at
  %parts = load i32, ptr %parts_at
  %code = call i32 @do_parts(
      ptr %task, ptr %told, ptr %data, i32 %number, i32 %threads, i32 %parts)
  %well = icmp eq i32 %code, 0
  br i1 %well, label %ready, label %fail
fail:
  store atomic i32 %code, ptr %failed_at monotonic, align 4
  br label %ready
ready:
  %before = atomicrmw sub ptr %pending_at, i32 1 seq_cst
  %last = icmp eq i32 %before, -2147483647
  br i1 %last, label %wake, label %next
wake:
  call void @wake(ptr %pending_at, i32 1)
  br label %next
next:
  br label %start
end:
  ret i32 0
}

; Lets the workers of a pool go. No work may be under way.
define i32 @qpc_stop(ptr %pool) {
  %stop_at = getelementptr i8, ptr %pool, i64 8
  store atomic i32 1, ptr %stop_at seq_cst, align 4
  %round = atomicrmw add ptr %pool, i32 1 seq_cst
  call void @wake(ptr %pool, i32 2147483647)
  ret i32 0
}

!llvm.module.flags = !{!0}
!0 = !{i32 4, !"tvm_target", !"TARGET"}
"""
