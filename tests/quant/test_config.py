from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from qpc.errors import ConfigError, QPCError, UnsupportedTargetError
from qpc.quant.config import (
    ActivationConfig,
    LayerConfig,
    Override,
    QuantConfig,
    Site,
    WeightConfig,
)
from qpc.quant.observers import MSE, MinMax, MovingAverage, Percentile
from qpc.targets import Target

FOUR_BITS = LayerConfig(activation=ActivationConfig(bits=4), weight=WeightConfig(bits=4))


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "quant.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def problem(tmp_path: Path, text: str) -> str:
    with pytest.raises(QPCError) as e:
        QuantConfig.from_yaml(written(tmp_path, text))
    message = e.value.what
    assert message.startswith(f"'{tmp_path}/quant.yaml': ")
    assert "\n" not in message
    return message.removeprefix(f"'{tmp_path}/quant.yaml': ")


# --- defaults and values --------------------------------------------------------------------------


def test_the_default_is_eight_bits_asymmetric_activations_and_per_channel_weights() -> None:
    config = QuantConfig().resolve(module="conv", op="conv2d")
    assert config is not None
    assert config.activation == ActivationConfig(bits=8, symmetric=False, observer=MSE())
    assert config.weight == WeightConfig(bits=8, per_channel=True, observer=MinMax())


@pytest.mark.parametrize("config", [ActivationConfig, WeightConfig])
@pytest.mark.parametrize("bits", [1, 9, "8", 8.0, True])
def test_bits_are_integers_from_two_to_eight(
    bits: Any, config: type[ActivationConfig | WeightConfig]
) -> None:
    with pytest.raises(ConfigError, match=rf"^{config.__name__}: bits: Input .*, got {bits!r}$"):
        config(bits=bits)


def test_a_misspelled_field_is_refused() -> None:
    with pytest.raises(ConfigError, match="symetric: Extra inputs are not permitted, got True"):
        ActivationConfig(symetric=True)  # type: ignore[call-arg]  # what the test is about


def test_configurations_are_immutable_values() -> None:
    assert len({QuantConfig(), QuantConfig(overrides=()), QuantConfig(default=FOUR_BITS)}) == 2
    with pytest.raises(ConfigError, match="LayerConfig is frozen: its 'weight' cannot be set"):
        FOUR_BITS.weight = WeightConfig()


# --- overrides ------------------------------------------------------------------------------------


def resolved(override: Override, site: Site) -> bool:
    config = QuantConfig(overrides=(override,))
    return config.resolve(module=site.module, op=site.op, position=site.position) == FOUR_BITS


@pytest.mark.parametrize(
    ("module", "expected"),
    [
        ("layer1", True),
        ("layer1.0.conv1", True),
        ("layer10", False),
        ("net.layer1", False),
        ("", False),
    ],
)
def test_a_module_selects_itself_and_what_is_inside(module: str, expected: bool) -> None:
    assert resolved(Override(module="layer1", use=FOUR_BITS), Site(module, "conv2d")) is expected


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [("*.conv1", True), ("layer?.*", True), ("layer1", False), ("*.CONV1", False), ("*", True)],
)
def test_a_pattern_selects_whole_module_paths(pattern: str, expected: bool) -> None:
    override = Override(pattern=pattern, use=FOUR_BITS)
    assert resolved(override, Site("layer1.0.conv1", "conv2d")) is expected


def test_an_operator_is_selected_by_its_whole_name() -> None:
    override = Override(op="conv2d", use=FOUR_BITS)
    assert resolved(override, Site("a", "conv2d"))
    assert not resolved(override, Site("a", "conv"))


def test_a_position_selects_an_end_of_the_model() -> None:
    override = Override(position="input", use=FOUR_BITS)
    assert resolved(override, Site("a", "conv2d", "input"))
    assert not resolved(override, Site("a", "conv2d", "output"))
    assert not resolved(override, Site("a", "conv2d"))


def test_several_selectors_must_all_select() -> None:
    override = Override(module="head", op="linear", use=FOUR_BITS)
    assert resolved(override, Site("head.fc", "linear"))
    assert not resolved(override, Site("head.fc", "conv2d"))
    assert not resolved(override, Site("body.fc", "linear"))


def test_float_keeps_a_site_out_of_quantization() -> None:
    config = QuantConfig(overrides=(Override(op="linear", use="float"),))
    assert config.resolve(module="fc", op="linear") is None
    assert config.resolve(module="fc", op="conv2d") == LayerConfig()


def test_later_overrides_win() -> None:
    off, on = Override(module="a", use="float"), Override(module="a.b", use=FOUR_BITS)
    assert QuantConfig(overrides=(off, on)).resolve(module="a.b", op="add") == FOUR_BITS
    assert QuantConfig(overrides=(off, on)).resolve(module="a.c", op="add") is None
    assert QuantConfig(overrides=(on, off)).resolve(module="a.b", op="add") is None


def test_an_override_replaces_the_default_whole() -> None:
    use = LayerConfig(activation=ActivationConfig(symmetric=True))
    config = QuantConfig(default=FOUR_BITS, overrides=(Override(op="add", use=use),))
    assert config.resolve(module="", op="add") == use


