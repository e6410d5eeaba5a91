from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from tests.code_blocks import Block, blocks_of, run_page

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "docs").rglob("*.md"))
GENERATED = {"passes.md", "operators.md", "names.md"}
"""Pages of the site that docs/hooks/pages.py makes."""
LINK = re.compile(r"\]\(([^)#]+)(?:#[^)]*)?\)")


@pytest.mark.every(6)
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_the_code_of_every_page_runs_and_prints_what_it_says(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run_page(page)


@pytest.mark.parametrize(
    "page", [*PAGES, ROOT / "README.md"], ids=lambda page: page.relative_to(ROOT).as_posix()
)
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    links = LINK.findall(page.read_text(encoding="utf-8"))
    targets = [link for link in links if "://" not in link]
    missing = [link for link in targets if not (page.parent / link).exists()]
    assert [link for link in missing if Path(link).name not in GENERATED] == []


def modules_on_disk() -> set[str]:
    """All modules, but for `__init__.py` files that only import."""
    found = set()
    for folder in ("qpc", "passes", "backends"):
        for path in (ROOT / folder).rglob("*.py"):  # does not follow links
            name = path.relative_to(ROOT).as_posix()
            if path.name != "__init__.py" or defines_something(path):
                found.add(name)
    return found


def defines_something(path: Path) -> bool:
    body = ast.parse(path.read_text(encoding="utf-8")).body
    return any(isinstance(node, ast.FunctionDef | ast.ClassDef) for node in body)


def test_every_module_is_in_the_list_of_where_things_are_once() -> None:
    text = (ROOT / "docs" / "where-things-are.md").read_text(encoding="utf-8")
    listed = re.findall(r"^- `([^`]+\.py)`: .+", text, re.MULTILINE)
    assert sorted(modules_on_disk() - set(listed)) == [], "these modules need a line"
    assert sorted(set(listed) - modules_on_disk()) == [], "these modules are gone"
    assert len(listed) == len(set(listed))


def test_folders_in_the_list_of_where_things_are_exist() -> None:
    text = (ROOT / "docs" / "where-things-are.md").read_text(encoding="utf-8")
    folders = re.findall(r"^- `([^`]+)/`: .+", text, re.MULTILINE)
    assert "examples" in folders
    assert [name for name in folders if not (ROOT / name).is_dir()] == []


def test_a_page_s_blocks_are_found_with_their_lines() -> None:
    page = "# Title\n\n```python\nx = 1\n\ny = 2\n```\n\n```text\n3\n```\n"
    assert blocks_of(page) == [Block("python", 4, "x = 1\n\ny = 2"), Block("text", 10, "3")]
    with pytest.raises(ValueError, match="the block at line 2 does not end"):
        blocks_of("```python\nx = 1\n")


def test_a_page_whose_code_prints_something_else_is_wrong(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("```python\nprint(1 + 1)\n```\n\n```text\n2\n```\n", encoding="utf-8")
    assert run_page(page) == 1
    page.write_text("```python\nprint(1 + 1)\n```\n\n```text\n3\n```\n", encoding="utf-8")
    with pytest.raises(AssertionError, match=r"page\.md, line 2: the block printed\n2"):
        run_page(page)
