"""Random networks of ordinary PyTorch: branches, shared weights, odd sizes, nested outputs."""

from __future__ import annotations

from tests.robustness import blocks, functions, layers, movement
from tests.robustness.writer import RandomModule, Writer

_STEPS = (*layers.STEPS, *functions.STEPS, *blocks.STEPS, *movement.STEPS)


def random_module(seed: int, steps: int = 10) -> RandomModule:
    """A network of about so many steps; equal seeds give equal text."""
    w = Writer(seed)
    _arguments(w)
    made = int(w.attempt(movement.embed))
    for _ in range(20 * steps):  # many steps do not fit, and are taken back
        made += w.attempt(w.one(*_STEPS))
        if made >= steps:
            break
    return w.module(_result(w))


def _arguments(w: Writer) -> None:
    kinds = ["image"] if w.chance(0.55) else [w.one("image", "sequence", "vector", "ids")]
    kinds += [
        w.one("image", "sequence", "vector", "ids", "image") for _ in range(w.one(0, 0, 1, 1, 2))
    ]
    for i, kind in enumerate(kinds):
        w.argument(f"x{i}", _input(w, kind))


def _input(w: Writer, kind: str) -> str:
    if kind == "ids":
        return f"torch.randint(0, 11, (batch, {w.one(1, 4, 5, 7)}), generator=g)"
    size: tuple[int, ...] = {
        "image": (w.one(1, 2, 3, 3, 4, 5, 8), w.choose.randint(4, 12), w.choose.randint(4, 12)),
        "sequence": (w.choose.randint(2, 9), w.one(3, 4, 6, 8, 12)),
        "vector": (w.one(3, 5, 8, 12),),
    }[kind]
    text = f"torch.randn({', '.join(map(str, ('batch', *size)))}, generator=g)"
    change: str = w.one(*[""] * 6, " * 10 + 3", ".abs()", " * 1e-3", ".clamp(-1, 1) * 100")
    return text + change


def _result(w: Writer) -> str:
    """What nobody reads, so that little is dead: one value, or several in a nest."""
    made = [name for name in w.unread if name not in w.arguments] or [list(w.values)[-1]]
    last, *others = reversed(made[-4:])
    a, b = (w.one(*others, *list(w.values)[-3:]) for _ in "ab")
    if not others and w.chance(0.7):
        return last
    chosen: str = w.one(
        f"{last}, {a}",
        f"[{a}, {last}]",
        f"{{'out': {last}, 'aux': ({a}, {b})}}",
        f"({last}, [{a}, {{'x': {b}}}])",
        f"({', '.join([last, *others])},)",
        f"{last}, None",
    )
    return chosen
