from __future__ import annotations

import pytest

from tests.mutation.mutations import mutations


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("a < b", {"(a <= b)"}),
        ("a + b", {"(a - b)"}),
        ("a and b", {"(a or b)"}),
        ("not a", {"(a)"}),
        ("x = True", {"x = False"}),
        ("x = 3", {"x = 4"}),
        ("x = 0.5", {"x = 1.0"}),
        ("f(a, b, c)", {"(f(b, a, c))", "pass"}),
        ("a if b else c", {"(a if not b else c)"}),
        ("x += y", {"pass"}),
    ],
)
def test_every_kind_of_mistake_is_made(source: str, expected: set[str]) -> None:
    made = {m.applied(source) for m in mutations(source)}
    assert expected <= made
    assert all(m.parses(source) for m in mutations(source))


def test_conditions_are_negated_and_returns_emptied() -> None:
    source = "def f(a):\n    if a:\n        return a\n"
    changed = [m.diff(source) for m in mutations(source)]
    assert "-        return a\n+        return None" in changed
    assert any("+    if not a:" in text for text in changed)


@pytest.mark.parametrize(
    "source",
    [
        '"""A docstring, 1 < 2."""',
        "x: int | None",
        "assert a < b",
        "import a",
        'raise ValueError(f"{1 + 2}")',
        "@f(1)\ndef g(a: int | str) -> int | None: ...",
        "class A(B, name=1): ...",
        "x = f(a, a)",
        "x = torch.maximum(a, b)",
    ],
)
def test_what_no_test_can_be_about_is_left_alone(source: str) -> None:
    assert mutations(source) == []


def test_columns_are_counted_in_characters() -> None:
    source = 'x = "ä", 1'
    assert {m.applied(source) for m in mutations(source)} == {'x = "ä", 2'}


def test_the_diff_shows_the_lines_that_change() -> None:
    source = "a = 1\nb = a < 2\n"
    (comparison,) = [m for m in mutations(source) if m.kind == "comparison"]
    assert comparison.line == 2
    assert comparison.diff(source) == "-b = a < 2\n+b = (a <= 2)"
