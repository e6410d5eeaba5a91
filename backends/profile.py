"""Where the time of a compiled model goes, call by call, and what limits it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from rich.console import Console
from rich.table import Table
from rich.text import Text

Limit = Literal["compute", "memory", "overhead"]
_OURS, _FLOAT = "qpc_", "qpc_float_"


@dataclass(frozen=True)
class Machine:
    """What the machine can do at most, measured next to the model.

    gmac_s: 1e9 multiply-accumulates per second, all threads of the model together.
    gb_s: 1e9 bytes per second that a copy reads and writes, by the bytes it touches.
    call_us: microseconds of the shortest call, which does next to nothing.
    """

    gmac_s: float
    gb_s: Mapping[int, float]
    call_us: float

    def compute_us(self, macs: float) -> float:
        """The least time of so many multiply-accumulates."""
        return macs / self.gmac_s / 1e3

    def memory_us(self, size: int) -> float:
        """The least time to touch so many bytes, at the speed of the cache that they fit."""
        fitting = [speed for limit, speed in sorted(self.gb_s.items()) if size <= limit]
        return size / (fitting[0] if fitting else min(self.gb_s.values())) / 1e3


@dataclass(frozen=True)
class KernelTime:
    """One call of a kernel.

    layers: the graph nodes that it computes; none where it only moves data to another memory order,
    or where TVM's own rules made it.
    us: median time in microseconds. bytes: of all arguments, weights and result included.
    share: multiply-accumulates per second, as a share of the machine's peak; more than 1 is
    possible where zero weights are skipped, or minimal filtering needs fewer multiplications.
    limit: which of the machine's limits alone takes the longest; of_limit: that time over `us`.
    """

    kernel: str
    layers: tuple[str, ...]
    us: float
    macs: int
    bytes: int
    share: float
    limit: Limit
    of_limit: float

    @property
    def in_float(self) -> bool:
        """Whether floats are what it computes with from beginning to end: names say so."""
        return self.kernel.startswith(_FLOAT) or not self.kernel.startswith(_OURS)

    @classmethod
    def of(
        cls,
        kernel: str,
        layers: tuple[str, ...],
        us: float,
        macs: int,
        size: int,
        machine: Machine,
        done: float | None = None,
    ) -> KernelTime:
        """The call with the limits that follow from what it does.

        done: multiply-accumulates that it has instructions for, if not all.
        """
        least: dict[Limit, float] = {
            "compute": machine.compute_us(macs if done is None else done),
            "memory": machine.memory_us(size),
            "overhead": machine.call_us,
        }
        limit = max(least, key=lambda name: least[name])
        time = max(us, 1e-3)  # a call shorter than the clock's tick still takes time
        share = machine.compute_us(macs) / time
        return cls(kernel, layers, us, macs, size, share, limit, least[limit] / time)


@dataclass(frozen=True)
class Profile:
    """Every call of a kernel, in the order in which they run.

    total_us: microseconds of the whole model: the medians of its kernels, and of what the same runs
    took besides them.
    """

    calls: tuple[KernelTime, ...]
    total_us: float
    batch: int
    threads: int
    machine: Machine

    @property
    def kernels_us(self) -> float:
        """The time of all calls together."""
        return sum(call.us for call in self.calls)

    @property
    def other_us(self) -> float:
        """What is left of the total: checks, memory, and the steps between the calls."""
        return self.total_us - self.kernels_us

    @property
    def float_us(self) -> float:
        """The time of the calls that compute with floats, TVM's own among them."""
        return sum(call.us for call in self.calls if call.in_float)

    @property
    def share(self) -> float:
        """What the whole model reaches of the machine's peak."""
        return self.machine.compute_us(sum(call.macs for call in self.calls)) / self.total_us

    def to_json(self) -> dict[str, Any]:
        """The profile as JSON values."""
        machine = asdict(self.machine)
        machine["gb_s"] = {str(size): speed for size, speed in self.machine.gb_s.items()}
        totals = {k: getattr(self, k) for k in ("kernels_us", "float_us", "other_us", "share")}
        return asdict(self) | {"machine": machine} | totals

    def table(self) -> Table:
        """The profile for `rich.print`: one row for each call, the time of all in the footer."""
        share = f"{self.share:.0%}"
        table = Table(box=None, show_footer=True, title=self._title())
        table.add_column("us", f"{self.total_us:.0f}", justify="right")
        table.add_column("time", "100%", justify="right")
        table.add_column("M MACs", f"{sum(c.macs for c in self.calls) / 1e6:.0f}", justify="right")
        table.add_column("KiB", f"{sum(c.bytes for c in self.calls) / 1024:.0f}", justify="right")
        table.add_column("peak", share, justify="right")
        table.add_column("limit", "", justify="left")
        table.add_column("layers", "the whole model", overflow="fold")
        for call in self.calls:
            # Text, not str: square brackets in names are not markup.
            table.add_row(
                f"{call.us:.1f}",
                f"{call.us / self.total_us:.1%}",
                f"{call.macs / 1e6:.2f}" if call.macs else "",
                f"{call.bytes / 1024:.0f}",
                f"{call.share:.0%}" if call.macs else "",
                f"{call.limit} {call.of_limit:.0%}",
                Text(" + ".join(call.layers) or call.kernel),
            )
        rest = f"{self.other_us / self.total_us:.1%}"
        table.add_row(f"{self.other_us:.1f}", rest, "", "", "", "", "between the kernels")
        return table

    def _title(self) -> str:
        peak = f"peak {self.machine.gmac_s:.0f} GMAC/s"
        share = f"{self.float_us / self.total_us:.0%}"
        spent = f", {share} of the time in float" if self.float_us else ""
        return f"batch {self.batch}, {self.threads} thread(s), {peak}{spent}"

    def __str__(self) -> str:
        console = Console(width=120, color_system=None)
        with console.capture() as capture:
            console.print(self.table())
        return capture.get()
