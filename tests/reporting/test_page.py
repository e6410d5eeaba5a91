"""What the page says, in a real browser where there is one."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html import unescape
from pathlib import Path
from typing import Any

import pytest

from qpc.reporting.page import page_of

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
browser = [
    pytest.mark.thorough,
    pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium to open a page in"),
]
PROBE = """<script>
const out = {}, click = (e) => e.dispatchEvent(new MouseEvent("click", {bubbles: true}));
const seen = () => all("#layers tbody tr").filter((row) => !row.hidden);
const column = (n) => seen().map((row) => row.cells[n].dataset.v);
const heads = all("#layers th button");
click(heads[4]); out.falling = column(4);
click(heads[4]); out.rising = column(4);
byId("filter").value = "linear_float";
byId("filter").dispatchEvent(new Event("input"));
out.filtered = column(0).length;
out.shown = all("#histograms figure").filter((e) => !e.hidden).length;
byId("figure").value = "macs"; byId("figure").dispatchEvent(new Event("change"));
out.coloured = all(".node.coloured").length;
const before = graph.getAttribute("viewBox"); click(byId("closer"));
out.zoomed = before !== graph.getAttribute("viewBox");
all(".node")[2].focus(); out.chosen = byId("chosen").textContent;
const paint = () => getComputedStyle(document.body).backgroundColor;
out.before = paint(); click(byId("theme")); out.after = paint();
out.wide = document.documentElement.scrollWidth <= innerWidth;
const named = (e) => e.textContent.trim() || e.ariaLabel || e.labels?.length;
out.nameless = all("button, input, select").filter((e) => !named(e)).length;
document.body.insertAdjacentHTML("beforeend", `<pre id="probe"></pre>`);
byId("probe").textContent = JSON.stringify(out);
</script>"""


def test_names_of_layers_cannot_leave_their_place(made: Any) -> None:
    page = page_of(made.report)
    assert "</script><b>&" not in page
    assert "&lt;/script&gt;&lt;b&gt;&amp;" in page


def test_nothing_is_read_from_elsewhere(made: Any) -> None:
    page = page_of(made.report)
    assert re.findall(r"(?:src|href)=\"(?!#|data:)", page) == []
    assert "http://" not in page
    assert "https://" not in page
    assert "url(" not in page


def test_the_card_says_before_and_after(made: Any) -> None:
    page = page_of(made.report)
    assert "<b>50.00%</b><span>float 75.00%</span>" in page
    assert "<b>35 us</b>" in page
    assert made.report.summary.after.fingerprint in page
    assert "bits: 8" in page


def test_what_is_not_there_has_no_heading(made: Any) -> None:
    bare = made.report.model_copy(update={"run": None, "histograms": (), "changes": ()})
    page = page_of(bare)
    assert "Compression run" not in page
    assert 'id="histograms"' not in page
    assert "What would gain most" not in page


@pytest.fixture(scope="module")
def probed(made: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the page does in a browser, narrow, and what it writes to the console."""
    file = tmp_path_factory.mktemp("page") / "page.html"
    file.write_text(page_of(made.report).replace("</body>", PROBE + "</body>"))
    done = _open(file)
    found = re.findall(r'<pre id="probe">([^<]+)</pre>', done.stdout)
    assert found, done.stderr
    complaints = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    return {**json.loads(unescape(found[-1])), "complaints": complaints}


def _open(file: Path) -> subprocess.CompletedProcess[str]:
    assert CHROMIUM is not None
    words = "--headless --no-sandbox --disable-gpu --enable-logging=stderr --window-size=500,900"
    command = [CHROMIUM, *words.split(), f"--user-data-dir={file.parent}/profile", "--dump-dom"]
    return subprocess.run(
        [*command, file.as_uri()], capture_output=True, text=True, timeout=110, check=True
    )


class TestInABrowser:
    pytestmark = browser

    def test_there_are_no_errors(self, probed: dict[str, Any]) -> None:
        assert probed["complaints"] == []

    def test_the_table_sorts_both_ways_with_empty_cells_last(self, probed: dict[str, Any]) -> None:
        falling = [int(v) for v in probed["falling"] if v]
        assert falling == sorted(falling, reverse=True)
        assert [int(v) for v in probed["rising"] if v] == falling[::-1]
        assert len(falling) == 3
        assert probed["rising"][:3] == [str(v) for v in falling[::-1]]

    def test_the_filter_narrows_table_and_histograms(self, probed: dict[str, Any]) -> None:
        assert probed["filtered"] == 1
        assert probed["shown"] == 1

    def test_the_graph_is_coloured_zoomed_and_asked(self, probed: dict[str, Any]) -> None:
        assert probed["coloured"] == 3
        assert probed["zoomed"]
        assert "conv2d" in probed["chosen"]

    def test_the_button_makes_it_dark(self, probed: dict[str, Any]) -> None:
        assert probed["before"] == "rgb(255, 255, 255)"
        assert probed["after"] == "rgb(20, 23, 27)"

    def test_a_narrow_page_does_not_scroll_sideways(self, probed: dict[str, Any]) -> None:
        assert probed["wide"]

    def test_everything_that_can_be_used_has_a_name(self, probed: dict[str, Any]) -> None:
        assert probed["nameless"] == 0
