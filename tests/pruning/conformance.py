"""The conformance set of channel pruning: small networks, one for each way to tie channels."""

from __future__ import annotations

from tests.pruning import (
    cases_of_attention,
    cases_of_joins,
    cases_of_layers,
    cases_of_mixing,
    cases_of_movement,
    cases_of_rare_operators,
)
from tests.pruning.cases import CASES, Case

__all__ = ["CASES", "Case"]
_ = (
    cases_of_layers,
    cases_of_joins,
    cases_of_movement,
    cases_of_attention,
    cases_of_rare_operators,
    cases_of_mixing,
)
