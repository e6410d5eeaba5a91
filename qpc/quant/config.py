"""What to quantize how: typed settings, from Python or from YAML."""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Self

import yaml
from pydantic import Discriminator, Field, StrictBool, StrictInt, Tag, model_validator

from qpc.errors import ConfigError
from qpc.plain_yaml import plain_yaml
from qpc.quant.observers import MSE, ActivationObserver, MinMax, WeightObserver
from qpc.settings import Settings
from qpc.targets import Target

Bits = Annotated[StrictInt, Field(ge=2, le=8)]
Group = Literal[32, 64, 128]
Mode = Literal["static", "dynamic", "weight-only"]
Results = Literal["float32", "integer"]
Pairs = Literal["any", "safe"]
_WIDEST = 8  # bits


class ActivationConfig(Settings):
    """How activations are quantized, per tensor.

    symmetric: the zero point is the middle of the grid, otherwise it is fitted to the range.
    """

    bits: Bits = 8
    symmetric: StrictBool = False
    observer: ActivationObserver = MSE()


class WeightConfig(Settings):
    """How weights are quantized: symmetrically, from -limit to limit = 2**(bits - 1) - 1.

    per_channel: one scale for each output channel, otherwise one for the tensor.
    group: with mode "weight-only", one scale for so many inputs of each output channel; the last
    group of a channel may be shorter.
    pairs: "safe": scales and points are such that no two weights of a pair, see `qpc.quant.pairs`,
    add up to more than 128 on one side of 0, for the fast instructions of x86 CPUs without VNNI.
    Weights of fewer than 8 bits never do. "any": all pairs of points may occur.
    """

    bits: Bits = 8
    per_channel: StrictBool = True
    observer: WeightObserver = MinMax()
    group: Group | None = None
    pairs: Pairs = "any"

    @property
    def safe_pairs(self) -> bool:
        """Whether pairs must be made safe, as they are not by themselves."""
        return self.pairs == "safe" and self.bits == _WIDEST

    @model_validator(mode="after")
    def _groups_are_parts_of_channels(self) -> Self:
        if self.group is not None and not self.per_channel:
            raise ValueError("groups have scales for each channel: per_channel=True")
        return self


class LayerConfig(Settings):
    """How one operator is quantized: the value it makes and the weight it owns.

    mode: "static": integers in, integers out, on grids that calibration has found. The two others
    are for linear layers, whose values stay float32. "dynamic": each row of the input is brought to
    a grid of its own when the model runs. "weight-only": weights are integers, and sums are of
    floats. Neither looks at `activation`, nor needs calibration.
    results: what becomes of values that only the model's output and float operators read. They are
    not rounded to a grid with "float32"; with "integer" they are, as all others, which makes a
    model that ends in integers, for machines without floats. Nor is, with "float32", the value of a
    layer that one addition reads, and nothing else.
    """

    mode: Mode = "static"
    activation: ActivationConfig = ActivationConfig()
    weight: WeightConfig = WeightConfig()
    results: Results = "float32"

    @model_validator(mode="after")
    def _groups_need_float_sums(self) -> Self:
        if self.weight.group is not None and self.mode != "weight-only":
            raise ValueError(f'groups of weights need mode="weight-only", not {self.mode!r}')
        return self

    @model_validator(mode="after")
    def _pairs_need_integer_products(self) -> Self:
        if self.weight.pairs == "safe" and self.mode == "weight-only":
            raise ValueError(
                'safe pairs are for products of integers, of which mode="weight-only" has none: '
                'pairs="any"'
            )
        return self


class Site(NamedTuple):
    """A place in a model that a configuration is asked about.

    module: the path of the user's module, such as "layer1.0.conv1".
    op: the core operator's name, such as "conv2d".
    position: "input" or "output" for the values at the model's ends, "before-output" for those that
    the last layers read.
    """

    module: str
    op: str
    position: str | None = None


def _use_kind(value: Any) -> str:
    return "float" if isinstance(value, str) else "layer"


class Override(Settings):
    """An exception from the default, for the sites that every selector given here selects.

    module: a module path; selects that module and everything inside it.
    pattern: a shell pattern over the whole module path; `*` also matches dots.
    op: a core operator's name, such as "conv2d", which convolutions over one axis have become too.
    position: the values at the model's input or output, and the layers there; "before-output": the
    values that the last layers read.
    use: the settings to use there in place of the default ones, or "float" to quantize nothing.
    """

    module: str | None = Field(default=None, min_length=1)
    pattern: str | None = Field(default=None, min_length=1)
    op: str | None = Field(default=None, min_length=1)
    position: Literal["input", "output", "before-output"] | None = None
    use: Annotated[
        Annotated[LayerConfig, Tag("layer")] | Annotated[Literal["float"], Tag("float")],
        Discriminator(_use_kind),
    ]

    @model_validator(mode="after")
    def _selects_something(self) -> Self:
        if self.module is self.pattern is self.op is self.position is None:
            raise ValueError("an override needs one of module, pattern, op and position")
        return self

    def selects(self, site: Site) -> bool:
        """Return whether the override is about `site`."""
        inside = self.module is None or f"{site.module}.".startswith(f"{self.module}.")
        named = self.pattern is None or fnmatchcase(site.module, self.pattern)
        return (
            inside
            and named
            and self.op in (None, site.op)
            and self.position in (None, site.position)
        )


