"""Recurrent layers of float32 as a loop over steps: long sequences take no longer to compile.

What a step adds of the layer's input is computed for all steps at once, as a linear layer (the
gates). The kernel here adds the product with the state before it, and makes the next state of it.
Weights are packed when a model is compiled: for `lanes` hidden units side by side, all of their
gates. States are kept in two places by turns, as all of a state is needed until all of the next is
there. A sequence is computed by one thread, in one order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from math import ceil, prod

import numpy as np
from tvm.tirx import Expr, PrimFunc
from tvm.tirx.script import builder as T

from qpc.backends.tvm.kernels.emit import (
    Flat,
    Index,
    bind,
    copy,
    fill,
    local,
    loop,
    loop_between,
    prim_func,
    scratch,
    shuffle,
    tasks,
)
from qpc.backends.tvm.kernels.floats.functions import Functions
from qpc.backends.tvm.kernels.floats.panels import Panels
from qpc.backends.tvm.kernels.floats.product import multiply, worthwhile
from qpc.backends.tvm.kernels.floats.recurrent_desc import (
    Numbers,
    RecurrentDesc,
    by_unit,
    gate_width,
    types_of,
)
from qpc.backends.tvm.kernels.isa.base import Isa
from qpc.backends.tvm.kernels.kernel import Array, Kernel, kernel_name
from qpc.backends.tvm.kernels.stored.tiles import Tiles

_MOST_ROWS = 6
_FEW_SUMS = 8  # so that none of them waits for the one before


def recurrent(
    isa: Isa,
    desc: RecurrentDesc,
    weights: Sequence[Numbers],
    biases: Sequence[Numbers] = (),
    threads: int = 1,
) -> Kernel:
    """The kernel of a recurrent layer; weights[gates * hidden, hidden] for each direction.

    Its inputs are the gates[rows of all steps, `gate_width`] before the product with the state, and
    the states[directions, rows, hidden] where they are given; its results are the states of all
    steps[..., directions * hidden], and the last state or states.
    biases: of GRU's new gate, which the product has; [hidden] for each direction.
    """
    terms = prod((desc.steps, desc.rows, desc.directions, desc.gates, desc.hidden, desc.hidden))
    threads = worthwhile(isa, threads, terms)
    lanes = isa.lanes
    packed = [_pack(by_unit(weight, desc.gates, lanes), lanes) for weight in weights]
    params: list[Array] = [np.concatenate(packed)]
    if desc.cell == "gru":
        params.append(np.concatenate([by_unit(bias, 1, lanes) for bias in biases]))
    inputs, param_types, outputs = types_of(desc, lanes)
    assert tuple(p.shape for p in params) == tuple(t.shape for t in param_types)
    name, func = _function(isa, desc, threads)
    return Kernel(name, func, inputs, tuple(params), outputs[0], more=outputs[1:], macs=terms)


def _pack(weight: Numbers, lanes: int) -> Array:
    return Tiles(1, len(weight), lanes, 1, 1).pack(weight)


@cache
def _function(isa: Isa, desc: RecurrentDesc, threads: int) -> tuple[str, PrimFunc]:
    inputs, params, outputs = types_of(desc, isa.lanes)

    def body(*arguments: Flat) -> None:
        given = iter(arguments)
        gates, *begin = (next(given) for _ in inputs)
        weight, *bias = (next(given) for _ in params)
        out, *last = given
        code = _Layer(
            isa, desc, gates, tuple(begin), weight, bias[0] if bias else None, out, threads
        )
        tiles = ceil(desc.rows / code.tile_rows)
        groups = min(threads, tiles)
        with tasks(desc.directions * groups, min(threads, desc.directions * groups)) as (
            worker,
            task,
        ):
            direction, group = (task, 0) if groups == 1 else (task // groups, task % groups)
            first, end = (group * tiles // groups, (group + 1) * tiles // groups)
            code.sequences(worker, bind(direction), bind(first), bind(end), last)

    name = kernel_name(f"float_{desc.cell}", isa, desc, threads)
    return name, prim_func(name, (*inputs, *params, *outputs), body)


class _Layer:
    """Emits the loops of one direction and some of the sequences."""

    def __init__(
        self,
        isa: Isa,
        desc: RecurrentDesc,
        gates: Flat,
        begin: tuple[Flat, ...],
        weight: Flat,
        bias: Flat | None,
        out: Flat,
        threads: int,
    ) -> None:
        self._desc, self._lanes, self._gates, self._begin = desc, isa.lanes, gates, begin
        self._weight, self._bias, self._out = weight, bias, out
        self._blocks = ceil(desc.hidden / isa.lanes)
        self._units = self._blocks * isa.lanes
        fitting = (isa.registers - 1) // desc.gates - 1  # sums, and the weights of a unit
        most = max(1, min(_MOST_ROWS, fitting))
        self.tile_rows = ceil(desc.rows / ceil(desc.rows / most))
        self._at_once = 1
        if self.tile_rows == 1 and self._blocks > 1:
            self._at_once = min(max(1, _FEW_SUMS // desc.gates), self._blocks)
        self._room_size = self.tile_rows * self._at_once * desc.gates * isa.lanes
        self._room = scratch(threads * self._room_size, "float32")
        self._size = desc.directions * desc.rows * self._units
        self._hidden = scratch(2 * self._size, "float32")
        self._cell = scratch(self._size, "float32") if desc.states == 2 else None

    def sequences(
        self, worker: Index, direction: Index, first: Index, end: Index, last: Sequence[Flat]
    ) -> None:
        """Compute the sequences of some tiles."""
        desc, rows = self._desc, self.tile_rows
        start, stop = first * rows, end * rows
        if isinstance(stop, int):
            stop = min(stop, desc.rows)
        elif desc.rows % rows:
            stop = T.min(stop, desc.rows)
        whole_rows = bind(direction * desc.rows)
        with loop_between(_int(whole_rows + start), whole_rows + stop) as row:
            self._begin_with(row)
        with T.serial(desc.steps) as step:
            now = step
            if desc.directions == 2:
                now = bind(T.Select(direction > 0, (desc.steps - 1) - step, step))
            before = bind((step % 2) * self._size + whole_rows * self._units)
            after = bind(((step + 1) % 2) * self._size + whole_rows * self._units)
            whole, rest = divmod(self._blocks, self._at_once)
            for count, at_once, begin in (
                (whole, self._at_once, 0),
                (1, rest, whole * self._at_once),
            ):
                if not count or not at_once:
                    continue
                with loop(count) as i, loop_between(_int(first), _int(end)) as tile:
                    block = bind(begin + i * at_once)
                    place = _Place(worker, direction, block, at_once, now, before, after)
                    self._tile(place, tile)
        with loop_between(_int(whole_rows + start), whole_rows + stop) as row:
            states = [(self._hidden, bind((desc.steps % 2) * self._size + row * self._units))]
            if self._cell is not None:
                states.append((self._cell, bind(row * self._units)))
            for target, (source, at) in zip(last, states, strict=True):
                copy(target, row * desc.hidden, source, at, desc.hidden)

    def _begin_with(self, row: Index) -> None:
        """The first state of a sequence, with zeros for units that do not exist."""
        for which, state in enumerate((self._hidden, self._cell)):
            if state is None:
                continue
            at = bind(row * self._units)
            fill(state, at, T.FloatImm("float32", 0.0), self._units)
            if self._begin:
                hidden = self._desc.hidden
                copy(state, at, self._begin[which], row * hidden, hidden)

    def _tile(self, place: _Place, tile: Index) -> None:
        rest = self._desc.rows % self.tile_rows
        first = bind(tile * self.tile_rows)
        if not rest or self._desc.rows < self.tile_rows:
            self._next_states(place, first, self.tile_rows)
            return
        with T.If(first + self.tile_rows <= self._desc.rows):
            with T.Then():
                self._next_states(place, first, self.tile_rows)
            with T.Else():
                self._next_states(place, first, rest)

    def _next_states(self, place: _Place, first: Index, rows: int) -> None:
        """Of some units of some sequences."""
        desc, lanes = self._desc, self._lanes
        vectors = desc.gates * place.count
        panel = bind((place.direction * self._blocks + place.block) * desc.gates)
        sums = local(rows * vectors * lanes, "float32")
        starts = [self._gates_start(place, first + i) for i in range(rows)]
        for i in range(rows):
            for v in range(vectors):
                sums.store((i * vectors + v) * lanes, self._first(place, starts[i], v), lanes)
        state = bind(place.before + first * self._units)
        panels = Panels(self._weight, 0, desc.hidden, lanes).moved(panel)
        multiply(
            sums,
            (rows, vectors),
            lanes,
            desc.hidden,
            lambda i, k: self._hidden.load(state + i * self._units + k),
            panels.load,
        )
        # Written once for all units and sequences, so that the code is short.
        room, gates = self._room.part(bind(place.worker * self._room_size)), desc.gates * lanes
        for i in range(rows * vectors):
            room.store(i * lanes, sums.load(i * lanes, lanes), lanes)
        with loop(rows) as i, loop(place.count) as unit:
            start = self._gates_start(place, first + i)
            at = bind((i * place.count + unit) * gates)
            values = [bind(room.load(at + g * lanes, lanes)) for g in range(desc.gates)]
            self._store(place, bind(first + i), start, unit, values)

    def _gates_start(self, place: _Place, row: Index) -> Index:
        """Where the gates of the input begin, for a sequence and some units."""
        desc, lanes = self._desc, self._lanes
        at = self._desc.row(place.step, row) * gate_width(desc, lanes)
        units = place.direction * self._blocks + place.block
        return bind(at + units * (desc.gates * lanes))

    def _first(self, place: _Place, start: Index, vector: int) -> Expr:
        """What a sum begins with: a gate of the input; of GRU's new gate, the state's bias."""
        lanes = self._lanes
        if self._bias is None or vector % self._desc.gates < self._desc.gates - 1:
            return self._gates.load(start + vector * lanes, lanes)
        unit = place.direction * self._blocks + place.block + vector // self._desc.gates
        return self._bias.load(unit * lanes, lanes)

    def _store(
        self, place: _Place, row: Index, start: Index, unit: Index, values: list[Expr]
    ) -> None:
        """The next state of some units, from the sums of their gates."""
        lanes, desc = self._lanes, self._desc
        at = bind(row * self._units + (place.block + unit) * lanes)
        functions = Functions(lanes)
        if self._cell is not None:
            there = bind(place.direction * (desc.rows * self._units) + at)
            given, kept, new, shown = values
            state = functions.sigmoid(kept) * self._cell.load(there, lanes)
            state = bind(state + functions.sigmoid(given) * functions.tanh(new))
            self._cell.store(there, state, lanes)
            made = functions.sigmoid(shown) * functions.tanh(state)
        elif desc.cell == "gru":
            reset, kept, new = values
            of_input = self._gates.load(start + (unit * desc.gates + 2) * lanes, lanes)
            fresh = bind(functions.tanh(bind(of_input + functions.sigmoid(reset) * new)))
            share = bind(functions.sigmoid(kept))
            old = self._hidden.load(place.before + at, lanes)
            made = fresh + share * (old - fresh)
        elif desc.cell == "rnn_tanh":
            made = functions.tanh(values[0])
        else:
            made = T.max(functions.number(0.0), values[0])
        made = bind(made)
        self._hidden.store(place.after + at, made, lanes)
        self._show(place, row, unit, made)

    def _show(self, place: _Place, row: Index, unit: Index, value: Expr) -> None:
        """Write the units that exist to the result."""
        desc, lanes = self._desc, self._lanes
        start = desc.row(place.step, row) * (desc.directions * desc.hidden)
        at = bind(start + place.direction * desc.hidden + (place.block + unit) * lanes)
        rest = desc.hidden % lanes
        if not rest:
            self._out.store(at, value, lanes)
            return
        few = shuffle([value], range(rest))
        block = place.block + unit
        if isinstance(block, int):
            is_last = block == self._blocks - 1
            self._out.store(at, few if is_last else value, rest if is_last else lanes)
            return
        with T.If(block < self._blocks - 1):
            with T.Then():
                self._out.store(at, value, lanes)
            with T.Else():
                self._out.store(at, few, rest)


@dataclass(frozen=True)
class _Place:
    """Some units at a step: `count` blocks from `block` on.

    worker: who computes them. before, after: where the states of this and of the next step are.
    """

    worker: Index
    direction: Index
    block: Index
    count: int
    step: Index
    before: Index
    after: Index


def _int(value: Index) -> Expr:
    return T.int32(value) if isinstance(value, int) else value
