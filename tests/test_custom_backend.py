"""A package outside of QPC brings a backend, with public names alone."""

from __future__ import annotations

import importlib
import json
import sys
from importlib import metadata
from pathlib import Path

import pytest
import torch
from torch import nn

import qpc
from qpc import plugins
from qpc.backends import registry
from qpc.backends.reference.backend import BACKEND as REFERENCE
from qpc.errors import ArtifactError, BackendError, ConfigError
from tests.public_names import private_names

DATA = Path(__file__).parent / "data"
X = torch.randn(2, 3, generator=torch.Generator().manual_seed(0))


@pytest.fixture(autouse=True)
def forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Backends that a test makes known are forgotten after it."""
    monkeypatch.setattr(registry, "_registered", {})


@pytest.fixture
def sample(monkeypatch: pytest.MonkeyPatch) -> None:
    """The package `sample-backend` is installed."""
    monkeypatch.syspath_prepend(DATA / "sample_backend")


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> None:
    """The package `broken-backends` is installed."""
    monkeypatch.syspath_prepend(DATA / "broken_backends")


def graph() -> torch.fx.GraphModule:
    return qpc.trace(nn.Sequential(nn.Linear(3, 4), nn.Dropout()), X)


def test_the_package_uses_public_names_alone() -> None:
    assert private_names(DATA / "sample_backend") == set()


@pytest.mark.usefixtures("sample")
def test_the_target_or_an_argument_names_it() -> None:
    gm = graph()
    for model in (
        qpc.compile(gm, "eager", batch_sizes=(2,)),
        qpc.compile(gm, backend="eager", batch_sizes=(2,)),
    ):
        assert type(model).__name__ == "EagerModel"
        assert torch.equal(model(X), gm(X))


@pytest.mark.usefixtures("sample")
def test_its_own_passes_prepare_a_copy_of_the_graph() -> None:
    gm = graph()
    before = qpc.format_graph(gm)
    compiled = qpc.compile(gm, backend="eager", batch_sizes=(2,))
    assert "dropout" in before
    assert "dropout" not in qpc.format_graph(compiled.graph)  # type: ignore[attr-defined]  # its own
    assert qpc.format_graph(gm) == before


@pytest.mark.usefixtures("sample")
def test_a_model_that_it_saved_is_opened_by_it(tmp_path: Path) -> None:
    compiled = qpc.compile(graph(), backend="eager", batch_sizes=(2,))
    compiled.save(tmp_path)  # type: ignore[attr-defined]  # not every backend saves models
    again = qpc.load(tmp_path)
    assert type(again) is type(compiled)
    assert torch.equal(again(X), compiled(X))


def test_a_model_of_a_backend_that_is_not_there_names_it(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text(json.dumps({"backend": "elsewhere"}), encoding="utf-8")
    message = "was compiled by the backend 'elsewhere', which is not there"
    with pytest.raises(ArtifactError, match=message):
        qpc.load(tmp_path)


def test_models_of_backends_that_save_none_are_refused(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text(json.dumps({"backend": "reference"}), encoding="utf-8")
    with pytest.raises(ArtifactError, match="the reference backend saves no models"):
        qpc.load(tmp_path)


@pytest.mark.parametrize("manifest", [None, "[", "{}", '{"backend": 3}'])
def test_a_manifest_that_names_none_is_read_as_one_of_qpcs_own(
    tmp_path: Path, manifest: str | None
) -> None:
    pytest.importorskip("tvm")
    if manifest is not None:
        (tmp_path / "manifest.json").write_text(manifest, encoding="utf-8")
    with pytest.raises(ArtifactError, match=r"is not a compiled model|is damaged"):
        qpc.load(tmp_path)


def test_a_backend_of_nobody_is_refused_with_those_that_are_there() -> None:
    with pytest.raises(BackendError, match="there is no backend 'nope'") as caught:
        qpc.compile(graph(), backend="nope")
    assert "use one of reference, tvm" in str(caught.value.fix)


@pytest.mark.usefixtures("sample")
def test_metadata_is_read_only_for_names_that_qpc_does_not_know(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[object] = []
    real = metadata.entry_points

    def counted(**selected: str) -> object:
        asked.append(selected)
        return real(**selected)

    monkeypatch.setattr(plugins, "entry_points", counted)
    qpc.compile(graph(), "reference", batch_sizes=(2,))
    assert asked == []
    qpc.compile(graph(), "eager", batch_sizes=(2,))
    qpc.compile(graph(), "eager", batch_sizes=(2,))
    assert asked == [{"group": "qpc.backends", "name": "eager"}]


# --- packages that are broken ---------------------------------------------------------------------


@pytest.mark.usefixtures("broken", "sample")
def test_a_broken_package_disturbs_nobody_who_does_not_ask_for_it() -> None:
    gm = graph()
    assert torch.equal(qpc.compile(gm, "eager", batch_sizes=(2,))(X), gm(X))
    assert {"eager", "raises", "reference", "tvm"} <= set(registry.known_backends())
    assert "broken_backends" not in sys.modules


@pytest.mark.usefixtures("broken")
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("raises", "cannot be loaded: AttributeError: .*NOTHING"),
        ("exits", "cannot be loaded: SystemExit: no"),
        ("no-backend", "must be an object with the members of qpc.Backend, got int"),
        ("a-class", "must be an object with the members of qpc.Backend, got the class Half"),
        ("half", "must be an object with the members of qpc.Backend, got Half"),
        ("renamed", "calls itself 'another'"),
    ],
)
def test_who_asks_for_it_is_told_which_package_it_is(name: str, message: str) -> None:
    start = f"the backend {name!r} of the package 'broken-backends' "
    with pytest.raises(BackendError, match=start + message):
        qpc.compile(graph(), backend=name)


@pytest.mark.usefixtures("sample")
def test_two_packages_with_one_name_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    about = tmp_path / "second-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: second\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[qpc.backends]\neager = second:BACKEND\n")
    monkeypatch.syspath_prepend(tmp_path)
    message = "several backends 'eager': of 'sample-backend' and 'second'"
    with pytest.raises(BackendError, match=message):
        qpc.compile(graph(), backend="eager")


# --- backends without a package -------------------------------------------------------------------


def test_a_backend_may_be_passed_or_registered(
    sample: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = importlib.import_module("sample_backend")
    monkeypatch.setattr(plugins, "entry_points", lambda **_: [])
    gm = graph()
    assert torch.equal(qpc.compile(gm, backend=module.BACKEND, batch_sizes=(2,))(X), gm(X))
    assert qpc.register_backend(module.BACKEND) is module.BACKEND
    assert torch.equal(qpc.compile(gm, "eager", batch_sizes=(2,))(X), gm(X))
    qpc.register_backend(module.BACKEND)  # the same once more is no mistake
    with pytest.raises(ConfigError, match="there is a backend 'eager' already"):
        qpc.register_backend(module.EagerBackend())


def test_qpcs_own_backends_cannot_be_replaced() -> None:
    with pytest.raises(ConfigError, match="there is a backend 'reference' already"):
        qpc.register_backend(REFERENCE)


def test_what_is_no_backend_is_not_registered() -> None:
    with pytest.raises(ConfigError, match=r"a backend must be an object with .* int"):
        qpc.register_backend(3)  # type: ignore[arg-type]  # the point
    with pytest.raises(ConfigError, match="a backend needs a name in kebab-case, got 'My Own'"):
        qpc.register_backend(type(REFERENCE)(name="My Own"))


@pytest.mark.usefixtures("sample")
def test_facts_are_checked_for_it() -> None:
    module = importlib.import_module("sample_backend")
    never = qpc.Fact("small", lambda gm: "it is large", fix="make it smaller")
    strict = module.EagerBackend(requires=frozenset({never}))
    with pytest.raises(BackendError, match="the graph is not small: it is large") as caught:
        qpc.compile(graph(), backend=strict)
    assert caught.value.fix == "make it smaller"