class QuantConfig(Settings):
    """How a model is quantized: a default, and exceptions, of which the last that selects wins."""

    default: LayerConfig = LayerConfig()
    overrides: tuple[Override, ...] = ()

    @classmethod
    def of_bits(
        cls, weights: int, activations: int, *, first_and_last: int | None = None
    ) -> QuantConfig:
        """Return the settings for so many bits everywhere, and others at the ends of a model.

        weights, activations: bits, 2 to 8.
        first_and_last: bits of the weights of the first and the last layers, and of the values that
        these read, as literature on few bits mostly has them without saying so: 8 (Esser et al.
        2020, arXiv:1902.08153, section 3). None for no exception.

        Raises `ConfigError` for other numbers of bits.
        """

        def layer(weight_bits: int, activation_bits: int) -> LayerConfig:
            return LayerConfig(
                activation=ActivationConfig(bits=activation_bits),
                weight=WeightConfig(bits=weight_bits),
            )

        default = layer(weights, activations)
        if first_and_last is None:
            return cls(default=default)
        ends = layer(first_and_last, activations)
        overrides = (
            Override(position="before-output", use=layer(weights, first_and_last)),
            Override(position="input", use=ends),
            Override(position="output", use=layer(first_and_last, first_and_last)),
            Override(op="input", use=layer(first_and_last, first_and_last)),
        )
        return cls(default=default, overrides=overrides)

    @classmethod
    def for_target(cls, target: str | Target) -> QuantConfig:
        """Return the settings whose models are fastest on a target.

        target: as for `qpc.compile`. On x86 CPUs without VNNI, such as "x86-64-v3", pairs of
        weights are safe; elsewhere these are the default settings. Either runs on every target,
        with the same results.

        Raises `UnsupportedTargetError` for a name that no target has.
        """
        found = Target.parse(target) if isinstance(target, str) else target
        pairs: Pairs = "safe" if found.gains_by_safe_pairs else "any"
        return cls(default=LayerConfig(weight=WeightConfig(pairs=pairs)))

    def resolve(self, *, module: str, op: str, position: str | None = None) -> LayerConfig | None:
        """Return the settings for a site (see `Site`); None if it is to stay in float."""
        site = Site(module, op, position)
        for override in reversed(self.overrides):
            if override.selects(site):
                return None if override.use == "float" else override.use
        return self.default

    def unmatched(self, seen: Iterable[Site | tuple[str, str, str | None]]) -> tuple[Override, ...]:
        """Return the overrides that select no site: misspelled, or meant for another model."""
        sites = [Site(*site) for site in seen]
        return tuple(o for o in self.overrides if not any(o.selects(site) for site in sites))

    @property
    def modes(self) -> frozenset[Mode]:
        """The modes that any site may have."""
        used = (o.use.mode for o in self.overrides if isinstance(o.use, LayerConfig))
        return frozenset({self.default.mode, *used})

    @classmethod
    def from_yaml(cls, path: str | Path) -> Self:
        """Read a file as `to_yaml` writes it; whatever it leaves out has its default.

        Raises `ConfigError`, which names the file and the first wrong field.
        """
        try:
            data = plain_yaml(Path(path).read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as e:
            raise ConfigError(f"cannot read {str(path)!r}: {' '.join(str(e).split())}") from e
        if not isinstance(data, dict):
            raise ConfigError(f"{str(path)!r} must hold a mapping, got {type(data).__name__}")
        try:
            return cls.model_validate(data)
        except ConfigError as e:
            problem = e.what.removeprefix(f"{cls.__name__}: ")
            raise ConfigError(f"{str(path)!r}: {problem}") from e

    def to_yaml(self, path: str | Path) -> None:
        """Write all settings, defaults included, to a UTF-8 file.

        Raises `ConfigError` if an observer is of a class of your own, which no file can name, or if
        the file cannot be written.
        """
        text = yaml.safe_dump(self.model_dump(mode="json", exclude_none=True), sort_keys=False)
        try:
            Path(path).write_text(text, encoding="utf-8")
        except OSError as e:
            raise ConfigError(f"cannot write {str(path)!r}: {e.strerror or e}") from e
