from __future__ import annotations

import sys
from pathlib import Path

import pytest

from qpc.errors import ConfigError
from qpc.references import function_of, relative


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "helper_of_task.py").write_text("VALUE = 3\n")
    (tmp_path / "the_task.py").write_text(
        "import helper_of_task\n\ndef model():\n    return helper_of_task.VALUE\n\nseed = 4\n"
    )
    (tmp_path / "broken_task.py").write_text("import no_such_module_at_all\n")
    return tmp_path


def test_a_function_is_found_in_a_file_that_imports_its_neighbours(folder: Path) -> None:
    before = list(sys.path)
    assert function_of("the_task.py:model", folder, "model")() == 3
    assert function_of("the_task.py:model", folder, "model")() == 3
    assert sys.path == before


def test_a_function_is_found_in_a_module() -> None:
    assert function_of("json:dumps", Path(), "model")([1]) == "[1]"


@pytest.mark.parametrize(
    ("reference", "problem"),
    [
        ("model", r"model must be module:function or file\.py:function, got 'model'"),
        ("none.py:model", r"model: there is no file '.*none\.py'"),
        ("the_task.py:modle", "model: 'the_task.py' has nothing called 'modle'"),
        ("the_task.py:seed", "model: 'the_task.py:seed' is int, not a function"),
        ("no_such_module_at_all:f", "there is no module 'no_such_module_at_all'"),
    ],
)
def test_what_is_not_there_is_told(folder: Path, reference: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        function_of(reference, folder, "model")


def test_what_a_file_itself_lacks_comes_through(folder: Path) -> None:
    with pytest.raises(ModuleNotFoundError, match="no_such_module_at_all"):
        function_of("broken_task.py:model", folder, "model")
    with pytest.raises(ModuleNotFoundError, match="no_such_module_at_all"):
        function_of("broken_task:model", folder, "model")


def test_references_follow_a_recipe_to_another_folder() -> None:
    old, new = Path("/a/recipes"), Path("/a/runs/first")
    assert relative("task.py:model", old, new) == "../../recipes/task.py:model"
    assert relative("data.safetensors", old, new) == "../../recipes/data.safetensors"
    assert relative("package.module:model", old, new) == "package.module:model"
    assert relative("/data/images", old, new) == "/data/images"
