"""Documents have one spelling and carry a hash of themselves; folders say what they are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from qpc import documents
from qpc.documents import COMPILED_MODEL, SAVED_GRAPH, Kind, check_seal, parse, seal, sha256
from qpc.errors import ArtifactError

DOCUMENT = {"format": "qpc-graph", "number": 1.5, "nodes": [{"name": "x"}, [1, None, True]]}
KIND = Kind("a thing", "thing.json", ("data",), "thing", 3, "load_thing", "make anew", "copy again")


def test_a_document_is_what_was_sealed_with_a_line_for_each_element() -> None:
    data = seal(DOCUMENT)
    document = parse(data, "it", "fix it")
    check_seal(document, data, "it", "fix it")
    assert {key: value for key, value in document.items() if key != "sha256"} == DOCUMENT
    assert data.decode().splitlines()[3:6] == ['"nodes": [', '{"name": "x"},', "[1, null, true]"]


def test_every_flipped_bit_is_noticed() -> None:
    data = seal(DOCUMENT)
    for bit in range(8 * len(data)):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises(ArtifactError, match="it is damaged") as error:
            check_seal(parse(bytes(flipped), "it", "fix it"), bytes(flipped), "it", "fix it")
        assert error.value.fix == "fix it"


def test_another_spelling_of_the_same_content_is_damage() -> None:
    for other in (json.dumps(json.loads(seal(DOCUMENT))).encode(), seal(DOCUMENT) + b" "):
        with pytest.raises(ArtifactError, match="it is damaged: it does not match its own hash"):
            check_seal(parse(other, "it", ""), other, "it", "")


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "is not JSON"),
        (b"\xff{}", "is not JSON .*utf-8"),
        (b"[1]", "holds no JSON object"),
        (b'{"a": NaN}', "is not JSON .NaN is no number"),
        (b'{"a": -Infinity}', "-Infinity is no number"),
        (b'{"a": 1, "a": 2}', "two entries have one name"),
        (b'{"a": ' + b"9" * 5000 + b"}", "is not JSON .*digits"),
        (b'{"a": ' + b"[" * 5000 + b"]" * 5000 + b"}", "is nested too deeply"),
        (b'{"a": [' + b"[]," * 250_001 + b"]}", "is too large"),
    ],
)
def test_what_has_no_plain_meaning_is_damage(data: bytes, why: str) -> None:
    with pytest.raises(ArtifactError, match=f"it is damaged: it {why}|it is damaged.*{why}"):
        parse(data, "it", "fix it")


@pytest.mark.parametrize("number", [b"1e999", b"1E0", b"-0.00"])
def test_numbers_have_one_spelling(number: bytes) -> None:
    data = b'{"a": ' + number + b"}"
    with pytest.raises(ArtifactError, match="does not match its own hash"):
        check_seal(parse(data, "it", ""), data, "it", "")


# --- folders --------------------------------------------------------------------------------------


def files(**changes: object) -> dict[str, bytes]:
    about = {"format": "thing", "format_version": 3, "qpc": "0.1", "files": described(b"data")}
    return {"thing.json": seal(about | changes), "data": b"data"}


def described(data: bytes) -> dict[str, dict[str, object]]:
    return documents.described({"data": data})


def test_a_folder_is_read_as_it_was_written(tmp_path: Path) -> None:
    for path in (tmp_path / "thing", str(tmp_path / "thing")):
        documents.write(path, files(), KIND)
        assert documents.read(path, KIND) == files()
    document = documents.verified(files(), KIND, "it")
    assert document["files"] == {"data": {"sha256": sha256(b"data"), "bytes": 4}}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "thing.json of it is damaged: it is not JSON"),
        (files(format=1), "it is not a thing: thing.json is about something else"),
        (
            files(format_version=2),
            "saved by QPC 0.1 in version 2 of the format, .* reads version 3",
        ),
        (files(format_version=2, qpc=1), "it was saved by another version of QPC"),
        (files(files={}), "thing.json of it is damaged: it names other files"),
        (files(files=described(b"x")), "data of it is damaged: it has 4 bytes, not 1"),
        (files(files=described(b"dato")), "data of it is damaged: it does not match its hash"),
        (files(files={"data": 1}), "data of it is damaged: it has 4 bytes, not None"),
        ({"thing.json": files()["thing.json"]}, "data of it is damaged: it is missing"),
    ],
)
def test_what_is_not_what_was_written_is_named(content: dict[str, bytes], message: str) -> None:
    with pytest.raises(ArtifactError, match=message):
        documents.verified(content, KIND, "it")


def test_a_file_that_is_larger_than_it_was_is_not_read(tmp_path: Path) -> None:
    documents.write(tmp_path / "thing", files(), KIND)
    (tmp_path / "thing" / "data").write_bytes(b"data, and more")
    with pytest.raises(ArtifactError, match="data' has 14 bytes, at most 4 are expected"):
        documents.read(tmp_path / "thing", KIND)


def test_the_other_kind_of_folder_is_called_by_its_name(tmp_path: Path) -> None:
    for found, wanted in ((SAVED_GRAPH, COMPILED_MODEL), (COMPILED_MODEL, SAVED_GRAPH)):
        folder = tmp_path / found.load
        documents.write(folder, {found.document: seal({"format": found.mark})}, found)
        with pytest.raises(ArtifactError, match=f"is {found.name}, not {wanted.name}") as error:
            documents.read(folder, wanted)
        assert error.value.fix == f"use {found.load}"


def _site(folder: Path) -> None:
    (folder / "thing.json").write_text('{"name": "a web page"}')


def _damaged(folder: Path) -> None:
    (folder / "thing.json").write_text("{")


def _folder_of_that_name(folder: Path) -> None:
    documents.write(folder, files(), KIND)
    (folder / "data").unlink()
    (folder / "data").mkdir()


def _notes(folder: Path) -> None:
    documents.write(folder, files(), KIND)
    (folder / "notes.txt").touch()


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda folder: None, "it is not a thing: it has no thing.json"),
        (_site, "it is not a thing: thing.json is about something else"),
        (_damaged, "it is not a thing: thing.json is damaged"),
        (_folder_of_that_name, "it holds 'data', which is no part of a thing"),
        (_notes, "it holds 'notes.txt', which is no part of a thing"),
    ],
)
def test_only_folders_of_the_kind_with_nothing_else_are_replaced(
    tmp_path: Path, make: object, why: str
) -> None:
    folder = tmp_path / "thing"
    if make is not _notes and make is not _folder_of_that_name:
        folder.mkdir()
    assert callable(make)
    make(folder)
    before = sorted(folder.iterdir())
    with pytest.raises(ArtifactError, match=f"thing' exists and cannot be replaced: {why}"):
        documents.write(folder, files(), KIND)
    assert sorted(folder.iterdir()) == before


@pytest.mark.parametrize("path", [None, 3, object()], ids=["none", "number", "object"])
def test_what_is_no_path_is_one_error(path: Any) -> None:
    with pytest.raises(ArtifactError, match=r"a path is a str or a pathlib\.Path, got "):
        documents.read(path, SAVED_GRAPH)
    with pytest.raises(ArtifactError, match=r"a path is a str or a pathlib\.Path, got "):
        documents.write(path, {}, SAVED_GRAPH)


def test_a_graph_of_the_first_format_may_be_replaced(tmp_path: Path) -> None:
    for mark, free in ((1, True), (True, False), (2, False), ("qpc-graph", True)):
        (tmp_path / "graph.json").write_text(json.dumps({"format": mark}))
        assert (documents.why_not(tmp_path, SAVED_GRAPH) is None) is free
