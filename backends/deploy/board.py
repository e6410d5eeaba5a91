"""Other machines that are reached by ssh, of which nothing is asked but a shell."""

from __future__ import annotations

import re
import shlex
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from qpc.errors import BackendError, MissingDependencyError
from qpc.targets import Target
from qpc.targets.data import BARE_METAL

_ADDRESS = re.compile(
    r"ssh://(?:([A-Za-z0-9_.-]+)@)?(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9_.-]+)(?::(\d+))?/?"
)
_UNREACHABLE = 255  # how ssh itself ends
_COPY_SECONDS = 300


@dataclass(frozen=True)
class Board:
    """A machine by its address."""

    host: str
    user: str | None = None
    port: int | None = None

    @staticmethod
    def parse(address: str) -> Board:
        """The board at `ssh://[user@]host[:port]`. Raises BackendError for anything else."""
        written = _ADDRESS.fullmatch(address)
        if written is None or written[2].startswith("-"):
            raise BackendError(
                f"{address!r} is no address of a board", fix="ssh://user@host, or ssh://host:port"
            )
        return Board(written[2].strip("[]"), written[1], int(written[3]) if written[3] else None)

    def __str__(self) -> str:
        user = f"{self.user}@" if self.user else ""
        return f"ssh://{user}{self.host}{f':{self.port}' if self.port else ''}"

    def check(self, target: Target) -> None:
        """Raise BackendError unless the board can run code for a target, as far as it says."""
        if target.architecture.system == BARE_METAL:
            raise BackendError(
                f"code for {target.name!r} runs without an operating system, and {self} has one",
                fix="put the library and its main.c into a project for your board",
            )
        said = self.shell("uname -sm; cat /proc/cpuinfo 2>/dev/null || true").stdout
        first, _, cpuinfo = said.partition("\n")
        system, _, machine = first.strip().partition(" ")
        known = target.architecture
        if system != known.system or machine not in (known.name, *known.machines):
            raise BackendError(
                f"code for {target.name!r} is for {known.name} with {known.system}, {self} is "
                f"{machine} with {system}",
                fix="export the library for that machine: `qpc targets` lists what there is",
            )
        features = set(target.features)
        if missing := sorted(features - known.host.found_in(cpuinfo, features)):
            raise BackendError(
                f"{self} lacks {', '.join(missing)}, which code for {target.name!r} needs",
                fix="export the library for an older CPU",
            )

    @contextmanager
    def program(self, code: bytes) -> Iterator[str]:
        """The path of a program on the board, which is removed afterwards."""
        copied = self.shell(
            'd=$(mktemp -d) && cat > "$d/main" && chmod 700 "$d/main" && echo "$d"', code
        )
        folder = copied.stdout.strip().splitlines()[-1:]
        if copied.returncode or not folder:
            raise BackendError(f"cannot copy a program to {self}: {_said(copied)}")
        try:
            yield f"{folder[0]}/main"
        finally:
            self.shell(f"rm -rf -- {shlex.quote(folder[0])}")

    def shell(
        self, command: str, given: bytes = b"", *, seconds: float = _COPY_SECONDS
    ) -> subprocess.CompletedProcess[str]:
        """What a command on the board says, to which `given` is the standard input.

        Raises BackendError if the board cannot be reached, or the command takes longer.
        """
        ssh = shutil.which("ssh")
        if ssh is None:
            raise MissingDependencyError(
                "ssh is not installed", fix="apt-get install openssh-client"
            )
        port = ("-p", str(self.port)) if self.port else ()
        name = f"{self.user}@{self.host}" if self.user else self.host
        # Nobody may be there to type a password.
        line = [ssh, "-o", "BatchMode=yes", "-o", "ConnectTimeout=10", *port, "--", name, command]
        try:
            done = subprocess.run(
                line, input=given, capture_output=True, timeout=seconds, check=False
            )
        except subprocess.TimeoutExpired:
            raise BackendError(f"{self} gave no answer within {seconds:g} s") from None
        out, error = (text.decode(errors="replace") for text in (done.stdout, done.stderr))
        if done.returncode == _UNREACHABLE:
            raise BackendError(
                f"cannot reach {self}: {_last_line(error)}",
                fix=f"make this work without a password: ssh {name} true",
            )
        return subprocess.CompletedProcess(line, done.returncode, out, error)


def _said(done: subprocess.CompletedProcess[str]) -> str:
    said = done.stderr.strip() or done.stdout.strip()
    return _last_line(said) or f"exit status {done.returncode}"


def _last_line(text: str) -> str:
    return "".join(text.strip().splitlines()[-1:])


def ended_by(status: int) -> str | None:
    """The name of the signal that ended a program, as Python or a shell count; None if none did."""
    number = -status if status < 0 else status - 128
    try:
        return signal.Signals(number).name if number > 0 else None
    except ValueError:
        return None