def test_overrides_that_select_nothing_are_found() -> None:
    used = Override(module="layer1", use="float")
    misspelled = Override(module="layr1", use="float")
    config = QuantConfig(overrides=(used, misspelled))
    seen: list[Site | tuple[str, str, str | None]] = [
        Site("layer1.0", "conv2d"),
        ("fc", "linear", "output"),
    ]
    assert config.unmatched(seen) == (misspelled,)
    assert config.unmatched([]) == (used, misspelled)


def test_an_override_needs_a_selector() -> None:
    with pytest.raises(
        ValueError, match="an override needs one of module, pattern, op and position"
    ):
        Override(use="float")


@pytest.mark.parametrize("selector", ["module", "pattern", "op"])
def test_selectors_are_not_empty(selector: str) -> None:
    with pytest.raises(
        ValueError, match=f"^Override: {selector}: String should have at least 1 character"
    ):
        Override.model_validate({selector: "", "use": "float"})


# --- files ----------------------------------------------------------------------------------------

EXAMPLE = """
default:
  activation: {bits: 8, observer: {kind: percentile, percent: 99.9}}
  weight: {observer: mse, per_channel: false}
overrides:
  - {module: layer1, use: float}
  - pattern: "*.fc"
    use:
      activation: {bits: 4, symmetric: true, observer: moving-average}
  - {position: output, use: float}
"""


def test_yaml_holds_the_same_values_as_python(tmp_path: Path) -> None:
    fine = ActivationConfig(bits=4, symmetric=True, observer=MovingAverage())
    assert QuantConfig.from_yaml(written(tmp_path, EXAMPLE)) == QuantConfig(
        default=LayerConfig(
            activation=ActivationConfig(observer=Percentile(percent=99.9)),
            weight=WeightConfig(per_channel=False, observer=MSE()),
        ),
        overrides=(
            Override(module="layer1", use="float"),
            Override(pattern="*.fc", use=LayerConfig(activation=fine)),
            Override(position="output", use="float"),
        ),
    )


@pytest.mark.parametrize("text", [EXAMPLE, "{}"])
def test_what_is_written_is_read_back(tmp_path: Path, text: str) -> None:
    config = QuantConfig.from_yaml(written(tmp_path, text))
    config.to_yaml(tmp_path / "copy.yaml")
    assert QuantConfig.from_yaml(str(tmp_path / "copy.yaml")) == config
    assert "null" not in (tmp_path / "copy.yaml").read_text()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "default: {activation: {bits: 9}}",
            "default.activation.bits: Input should be less than or equal to 8, got 9",
        ),
        (
            "default: {weight: {per_channel: 1}}",
            "default.weight.per_channel: Input should be a valid boolean, got 1",
        ),
        (
            "overrides: [{op: add, use: float}, {op: add, use: {weight: {bits: 1}}}]",
            "overrides[1].use.weight.bits: Input should be greater than or equal to 2, got 1",
        ),
        (
            "overrides: [{op: add, use: int8}]",
            "overrides[0].use: Input should be 'float', got 'int8'",
        ),
        ("overrides: [{op: add}]", "overrides[0].use: Field required"),
        (
            "overrides: [{use: float}]",
            "overrides[0]: an override needs one of module, pattern, op and position",
        ),
        (
            "overrides: [{position: middle, use: float}]",
            "overrides[0].position: Input should be 'input', 'output' or 'before-output', got "
            "'middle'",
        ),
        ("defaults: {}", "defaults: Extra inputs are not permitted"),
        (
            "default: {weight: {observer: entropy}}",
            "default.weight.observer: Input tag 'entropy' found using 'kind' does not match any of"
            " the expected tags: 'min-max', 'mse'",
        ),
        (
            "default: {activation: {observer: {kind: percentile, percent: 0}}}",
            "default.activation.observer.percentile.percent: Input should be greater than 0, got 0",
        ),
    ],
)
def test_a_wrong_file_is_refused_by_file_and_field(
    tmp_path: Path, text: str, expected: str
) -> None:
    assert problem(tmp_path, text) == expected


@pytest.mark.parametrize(("text", "kind"), [("", "NoneType"), ("- 1", "list"), ("bits", "str")])
def test_a_file_without_a_mapping_is_refused(tmp_path: Path, text: str, kind: str) -> None:
    with pytest.raises(QPCError, match=rf"quant\.yaml' must hold a mapping, got {kind}"):
        QuantConfig.from_yaml(written(tmp_path, text))


@pytest.mark.parametrize("content", [b"a: [1", b"\xff\xfe\x00", b"a: b: c"])
def test_a_file_that_is_not_yaml_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "quant.yaml"
    path.write_bytes(content)
    with pytest.raises(QPCError, match=r"^cannot read '.*quant\.yaml': [^\n]*$"):
        QuantConfig.from_yaml(path)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(QPCError, match=r"cannot read '.*nothing\.yaml': .*No such file"):
        QuantConfig.from_yaml(tmp_path / "nothing.yaml")


