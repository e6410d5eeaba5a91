"""Forged folders: documents changed on purpose and sealed again, tensors of other shapes."""

from __future__ import annotations

import functools
import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load, save

from qpc import documents
from qpc.documents import Kind

MARK = "OWNED"
"""What source that came from a file would contain, and files that it would write."""
_CODE = f"__import__('os').system('touch {MARK}')"

Place = tuple[Any, Any]
"""A container and a key or index in it."""


def forge(rng: random.Random, folder: Path, others: Sequence[Path], kind: Kind) -> str:
    """Change the document of a folder, sometimes its tensors; returns what was done."""
    document = json.loads((folder / kind.document).read_bytes())
    done = []
    if rng.random() < 0.2:
        done.append(_forge_tensors(rng, folder / kind.files[0]))
    for _ in range(rng.choice((1, 1, 2, 3))):
        edit = rng.choice(_GRAPH_EDITS if _is_graph(document) and rng.random() < 0.6 else _EDITS)
        done.append(edit(rng, document))
    if rng.random() < 0.95:
        document["files"] = documents.described(
            {name: (folder / name).read_bytes() for name in kind.files}
        )
    document.pop("sha256", None)
    try:
        (folder / kind.document).write_bytes(documents.seal(document))
    except (ValueError, RecursionError) as e:
        done.append(f"not sealed: {e}")
        (folder / kind.document).write_text(str(document))
    return ", ".join(done)


