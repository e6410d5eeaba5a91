"""A manifest that tells another story than the library is refused, hashes or not."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

pytest.importorskip("tvm_ffi", reason="Apache TVM is not installed")

from qpc.backends import tvm
from qpc.backends.tvm.runtime import artifact
from qpc.errors import ArtifactError
from qpc.runtime.artifact import decode
from qpc.runtime.manifest import interface
from qpc.runtime.seal import sealed
from tests.forging import Edit, forged
from tests.generators import IntegerGraph

pytestmark = pytest.mark.tvm


@pytest.fixture(scope="module")
def content() -> dict[str, bytes]:
    g = IntegerGraph()
    q = g.conv2d(g.quantize(g.input(3, 6, 6)), 5, padding=(1, 1))
    compiled = tvm.compile_graph(g.module(g.linear(g.mean(q, (2, 3)), 4), q), batch_sizes=(1, 3))
    return artifact.encode(compiled._parts)


def entry(document: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = document["entries"]["1"]
    return found


def signature(**changes: object) -> Edit:
    return lambda document: document["signature"].update(changes)


def inputs(document: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = document["signature"]["inputs"]
    return found


def rename_batch(name: str) -> Edit:
    def edit(document: dict[str, Any]) -> None:
        for part in (inputs(document), document["entries"]):
            part[name] = part.pop("1")

    return edit


LIED = "kernels.so was made for other inputs, outputs, weights or memory"
CASES: dict[str, tuple[Edit, str]] = {
    "an entry point that is not there": (lambda d: entry(d).update(name="system"), LIED),
    "a smaller arena": (lambda d: entry(d).update(arena=64), LIED),
    "a huge arena": (lambda d: entry(d).update(arena=2**39), LIED),
    "other weights": (lambda d: entry(d)["weights"].reverse(), LIED),
    "weights that are not there": (lambda d: entry(d).update(weights=["none"]), LIED),
    "other inputs": (lambda d: inputs(d)["1"][0].update(shape=[1, 3, 99, 99]), LIED),
    "other outputs": (lambda d: entry(d)["outputs"][0].update(dtype="float64"), LIED),
    "fewer steps": (lambda d: entry(d).update(steps=1), LIED),
    "more threads": (lambda d: d.update(threads=64), LIED),
    "exchanged outputs": (signature(outputs=[1, 0]), LIED),
    "a negative size": (
        lambda d: inputs(d)["1"][0].update(shape=[-1]),
        "must be a whole number from 0",
    ),
    "a negative arena": (lambda d: entry(d).update(arena=-64), "a whole number from 0"),
    "a truth value as a number": (
        lambda d: d.update(threads=True),
        "threads: it must be a whole",
    ),
    "no threads": (lambda d: d.update(threads=0), "a whole number from 1 to 4096, got 0"),
    "no dtype": (lambda d: entry(d)["outputs"][0].update(dtype="Tensor"), "no dtype 'Tensor'"),
    "no batch size": (rename_batch("01"), "'01' is no batch size"),
    "a word as batch size": (rename_batch("one"), "'one' is no batch size"),
    "a huge batch size": (rename_batch("9" * 5000), "is no batch size"),
    "a batch size less": (lambda d: inputs(d).pop("3"), "are of different batch sizes"),
    "two equal batch sizes": (
        lambda d: inputs(d).update({"1": inputs(d)["3"]}),
        "two batch sizes have the same inputs",
    ),
    "inputs without names": (signature(names=[]), "not every input has a name and a type"),
    "outputs less": (lambda d: entry(d)["outputs"].pop(), "different numbers of outputs"),
    "an output that is not there": (signature(outputs=[0, 2]), "outputs are not nested like this"),
    "a word as output": (signature(outputs="all"), "outputs are not nested like this"),
    "two kinds of outputs": (signature(outputs={"list": [0], "dict": {}}), "are not nested like"),
    "deep outputs": (signature(outputs=[[[[[[[[[[[[[[[[[[0]]]]]]]]]]]]]]]]]]), "nested too deeply"),
    "no object as entry": (
        lambda d: d["entries"].update({"1": []}),
        "entries.1: it must be an",
    ),
    "no list of names": (signature(names="x"), "signature.names: it must be a list, got 'x'"),
    "a number as name": (signature(names=[7]), "signature.names[0]: it must be a text, got 7"),
    "no entry points": (lambda d: d.update(entries={}), "entries: at least one batch size"),
    "nothing": (lambda d: d.pop("signature"), "signature: it must be an object, got nothing"),
    "many axes": (lambda d: inputs(d)["1"][0].update(shape=[1] * 65), "at most 64 axes"),
    "a target without a triple": (lambda d: d["target"].pop("triple"), "target: "),
    "a target of lists": (lambda d: d["target"].update(isa=[]), "isa of a target must be a name"),
    "a target of objects": (lambda d: d["target"].update(isa={}), "target: "),
    "too many places": (lambda d: d.update(places={"none": 36}), "places: there is no 'none'"),
    "places of other types": (
        lambda d: d.update(places=dict.fromkeys(entry(d)["weights"], 1)),
        "not int8",
    ),
    "other places": (lambda d: d.update(places={"none": 3}), "is damaged"),
}


@pytest.mark.parametrize("case", CASES)
def test_a_forged_manifest_is_refused(content: dict[str, bytes], case: str) -> None:
    edit, message = CASES[case]
    changed = forged(content, "manifest.json", edit)
    with pytest.raises(ArtifactError, match=re.escape(message)):
        decode(changed, "it")


def test_another_library_and_other_weights_are_refused(content: dict[str, bytes]) -> None:
    assert decode(content, "it").manifest.threads == 1
    data = bytearray(content["kernels.so"])
    data[len(data) // 3] ^= 1
    changed = forged(content | {"kernels.so": bytes(data)}, "manifest.json", lambda _: None)
    with pytest.raises(ArtifactError, match=LIED):
        decode(changed, "it")
    for name, found in (("kernels.so", LIED), ("weights.safetensors", "it has no header")):
        changed = forged(content | {name: b""}, "manifest.json", lambda _: None)
        with pytest.raises(ArtifactError, match=found):
            decode(changed, "it")


def test_weights_that_are_named_must_be_there(content: dict[str, bytes]) -> None:
    """A library may be sealed again, by whoever can change a model."""

    def rename(document: dict[str, Any]) -> None:
        entry(document)["weights"][0] = "w_gone"

    changed = forged(content, "manifest.json", rename)
    weights = decode(content, "it").weights
    library = sealed(
        content["kernels.so"], interface(json.loads(changed["manifest.json"]), weights)
    )
    changed = forged(changed | {"kernels.so": library}, "manifest.json", lambda _: None)
    with pytest.raises(ArtifactError, match="it names weights that are not there: w_gone"):
        decode(changed, "it")