class Widest(MSE):
    """An observer of a user's own, with the settings of another."""


def test_an_observer_of_your_own_is_used_but_never_written_as_its_parent(tmp_path: Path) -> None:
    layer = LayerConfig(activation=ActivationConfig(observer=Widest()))
    assert type(layer.activation.observer) is Widest
    config = QuantConfig(overrides=(Override(op="conv2d", use=layer),))
    with pytest.raises(ConfigError, match="an observer of the class Widest cannot be written"):
        config.to_yaml(tmp_path / "config.yaml")
    with pytest.raises(ConfigError, match="an observer of the class Widest"):
        layer.model_dump(mode="json")  # as graphs are saved
    assert not (tmp_path / "config.yaml").exists()


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot write '.*missing.config\.yaml': No such file"):
        QuantConfig().to_yaml(tmp_path / "missing" / "config.yaml")


def test_few_bits_with_more_at_the_ends_are_one_call() -> None:
    config = QuantConfig.of_bits(4, 3, first_and_last=8)
    bits = {
        position: (found.weight.bits, found.activation.bits)
        for position in (None, "input", "before-output", "output")
        if (found := config.resolve(module="a", op="conv2d", position=position))
    }
    assert bits == {None: (4, 3), "input": (8, 3), "before-output": (4, 8), "output": (8, 8)}
    image = config.resolve(module="", op="input", position="input")
    assert image is not None
    assert image.activation.bits == 8
    assert QuantConfig.of_bits(4, 3).overrides == ()


def test_bits_that_no_grid_has_are_refused() -> None:
    with pytest.raises(ConfigError, match="bits"):
        QuantConfig.of_bits(9, 4)


# --- modes ----------------------------------------------------------------------------------------


def test_groups_are_for_weights_alone() -> None:
    with pytest.raises(
        ConfigError, match=r'groups of weights need mode="weight-only", not .static'
    ):
        LayerConfig(weight=WeightConfig(group=64))
    with pytest.raises(ConfigError, match="groups have scales for each channel: per_channel=True"):
        WeightConfig(group=64, per_channel=False)
    with pytest.raises(ConfigError, match="group: Input should be 32, 64 or 128, got 33"):
        WeightConfig(group=33)  # type: ignore[arg-type]  # what is tested


def test_safe_pairs_are_for_products_of_integers() -> None:
    with pytest.raises(ConfigError, match=r'of which mode="weight-only" has none: pairs="any"'):
        LayerConfig(mode="weight-only", weight=WeightConfig(pairs="safe"))
    with pytest.raises(ConfigError, match="pairs: Input should be 'any' or 'safe'"):
        WeightConfig(pairs="some")  # type: ignore[arg-type]  # what is tested
    assert LayerConfig(mode="dynamic", weight=WeightConfig(pairs="safe")).weight.safe_pairs


def test_pairs_of_fewer_bits_are_safe_by_themselves() -> None:
    found = [WeightConfig(bits=bits, pairs="safe").safe_pairs for bits in (7, 8)]
    assert found == [False, True]
    assert not WeightConfig().safe_pairs


@pytest.mark.parametrize(
    ("target", "pairs"),
    [
        ("x86-64-v3", "safe"),
        ("x86-64-sse4", "safe"),
        ("x86-64-avx512", "safe"),
        ("x86-64", "any"),
        ("x86-64-avx-vnni", "any"),
        ("aarch64", "any"),
    ],
)
def test_targets_without_vnni_want_safe_pairs(target: str, pairs: str) -> None:
    config = QuantConfig.for_target(target)
    assert config == QuantConfig.for_target(Target.parse(target))
    assert config.default == LayerConfig(weight=WeightConfig.model_validate({"pairs": pairs}))


def test_a_target_must_be_known() -> None:
    with pytest.raises(UnsupportedTargetError, match="x86-64-v5"):
        QuantConfig.for_target("x86-64-v5")


def test_safe_pairs_are_written_to_files(tmp_path: Path) -> None:
    config = QuantConfig.for_target("x86-64-v3")
    config.to_yaml(tmp_path / "config.yaml")
    assert QuantConfig.from_yaml(tmp_path / "config.yaml") == config
    (tmp_path / "config.yaml").write_text("default: {weight: {pairs: safe}}")
    assert QuantConfig.from_yaml(tmp_path / "config.yaml") == config


def test_a_mode_has_one_of_three_names() -> None:
    with pytest.raises(ConfigError, match="mode: Input should be 'static', 'dynamic' or"):
        LayerConfig(mode="weights")  # type: ignore[arg-type]  # what is tested


def test_modes_are_written_to_files(tmp_path: Path) -> None:
    config = QuantConfig(
        default=LayerConfig(mode="weight-only", weight=WeightConfig(bits=4, group=64)),
        overrides=(Override(module="head", use=LayerConfig(mode="dynamic")),),
    )
    config.to_yaml(tmp_path / "config.yaml")
    assert QuantConfig.from_yaml(tmp_path / "config.yaml") == config
    assert config.modes == {"weight-only", "dynamic"}
