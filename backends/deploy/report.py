"""What a library needs of a machine: bytes of flash and memory, and what each layer costs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from qpc.backends.common.plan import Place, Step
from qpc.backends.deploy.deployable import Deployable
from qpc.errors import BackendError


@dataclass(frozen=True)
class LayerCost:
    """One call of a kernel. constants: bytes of them; arena: bytes in use while it runs."""

    layer: str
    macs: int
    constants: int
    arena: int

    def __str__(self) -> str:
        return f"{self.layer}: {self.macs:,} multiply-accumulates"


@dataclass(frozen=True)
class Footprint:
    """Bytes that a library takes: code and constants in flash, the rest in memory.

    code: None if a compiler has yet to make it. ports: of all inputs and outputs together. layers:
    in the order in which they run.
    """

    code: int | None
    constants: int
    arena: int
    ports: int
    layers: tuple[LayerCost, ...]

    @property
    def flash(self) -> int:
        """What does not change, as far as it is known."""
        return (self.code or 0) + self.constants

    @property
    def ram(self) -> int:
        """What does, without the stack, of which kernels need little."""
        return self.arena + self.ports

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one call."""
        return sum(layer.macs for layer in self.layers)


def footprint(model: Deployable, code: int | None, constants: int) -> Footprint:
    """What a model takes, given the bytes of its code and constants."""
    layers = tuple(
        LayerCost(_label(step), step.macs, _constants(model, step), arena)
        for step, arena in zip(model.steps, _live_bytes(model.steps), strict=True)
    )
    ports = sum(port.bytes for port in (*model.inputs, *model.outputs))
    return Footprint(code, constants, model.entry.arena, ports, layers)


def check_board(model: Deployable, needs: Footprint) -> None:
    """Raise BackendError if the board has not the memory, with the layer that takes most of it."""
    board = model.target.board
    if board.ram is not None and needs.ram > board.ram:
        worst = max(needs.layers, key=lambda layer: layer.arena)
        raise BackendError(
            f"{model.name!r} needs {needs.ram:,} bytes of memory ({needs.arena:,} of them for the "
            f"arena, most at {worst.layer!r}), {model.target.name!r} has {board.ram:,}",
            fix="make inputs or that layer smaller, or choose a board with more memory",
        )
    if board.flash is not None and needs.flash > board.flash:
        worst = max(needs.layers, key=lambda layer: layer.constants)
        raise BackendError(
            f"{model.name!r} needs {needs.flash:,} bytes of flash ({worst.constants:,} of them for "
            f"the constants of {worst.layer!r}), {model.target.name!r} has {board.flash:,}",
            fix="prune the model, or choose a board with more flash",
        )


def report_text(model: Deployable, needs: Footprint) -> str:
    """The text of `report.txt`."""
    return "\n".join(_lines(model, needs)) + "\n"


def _lines(model: Deployable, needs: Footprint) -> Iterator[str]:
    board = model.target.board
    yield f"{model.name} for {model.target.name}, batch size {model.entry.batch}"
    yield ""
    yield f"flash  {needs.flash:>13,} bytes{_share(needs.flash, board.flash)}"
    code = "not known yet" if needs.code is None else f"{needs.code:,}"
    yield f"         code {code}, constants {needs.constants:,}"
    yield f"memory {needs.ram:>13,} bytes{_share(needs.ram, board.ram)}"
    yield f"         arena {needs.arena:,}, inputs and outputs {needs.ports:,}"
    yield f"work   {needs.macs:>13,} multiply-accumulates"
    yield ""
    for kind, ports in (("input", model.inputs), ("output", model.outputs)):
        for number, port in enumerate(ports):
            exact = ""
            if kind == "output":
                near = f"within {port.tolerance:.3g} of PyTorch" if port.tolerance else "exact"
                exact = f", {near}"
            yield f"{kind} {number}  {port}, {port.bytes:,} bytes{exact}"
    yield ""
    yield f"{'multiply-accumulates':>21} {'constants':>11} {'arena in use':>13}  layer"
    for layer in needs.layers:
        yield f"{layer.macs:>21,} {layer.constants:>11,} {layer.arena:>13,}  {layer.layer}"
    if model.notes:
        yield from ("", "Notes:", *(f"  {note}" for note in model.notes))


def _share(used: int, there: int | None) -> str:
    return "" if there is None else f"  ({used / there:.1%} of {there:,})"


def _label(step: Step) -> str:
    return f"{step.operation}: {' + '.join(step.nodes)}" if step.nodes else step.operation


def _constants(model: Deployable, step: Step) -> int:
    names = {model.weight_of(place) for place in step.reads if place.kind == "weight"}
    return sum(model.weights[name].nbytes for name in names)


_Spans: TypeAlias = "list[tuple[int, int]]"  # bytes of the arena, from the first to behind the last


def _live_bytes(steps: Sequence[Step]) -> list[int]:
    """Bytes of the arena at each step that it uses, or that hold what a later one reads."""
    live: _Spans = []
    found = []
    for step in reversed(steps):
        reads, writes = _spans(step.reads), _spans(step.writes)
        scratch = _spans([step.scratch]) if step.scratch else []
        found.append(_size(_union([*live, *reads, *writes, *scratch])))
        live = _union([*_without(live, writes), *reads])
    return found[::-1]


def _spans(places: Sequence[Place]) -> _Spans:
    return [(p.start, p.start + p.size) for p in places if p.kind == "arena"]


def _without(spans: _Spans, others: _Spans) -> _Spans:
    for start, end in others:
        cut = [piece for a, b in spans for piece in ((a, min(b, start)), (max(a, end), b))]
        spans = [(a, b) for a, b in cut if a < b]
    return spans


def _union(spans: _Spans) -> _Spans:
    merged: _Spans = []
    for start, end in sorted(spans):
        if merged and start <= merged[-1][1]:
            merged[-1] = merged[-1][0], max(end, merged[-1][1])
        else:
            merged.append((start, end))
    return merged


def _size(spans: _Spans) -> int:
    return sum(end - start for start, end in spans)
