"""Every pass test proves all that the facts say, before the first pass and after each of them."""

from __future__ import annotations

import pytest
from torch.fx import GraphModule

from qpc.base import PassContext
from qpc.pipeline import Pipeline


@pytest.fixture(autouse=True)
def _facts_are_proven(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.node.get_closest_marker("forged"):
        return
    run = Pipeline.run

    def run_thoroughly(
        self: Pipeline, gm: GraphModule, ctx: PassContext | None = None
    ) -> GraphModule:
        ctx = PassContext() if ctx is None else ctx
        if isinstance(ctx, PassContext):
            ctx.thorough = True
        return run(self, gm, ctx)

    monkeypatch.setattr(Pipeline, "run", run_thoroughly)
