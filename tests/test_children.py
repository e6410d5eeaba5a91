from __future__ import annotations

import os
import signal
import sys
import threading
from pathlib import Path

import pytest

from qpc import children
from qpc.children import Ended, import_folders, run_module


def module(folder: Path, monkeypatch: pytest.MonkeyPatch, code: str) -> str:
    """The name of a module with this code, which children can import."""
    packages = folder / "packages"
    packages.mkdir()
    (packages / "qpc_child_of_a_test.py").write_text(code)
    monkeypatch.syspath_prepend(packages)
    return "qpc_child_of_a_test"


def test_a_child_gets_its_arguments_and_is_heard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = "import sys; print(sys.argv[1:]); print('sorry', file=sys.stderr); sys.exit(3)"
    ended = run_module(module(tmp_path, monkeypatch, code), "a", "b c")
    assert ended == Ended(3, "['a', 'b c']\n", "sorry\n")


def test_last_words_say_why_a_child_failed() -> None:
    assert Ended(-11).last_words == "crashed with SIGSEGV"
    assert Ended(1, "", "Traceback\nImportError: no tirx\n").last_words == "ImportError: no tirx"
    assert Ended(3).last_words == "exit status 3"
    assert Ended(None).last_words == "its time was over"


def test_a_child_whose_time_is_over_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = "import signal; signal.pause()"
    assert run_module(module(tmp_path, monkeypatch, code), timeout=0.2) == Ended(None)


def test_bytes_that_are_no_text_are_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = "import sys; sys.stderr.buffer.write(b'\\xff\\n'); sys.exit(1)"
    assert run_module(module(tmp_path, monkeypatch, code)).last_words == "\ufffd"


def test_nothing_is_imported_from_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = module(tmp_path, monkeypatch, "import numpy; import qpc; print('fine')")
    (tmp_path / "numpy.py").write_text("raise SystemExit('the wrong numpy')")
    monkeypatch.chdir(tmp_path)
    for entry in ("", ".", str(tmp_path)):
        with monkeypatch.context() as patch:
            patch.setattr(sys, "path", [entry, *sys.path])
            assert run_module(name) == Ended(0, "fine\n")


def test_qpc_is_found_wherever_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = str(Path(children.__file__).parents[1])
    monkeypatch.setattr(sys, "path", ["", root, "relative"])
    monkeypatch.chdir(tmp_path)
    assert import_folders() == [root, str(tmp_path / "relative")]
    monkeypatch.chdir(root)
    assert import_folders() == [root, str(Path(root, "relative"))]


def test_temporary_files_go_where_the_caller_wants_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = module(tmp_path, monkeypatch, "import tempfile; print(tempfile.gettempdir())")
    assert run_module(name, temporary=tmp_path).output.strip() == str(tmp_path)


def test_an_interrupt_ends_the_child_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    code = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.SIG_IGN)
open(sys.argv[1], "w").write(str(os.getpid()))
signal.pause()
"""
    born: list[int] = []

    def interrupt() -> None:
        born.append(int(pipe.read_text()))  # once the child runs
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        run_module(module(tmp_path, monkeypatch, code), str(pipe))
    thread.join()
    with pytest.raises(ProcessLookupError):
        os.kill(born[0], 0)
