"""Writes the source of random networks, statement by statement.

Every statement runs as soon as it is written, on a batch of two: so shapes are known without a rule
for any operator, and a step that does not fit is taken back. What is kept is text, which a failing
seed prints.
"""

from __future__ import annotations

import linecache
import random
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

BATCH = 2  # of the values that statements are tried on
_MOST_ELEMENTS = 3000  # of one sample's value: larger ones take long to compile
_LARGEST = 1e6  # a network whose values grow without bound shows nothing

_HEADER = "import torch\nfrom torch import nn\nfrom torch.nn import functional as F\n"


class NoFitError(Exception):
    """A step that does not fit the values there are."""


@dataclass(frozen=True)
class RandomModule:
    """A network as Python text, which defines `Net`, `net`, and `inputs(batch, seed)`."""

    seed: int
    source: str

    def names(self) -> dict[str, Any]:
        """What the text defines."""
        name = f"random_module_{self.seed}.py"
        linecache.cache[name] = (len(self.source), None, self.source.splitlines(True), name)
        defined: dict[str, Any] = {"__name__": name}
        with torch.random.fork_rng(devices=[]):
            exec(compile(self.source, name, "exec"), defined)
        return defined

    def build(self) -> tuple[nn.Module, Callable[[int, int], tuple[Tensor, ...]]]:
        """The network, and the function that makes inputs of a batch size from a seed."""
        defined = self.names()
        return defined["net"].eval(), defined["inputs"]


class Writer:
    """Statements of `__init__` and `forward`, and the values that they have made so far."""

    def __init__(self, seed: int) -> None:
        self.seed, self.choose = seed, random.Random(seed)
        self.root = nn.Module()
        self.values: dict[str, Tensor] = {}  # in the order in which they were made
        self.arguments: dict[str, str] = {}
        self._init: list[str] = []
        self._read: set[str] = set()
        self.statements: list[str] = []
        self._count = 0
        self._scope: dict[str, Any] = {
            "torch": torch,
            "nn": nn,
            "F": functional,
            "self": self.root,
        }

    # --- what steps ask ---------------------------------------------------------------------------

    def one(self, *options: Any) -> Any:
        """One of the options; repeat those that should be frequent."""
        return self.choose.choice(options)

    def chance(self, share: float) -> bool:
        return self.choose.random() < share

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self.values[name].shape)

    def pick(self, rank: int, *, like: str | None = None, last: int = 5) -> str:
        """One of the last float values of a rank, or of another's shape. Raises NoFitError."""
        found = [
            name
            for name, value in self.values.items()
            if value.dim() == rank
            and value.is_floating_point()
            and (like is None or value.shape == self.values[like].shape)
        ]
        if not found:
            raise NoFitError
        unread = [name for name in found if name not in self._read]
        if unread and like is None and self.chance(0.5):
            found = unread  # or most values would be dead ends
        return self.choose.choice(found[-last:])

    @property
    def unread(self) -> list[str]:
        """Values that no statement reads yet."""
        return [name for name in self.values if name not in self._read]

    def layers(self, kind: type[nn.Module]) -> list[tuple[str, nn.Module]]:
        """Layers made so far, as `self.conv2` and the module."""
        return [
            (f"self.{name}", module)
            for name, module in self.root.named_children()
            if type(module) is kind
        ]

    # --- what steps write -------------------------------------------------------------------------

    def name(self, stem: str) -> str:
        """A name that is not in use."""
        self._count += 1
        return f"{stem}{self._count}"

    def init(self, statement: str) -> None:
        """A statement of `__init__`."""
        exec(statement, self._scope)
        self._init.append(statement)

    def layer(self, stem: str, text: str) -> str:
        """A layer as an attribute; returns what `forward` calls it."""
        name = f"self.{self.name(stem)}"
        self.init(f"{name} = {text}")
        return name

    def run(self, statement: str) -> None:
        """A statement of `forward` that makes no new value."""
        with torch.no_grad():
            exec(statement, self._scope)
        self.statements.append(statement)
        self._read |= set(re.findall(r"\w+", statement)) & set(self.values)

    def value(self, text: str) -> str:
        """`v7 = text`: a new value, by its name."""
        name = self.name("v")
        self.run(f"{name} = {text}")
        self.keep(name)
        return name

    def keep(self, *names: str) -> None:
        """Names that statements have assigned are values now. Raises NoFitError for odd ones."""
        for name in names:
            made = self._scope[name]
            if not isinstance(made, Tensor) or not 0 < made.numel() <= _MOST_ELEMENTS * BATCH:
                raise NoFitError
            finite = not made.is_floating_point() or bool(made.isfinite().all())
            if not finite or float(made.double().abs().max()) > _LARGEST:
                raise NoFitError
            self.values[name] = made

    def argument(self, name: str, text: str) -> None:
        """An argument of `forward`; `text` makes it, from `batch` and the generator `g`."""
        generator = torch.Generator().manual_seed(self.seed)
        self._scope[name] = eval(text, {"torch": torch, "batch": BATCH, "g": generator})
        self.arguments[name] = text
        self.values[name] = self._scope[name]

    def attempt(self, step: Callable[[Writer], None]) -> bool:
        """Run a step; take back what it wrote if it does not fit."""
        init, forward, read = len(self._init), len(self.statements), set(self._read)
        inside = set(self.root.__dict__) | {
            *self.root._modules,
            *self.root._parameters,
            *self.root._buffers,
        }
        saved = {name: value.clone() for name, value in self.values.items()}
        try:
            step(self)
            self.keep(*saved)  # in-place steps may have spoilt them
        except (NoFitError, RuntimeError, ValueError, IndexError, TypeError, AssertionError):
            del self._init[init:], self.statements[forward:]
            for held in (self.root._modules, self.root._parameters, self.root._buffers):
                for name in set(held) - inside:
                    del held[name]
            self.values, self._read = saved, read
            self._scope.update(saved)
            return False
        return True

    def module(self, result: str) -> RandomModule:
        """The finished text; `result` is what `forward` returns."""
        names = ", ".join(self.arguments)
        made = ", ".join(self.arguments.values())
        lines = [
            _HEADER,
            "",
            "class Net(nn.Module):",
            "    def __init__(self):",
            "        super().__init__()",
            *(f"        {line}" for line in self._init),
            "",
            f"    def forward(self, {names}):",
            *(f"        {line}" for line in self.statements),
            f"        return {result}",
            "",
            "",
            f"torch.manual_seed({self.seed})",
            "net = Net().eval()",
            "",
            "",
            "def inputs(batch, seed=0):",
            "    g = torch.Generator().manual_seed(seed)",
            f"    return ({made},)",
            "",
        ]
        return RandomModule(self.seed, "\n".join(lines))
