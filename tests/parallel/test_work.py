from __future__ import annotations

import pickle

import torch
from torch import nn

from qpc.errors import PassError
from qpc.parallel.work import Done, Failed, Plain, Refused, attempt
from qpc.testing import traced


def test_an_outcome_travels_without_the_graph_that_an_error_is_about() -> None:
    node = next(iter(traced(nn.ReLU(), torch.ones(1, 2)).graph.nodes))

    def refuse(_: Plain) -> Plain:
        raise PassError("no", node=node, fix="yes")

    outcome = attempt(refuse, None)
    assert isinstance(outcome, Refused)
    error = pickle.loads(pickle.dumps(outcome)).error
    assert isinstance(error, PassError)
    assert (error.what, error.node, error.fix) == ("no", None, "yes")
    assert "at node" in error.full_text
    assert error.full_text.count("fix: yes") == 1


def test_other_exceptions_become_failures_and_results_are_results() -> None:
    def leave(_: Plain) -> Plain:
        raise SystemExit(3)

    outcome = attempt(leave, None)
    assert isinstance(outcome, Failed)
    assert outcome.why == "SystemExit: 3"
    assert "in leave" in outcome.details
    assert attempt(lambda x: x, 5) == Done(5)
