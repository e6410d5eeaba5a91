"""The site's generated pages hold all that they must, and links lead somewhere."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest
import yaml

import qpc
import qpc.passes
from qpc import errors
from qpc.documents import CHECKPOINT, COMPILED_MODEL, SAVED_GRAPH
from qpc.homes import all_homes
from qpc.runtime.abi import ABI
from qpc.storage.schema import Document, GridEntry, TensorEntry
from qpc.yaml_form import FAMILIES, PASSES

ROOT = Path(__file__).parents[2]
HOOKS = ROOT / "docs" / "hooks"
HEADING = re.compile(r"^#+ (.+?)$", re.MULTILINE)
LINK = re.compile(r"\]\(([^)#:\s]*)#([^)]+)\)")


@pytest.fixture(scope="module")
def made() -> ModuleType:
    pytest.importorskip("griffe", reason="see requirements-docs.txt")
    spec = importlib.util.spec_from_file_location("qpc_site_pages", HOOKS / "pages.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    sys.path.remove(str(HOOKS))
    return module


@pytest.fixture(scope="module")
def generated(made: ModuleType) -> dict[str, str]:
    pages: dict[str, str] = made.pages()
    return pages


def written() -> dict[str, str]:
    """The pages that stand in the folder."""
    folder = ROOT / "docs"
    return {
        path.relative_to(folder).as_posix(): path.read_text(encoding="utf-8")
        for path in folder.rglob("*.md")
    }


def test_every_public_name_has_a_page(generated: dict[str, str], made: ModuleType) -> None:
    for name in set(qpc.__all__) - {"__version__"}:
        assert f"::: {made.home_of(name)}" in generated[f"reference/{name}.md"]
        assert f"[`qpc.{name}`]({name}.md)" in generated["reference/index.md"]
    for module in made.MODULES:
        importlib.import_module(module)


def test_every_pass_is_in_the_catalogue_with_its_facts(generated: dict[str, str]) -> None:
    page = generated["passes.md"]
    for name in qpc.passes.__all__:
        cls = getattr(qpc.passes, name)
        section = page.partition(f"\n## {cls.name}\n")[2].partition("\n## ")[0]
        assert f"`qpc.passes.{name}`" in section
        for fact in cls.requires | cls.establishes | cls.invalidates:
            assert f"`{fact.name}`" in section


def test_every_operator_is_in_the_catalogue(generated: dict[str, str]) -> None:
    page = generated["operators.md"]
    specs = [spec for home in all_homes() for spec in home.SPECS]
    missing = [s for s in specs if f"| `{str(s.target).removesuffix('.default')}` |" not in page]
    assert missing == []
    assert "| `aten.conv2d` | compute | yes | yes |  |" in page
    assert "| `qpc.add` | integer | is one |  | yes |" in page


def test_every_name_in_texts_is_in_its_catalogue(generated: dict[str, str]) -> None:
    for family in FAMILIES:
        if family is not PASSES:
            section = generated["names.md"].partition(f"## {family.name.capitalize()}\n")[2]
            assert all(f"| `{name}` |" in section for name in family.names())


def test_arguments_in_docstrings_become_lists(made: ModuleType) -> None:
    text = "What it is.\n\na: the first\nwhich goes on.\nb, c: two more\n\nRaises E: never."
    assert made.listed(text) == (
        "What it is.\n\n\n- `a`: the first\n    which goes on.\n- `b`, `c`: two more\n\n"
        "Raises E: never."
    )


def test_every_exception_has_a_section_that_says_what_to_do() -> None:
    headings = HEADING.findall(written()["errors.md"])
    classes = [
        name
        for name, value in vars(errors).items()
        if isinstance(value, type) and value.__module__ == errors.__name__
    ]
    assert [name for name in classes if name not in headings] == []
    assert [each for each in headings if each.endswith("Error") and each not in classes] == []


def test_the_page_on_formats_names_the_files_and_versions_that_are_written() -> None:
    page = written()["formats.md"]
    for kind in (SAVED_GRAPH, COMPILED_MODEL, CHECKPOINT):
        (line,) = [line for line in page.splitlines() if f"| `{kind.mark}` {kind.version}" in line]
        assert all(f"`{name}`" in line for name in (kind.document, *kind.files))
    assert f"`{COMPILED_MODEL.mark}` {COMPILED_MODEL.version}, ABI {ABI} |" in page
    for entry in (*TensorEntry.model_fields, *Document.model_fields, *GridEntry.model_fields):
        assert f"`{entry}`" in page


def test_every_written_page_is_in_the_navigation_once(generated: dict[str, str]) -> None:
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    listed = re.findall(r": (\S+\.md)$", text, re.MULTILINE)
    assert len(set(listed)) == len(listed)
    assert set(written()) <= set(listed) <= set(written()) | set(generated)
    assert yaml.safe_load(text)["strict"] is True


def test_links_to_sections_lead_somewhere(generated: dict[str, str]) -> None:
    pages = {**generated, **written()}
    broken = []
    for page, text in pages.items():
        for target, anchor in LINK.findall(text):
            place = (Path(page).parent / target).as_posix() if target else page
            parts: list[str] = []
            for part in Path(place).parts:
                parts = parts[:-1] if part == ".." else [*parts, part]
            found = pages.get("/".join(parts), "")
            if anchor not in [slug(heading) for heading in HEADING.findall(found)]:
                broken.append(f"{page}: {target}#{anchor}")
    assert broken == []


def slug(heading: str) -> str:
    """How mkdocs names a section."""
    plain = re.sub(r"[`*]|\[([^\]]*)\]\([^)]*\)", r"\1", heading)
    return re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", plain).strip().lower())
