"""The choice of bits as an integer program, which SciPy solves with HiGHS.

One variable for each part and each number of bits says whether the part has them. Bit operations
are products of two such choices; each product of two parts has a variable for each pair of bits,
whose sums are the choices themselves, so that the program stays linear and exact.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from qpc.errors import ConfigError, MissingDependencyError, PassError
from qpc.installing import install_line
from qpc.precision.budget import Costs
from qpc.precision.parts import Part

Choice = tuple[Part, int]
"""A part, and bits that it may have."""
_Terms = dict[int, float]
"""A sum of variables: the factor of each, by its place."""


def choose(
    noise: Mapping[Choice, float], costs: Costs, limits: tuple[float, float]
) -> dict[Part, int]:
    """The bits of each part for which the sum of noise is least within the limits.

    noise: of each part at each number of bits it may have; inf forbids them. limits: the most bytes
    of weights and bit operations.

    Raises ConfigError if they cannot be met, PassError for a part whose bits are all forbidden,
    MissingDependencyError without SciPy.
    """
    allowed = {choice: amount for choice, amount in noise.items() if math.isfinite(amount)}
    _require_reachable(noise, allowed, costs, limits)
    slack = 0.0
    while True:
        most_bytes, most_operations = (limit * (1 - slack) for limit in limits)
        program = _Program(list(allowed))
        if most_bytes < math.inf:
            program.limit_bytes(costs, most_bytes)
        if most_operations < math.inf:
            program.limit_operations(costs, most_operations)
        chosen = program.solve(allowed)
        found = (costs.weight_bytes(chosen), costs.bit_operations(chosen))
        if all(cost <= limit for cost, limit in zip(found, limits, strict=True)):
            return chosen
        slack = 2 * slack + _TOLERANCE  # the solver lets limits be exceeded by a tiny share


_TOLERANCE = 1e-6  # of HiGHS, for constraints


def _require_reachable(
    noise: Mapping[Choice, float],
    allowed: Mapping[Choice, float],
    costs: Costs,
    limits: tuple[float, float],
) -> None:
    """Every cost is least where all bits are."""
    least: dict[Part, int] = {}
    for part, bits in allowed:
        least[part] = min(bits, least.get(part, bits))
    for part, _ in noise:
        if part not in least:
            raise PassError(
                f"the outputs are not finite with the {part} at any of the numbers of bits",
                fix="allow more bits, or keep that layer in float",
            )
    found = (costs.weight_bytes(least), costs.bit_operations(least))
    names = ("bytes of weights", "bit operations")
    for name, cost, limit in zip(names, found, limits, strict=True):
        if cost > limit:
            raise ConfigError(
                f"a budget of {limit:,.0f} {name} cannot be met: the fewest are {cost:,}",
                fix="allow more, or fewer bits, such as bits=(8, 6, 4, 2)",
            )


@dataclass
class _Program:
    """Variables from 0 to 1, of which the first ones, the choices, are whole, and their bounds."""

    choices: list[Choice]
    rows: list[tuple[_Terms, float, float]] = field(default_factory=list)
    count: int = 0

    def __post_init__(self) -> None:
        self.count = len(self.choices)
        for part in dict.fromkeys(part for part, _ in self.choices):
            self.rows.append((dict.fromkeys(self._of(part).values(), 1.0), 1.0, 1.0))

    def limit_bytes(self, costs: Costs, most: float) -> None:
        """At most so many bytes of weights."""
        terms = {i: float(costs.part_bytes(*choice)) for i, choice in enumerate(self.choices)}
        self._limit(terms, most - costs.float_bytes)

    def limit_operations(self, costs: Costs, most: float) -> None:
        """At most so many bit operations."""
        terms: _Terms = {}
        for product in costs.products:
            first, second = product.first, product.second
            if first is None and second is None:
                most -= product.cost({})
            elif first is None or second is None or first is second:
                part = first or second
                assert part is not None
                for bits, i in self._of(part).items():
                    terms[i] = terms.get(i, 0.0) + product.cost({part: bits})
            else:
                for (a, b), i in self._pairs(first, second).items():
                    terms[i] = float(product.cost({first: a, second: b}))
        self._limit(terms, most)

    def solve(self, noise: Mapping[Choice, float]) -> dict[Part, int]:
        """The choices of least noise."""
        try:
            import numpy as np
            from scipy.optimize import Bounds, LinearConstraint, milp
            from scipy.sparse import coo_array
        except ImportError as e:
            raise MissingDependencyError(
                f"SciPy, which solves for the bits, cannot be imported: {e}",
                fix=install_line("mixed-precision"),
            ) from e
        cells = [(v, r, c) for r, (terms, _, _) in enumerate(self.rows) for c, v in terms.items()]
        values, rows, columns = zip(*cells, strict=True)
        matrix = coo_array((values, (rows, columns)), shape=(len(self.rows), self.count))
        bounds = ([low for _, low, _ in self.rows], [high for _, _, high in self.rows])
        # Noise spans many orders; in units of the least that any part adds, tolerances are small.
        unit = min((amount for amount in noise.values() if amount), default=1.0)
        objective = np.zeros(self.count)
        objective[: len(self.choices)] = [noise[choice] / unit for choice in self.choices]
        whole = np.zeros(self.count)
        whole[: len(self.choices)] = 1
        found = milp(
            objective,
            integrality=whole,
            bounds=Bounds(0, 1),
            constraints=LinearConstraint(matrix.tocsr(), *bounds),
            options={"mip_rel_gap": 0.0},
        )
        if found.x is None:
            raise PassError(f"the solver found no choice of bits: {found.message}")
        taken = zip(self.choices, found.x[: len(self.choices)], strict=True)
        return {part: bits for (part, bits), share in taken if share > 1 / 2}

    def _of(self, part: Part) -> dict[int, int]:
        """The variables of a part by bits."""
        return {bits: i for i, (other, bits) in enumerate(self.choices) if other is part}

    def _pairs(self, first: Part, second: Part) -> dict[tuple[int, int], int]:
        """New variables by bits: 1 where both parts have these."""
        ours, theirs = self._of(first), self._of(second)
        places = {pair: self.count + i for i, pair in enumerate(_product(ours, theirs))}
        self.count += len(places)
        for bits, choice in ours.items():
            line = {place: 1.0 for (a, _), place in places.items() if a == bits}
            self.rows.append(({**line, choice: -1.0}, 0.0, 0.0))
        for bits, choice in theirs.items():
            line = {place: 1.0 for (_, b), place in places.items() if b == bits}
            self.rows.append(({**line, choice: -1.0}, 0.0, 0.0))
        return places

    def _limit(self, terms: _Terms, most: float) -> None:
        """A limit in units of itself, so that the solver's tolerance is a share of it."""
        scale = max(map(abs, terms.values()), default=1.0) or 1.0
        self.rows.append(({i: v / scale for i, v in terms.items()}, -math.inf, most / scale))


def _product(first: Iterable[int], second: Iterable[int]) -> list[tuple[int, int]]:
    others = list(second)
    return [(a, b) for a in first for b in others]
