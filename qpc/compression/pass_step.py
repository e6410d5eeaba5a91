"""Every pass is a step: by its name, with its settings."""

from __future__ import annotations

from typing import Any, Self, cast

from pydantic import Field, model_serializer, model_validator
from pydantic_core import PydanticCustomError
from torch.fx import GraphModule

from qpc.base import Pass
from qpc.compression.parts import Spec
from qpc.compression.step import Step, StepContext
from qpc.errors import ConfigError
from qpc.pipeline import Pipeline
from qpc.yaml_form import PASSES


class PassStep(Step):
    """One pass. Batches and losses that it needs are the run's.

    kind: the name of the pass; settings: its settings, which a recipe writes beside the name.
    """

    kind: str
    settings: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _knows_all_settings(cls, data: object) -> object:
        """In place of the check of other steps: which settings there are is the pass's to say."""
        if isinstance(data, dict) and "settings" not in data:
            rest = {str(key): value for key, value in data.items() if key != "kind"}
            return {"kind": data.get("kind"), "settings": rest}
        return data

    @model_validator(mode="after")
    def _can_be_made(self) -> Self:
        try:
            Spec.of(self._data(), PASSES, {})
        except ConfigError as e:
            hint = f"; {e.fix}" if e.fix else ""
            raise PydanticCustomError("pass", "{text}", {"text": f"{e.what}{hint}"}) from e
        return self

    @model_serializer
    def _as_written(self) -> dict[str, Any]:
        return self._data()

    def _data(self) -> dict[str, Any]:
        return {"kind": self.kind, **self.settings}

    @property
    def required(self) -> frozenset[str]:
        cls = PASSES.find(self.kind)
        fields = getattr(cls, "__dataclass_fields__", {})
        return frozenset({"batches", "loss"} & fields.keys())

    def run(self, gm: GraphModule, at: StepContext) -> GraphModule:
        made = cast(Pass, Spec(PASSES, self._data()).make(**at.supply))
        return Pipeline((made,), made.requires).run(gm, at.passes)