def forge_document(rng: random.Random, document: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """Change a JSON document that bears no hash; what it is now, and what was done."""
    edits = range(rng.choice((1, 1, 2, 3)))
    done = [rng.choice(_EDITS)(rng, document) for _ in edits if document]  # which one may empty
    return document, ", ".join(done)


# --- any document ---------------------------------------------------------------------------------


def _replace(rng: random.Random, document: dict[str, Any]) -> str:
    owner, key = _place(rng, document)
    owner[key] = _nasty(rng)
    return f"{key} = {str(owner[key])[:60]}"


def _vary(rng: random.Random, document: dict[str, Any]) -> str:
    owner, key = _place(rng, document)
    owner[key] = _varied(rng, owner[key])
    return f"{key} ~ {str(owner[key])[:60]}"


def _delete(rng: random.Random, document: dict[str, Any]) -> str:
    owner, key = _place(rng, document)
    del owner[key]
    return f"without {key}"


def _copy(rng: random.Random, document: dict[str, Any]) -> str:
    (source, old), (owner, key) = _place(rng, document), _place(rng, document)
    owner[key] = json.loads(json.dumps(source[old]))
    return f"{key} = that of {old}"


def _add(rng: random.Random, document: dict[str, Any]) -> str:
    owner, _ = _place(rng, document)
    value = _nasty(rng)
    if isinstance(owner, list):
        owner.insert(rng.randrange(len(owner) + 1), value)
    else:
        owner[str(rng.choice(_WORDS))] = value
    return f"and {str(value)[:60]}"


def _shuffle(rng: random.Random, document: dict[str, Any]) -> str:
    owner, key = _place(rng, document)
    if isinstance(owner, list):
        rng.shuffle(owner)
    return f"shuffled around {key}"


_EDITS: tuple[Callable[[random.Random, dict[str, Any]], str], ...] = (
    _replace,
    _replace,
    _vary,
    _vary,
    _delete,
    _copy,
    _add,
    _shuffle,
)


def _place(rng: random.Random, document: dict[str, Any]) -> Place:
    """A place in the document; deep ones are as likely as others."""
    owner: Any = document
    while True:
        keys = list(owner) if isinstance(owner, dict) else range(len(owner))
        key = rng.choice(keys)
        value = owner[key]
        if not isinstance(value, dict | list) or not value or rng.random() < 0.15:
            return owner, key
        owner = value


def _varied(rng: random.Random, value: Any) -> Any:
    if isinstance(value, bool):
        return rng.choice((not value, int(value)))
    if isinstance(value, int):
        return rng.choice((value + 1, value - 1, -value, value * 2**20, float(value), str(value)))
    if isinstance(value, float):
        return rng.choice((-value, value * 1e30, value * 1e-30, int(value), {"float": "nan"}))
    if isinstance(value, str):
        return rng.choice((value + _CODE, value[1:], value + "\0", value * 2, value.upper(), "é"))
    if isinstance(value, list):
        return rng.choice((value * 2, value[::-1], [value], value[1:], value * 1000))
    return [value]


def _nasty(rng: random.Random) -> Any:
    makers: tuple[Callable[[], Any], ...] = (
        lambda: rng.choice(_WORDS),
        lambda: rng.choice(_WORDS),
        lambda: rng.choice(_NUMBERS),
        lambda: rng.choice((None, True, False, [], {}, [[]], "", {"": 0})),
        lambda: {rng.choice(_KINDS): rng.choice((*_WORDS, *_NUMBERS))},
        lambda: _nested(rng.choice((20, 900))),
        lambda: [rng.choice(_NUMBERS)] * rng.choice((2, 100, 10_000)),
        lambda: {rng.choice(_WORDS): rng.choice(_NUMBERS)},
    )
    return rng.choice(makers)()


def _nested(depth: int) -> Any:
    value: Any = 0
    for _ in range(depth):
        value = [value]
    return value


_NUMBERS = (-1, 0, 1, 2, 255, 256, 2**31, -(2**31), 2**32, 2**62, 2**63, 2**64, 10**30, 1e308, 0.5)
_KINDS = ("node", "tuple", "dict", "float", "dtype", "device", "memory_format", "layout", "eval")
_WORDS = (
    _CODE,
    f"x={_CODE}",
    f"x);{_CODE};(",
    f"x\n    {_CODE}",
    f'"]{_CODE}',
    f"bias={_CODE} or None, weight",
    *("x", "self", "torch", "lambda", "__class__", "__init__", "forward", "_modules", "training"),
    *("conv.weight", "a.b.c", "..", "../..", "/etc/passwd", f"{MARK}", "node", "output", "\ud800"),
    *("float32", "int8", "bfloat16", "complex64", "float8_e4m3fn", "Tensor", "ops", "inf", "cuda"),
    *("call_method", "call_module", "call_function", "placeholder", "get_attr", "tofile", "data"),
    *("aten.from_file.default", "aten.as_strided.default", "aten.relu_.default", "operator.add"),
    *("inductor._reinterpret_tensor.default", "os.system", "builtins.eval", "operator.getitem"),
)


# --- graphs ---------------------------------------------------------------------------------------


def _any_operator(rng: random.Random, document: dict[str, Any]) -> str:
    call = _call(rng, document)
    call["target"] = rng.choice(_operators())
    return f"calls {call['target']}"


def _known_operator(rng: random.Random, document: dict[str, Any]) -> str:
    """One of the closed list, with arguments that its schema allows, and odd numbers."""
    from qpc.storage.aten import ATEN

    call, earlier = _call(rng, document), _earlier(document)
    packet = getattr(torch.ops.aten, rng.choice(sorted(ATEN)))
    target = getattr(packet, rng.choice(packet.overloads()))
    call["target"], call["kwargs"] = str(target), {}
    call["args"] = [
        _argument(rng, str(p.real_type), earlier)
        for p in target._schema.arguments
        if not p.kwarg_only and (not p.has_default_value() or rng.random() < 0.5)
    ]
    for key in ("shape", "dtype"):
        call.pop(key, None)
    return f"calls {call['target']} {call['args']}"


def _argument(rng: random.Random, kind: str, nodes: list[str]) -> Any:
    if kind.startswith("Optional["):
        return None if rng.random() < 0.4 else _argument(rng, kind[9:-1], nodes)
    if kind.startswith("List["):
        return [_argument(rng, kind[5:-1], nodes) for _ in range(rng.choice((0, 1, 2, 2, 4)))]
    small = rng.choice((-3, -2, -1, 0, 1, 1, 2, 2, 3, 5, 100, 2**31, -(2**63), 2**63 - 1))
    return {
        "Tensor": {"node": rng.choice(nodes)},
        "number": rng.choice((small, 0.5, -1e30, True)),
        "float": rng.choice((0.0, 0.5, -1.0, 1e300, {"float": "nan"}, {"float": "inf"})),
        "bool": rng.random() < 0.5,
        "str": rng.choice(("none", "mean", "tanh", "reflect", "ij", "bij,bjk->bik", _CODE)),
        "ScalarType": {"dtype": rng.choice(("float32", "int64", "uint8", "bool", "complex64"))},
        "Layout": {"layout": "strided"},
        "MemoryFormat": {"memory_format": rng.choice(("torch.channels_last", "torch.evil"))},
        "Device": {"device": rng.choice(("cpu", "cuda:0", "meta"))},
    }.get(kind, small)


def _keyword(rng: random.Random, document: dict[str, Any]) -> str:
    call = _call(rng, document)
    word = rng.choice(_WORDS)
    call["kwargs"] = {word: {"node": rng.choice(_earlier(document))}}
    return f"keyword {word}"


def _arguments(rng: random.Random, document: dict[str, Any]) -> str:
    call = _call(rng, document)
    args = call["args"]
    if args:
        args[rng.randrange(len(args))] = _nasty(rng)
    return f"arguments {str(args)[:80]}"


def _rename(rng: random.Random, document: dict[str, Any]) -> str:
    node = rng.choice(document["nodes"])
    key = rng.choice(("name", "target", "op"))
    node[key] = rng.choice(_WORDS)
    return f"{key} {node[key]}"


_GRAPH_EDITS = (_any_operator, _known_operator, _known_operator, _keyword, _arguments, _rename)


def _is_graph(document: dict[str, Any]) -> bool:
    nodes = document.get("nodes")
    return isinstance(nodes, list) and all(isinstance(n, dict) for n in nodes) and bool(nodes)


def _call(rng: random.Random, document: dict[str, Any]) -> dict[str, Any]:
    calls = [n for n in document["nodes"] if isinstance(n.get("args"), list)]
    return rng.choice(calls) if calls else {"args": []}


def _earlier(document: dict[str, Any]) -> list[str]:
    names = [n.get("name") for n in document["nodes"]]
    return [str(name) for name in names[: max(1, len(names) // 2)]] or ["x"]


@functools.cache
def _operators() -> list[str]:
    """Every operator that PyTorch has, in the spelling of saved graphs."""
    found = []
    for name in torch._C._dispatch_get_all_op_names():
        namespace, _, rest = name.partition("::")
        found.append(f"{namespace}.{rest}" if "." in rest else f"{namespace}.{rest}.default")
    return sorted(found)


# --- tensors --------------------------------------------------------------------------------------


def _forge_tensors(rng: random.Random, file: Path) -> str:
    data = file.read_bytes()
    if rng.random() < 0.3:
        changed = bytearray(data)
        changed[rng.randrange(min(len(changed), 400))] ^= 1 << rng.randrange(8)
        file.write_bytes(changed)
        return "a bit of the tensors' header"
    tensors = load(data)
    if not tensors:
        return "no tensors"
    name = rng.choice(sorted(tensors))
    tensor = tensors[name]
    edits: tuple[Callable[[], torch.Tensor], ...] = (
        lambda: tensor.flatten(),
        lambda: tensor[None].contiguous(),
        lambda: torch.zeros((0, 3)),
        lambda: torch.full_like(tensor.float(), float("nan")),
        lambda: tensor.to(torch.float64),
        lambda: torch.randint_like(tensor.float(), -100, 100).to(tensor.dtype),
        lambda: tensor.flatten()[:1].clone(),
    )
    tensors[name] = rng.choice(edits)()
    if rng.random() < 0.2:
        tensors[rng.choice(("other", "a.b", "__class__"))] = tensors.pop(name)
    file.write_bytes(save(tensors))
    return f"tensor {name} {tuple(tensors.get(name, torch.zeros(0)).shape)}"
