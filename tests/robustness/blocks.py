"""Steps of random networks: values that meet, and the small blocks that networks are made of."""

from __future__ import annotations

from tests.robustness.vocabulary import Steps, divisors, dress
from tests.robustness.writer import NoFitError, Writer

STEPS = Steps()


@STEPS.add(4)
def combine(w: Writer) -> None:
    x = w.pick(w.one(2, 3, 4, 4))
    y = w.pick(len(w.shape(x)), like=x, last=20)
    if x == y:  # a value less itself is nothing that networks compute
        raise NoFitError
    w.value(
        w.one(
            *["{x} + {y}"] * 4,
            "torch.add({x}, {y})",
            "torch.add({x}, {y}, alpha=0.5)",
            "{x} - {y}",
            "{x} * {y}",
            "{x} * {y}.sigmoid()",
            "torch.maximum({x}, {y})",
            "torch.minimum({x}, {y})",
            "{x} / (1 + {y}.abs())",
            "torch.where({x} > {y}, {x}, {y} * 0.5)",
            "torch.lerp({x}, {y}, 0.3)",
            "sum([{x}, {y}, {x}])",
            "torch.stack([{x}, {y}], 0).mean(0)",
            "torch.stack([{x}, {y}], -1).amax(-1)",
        ).format(x=x, y=y)
    )


@STEPS.add(2)
def residual(w: Writer) -> None:
    """A value plus layers of it."""
    x = w.pick(w.one(3, 4, 4))
    shape = w.shape(x)
    if len(shape) == 4:
        c = shape[1]
        kernel = w.one(1, 3)
        one = w.layer(
            "conv", f"nn.Conv2d({c}, {c}, {kernel}, padding={kernel // 2}, groups={w.one(1, 1, c)})"
        )
    else:
        one = w.layer("fc", f"nn.Linear({shape[-1]}, {shape[-1]})")
    dress(w, one)
    if w.chance(0.3):
        y = w.value(f"{one}({x})")
        w.run(f"{y} += {x}")
    else:
        w.value(
            w.one("F.relu({x} + {f}({x}))", "{x} + {f}({x}).relu()", "{f}({x}) + {x}").format(
                x=x, f=one
            )
        )


@STEPS.add(2)
def concatenate(w: Writer) -> None:
    rank = w.one(2, 3, 4, 4)
    x = w.pick(rank)
    axis = w.one(1, 1, -1)
    others = [w.pick(rank, last=20) for _ in range(w.one(1, 1, 2))]
    w.value(f"torch.cat([{', '.join([x, *others])}], {w.one('', 'dim=')}{axis})")


@STEPS.add(2)
def split(w: Writer) -> None:
    x = w.pick(w.one(2, 3, 4, 4))
    c = w.shape(x)[1]
    a, b = w.name("v"), w.name("v")
    if c < 2:
        raise NoFitError
    w.run(
        w.one(
            f"{a}, {b} = {x}.chunk(2, 1)",
            f"{a}, {b} = torch.split({x}, [{c - 1}, 1], dim=1)",
            f"{a}, {b} = {x}[:, :{c // 2}], {x}[:, {c // 2}:]",
            f"{a}, {b} = {x}[:, ::2], {x}[:, 1::2]",
            f"{a}, {b} = torch.tensor_split({x}, 2, dim=1)",
        )
    )
    w.keep(a, b)


@STEPS.add()
def gated_linear_unit(w: Writer) -> None:
    w.value(f"F.glu({w.pick(w.one(2, 3, 4))}, {w.one(1, -1)})")


@STEPS.add(2)
def squeeze_excite(w: Writer) -> None:
    x = w.pick(4)
    c = w.shape(x)[1]
    down, up = (w.layer("se", f"nn.Conv2d({a}, {b}, 1)") for a, b in ((c, 3), (3, c)))
    pooled = w.one(
        f"F.adaptive_avg_pool2d({x}, 1)",
        f"{x}.mean((2, 3), keepdim=True)",
        f"{x}.mean([-1, -2], True)",
    )
    gate = w.one("torch.sigmoid", "F.hardsigmoid")
    w.value(f"{x} * {gate}({up}(F.relu({down}({pooled}))))")


@STEPS.add()
def gate_by_vector(w: Writer) -> None:
    v, x = w.pick(2, last=20), w.pick(4)
    layer = w.layer("fc", f"nn.Linear({w.shape(v)[1]}, {w.shape(x)[1]})")
    w.value(
        f"{x} {w.one('*', '+')} {layer}({v})"
        + w.one("[:, :, None, None]", ".unsqueeze(-1).unsqueeze(-1)")
    )


@STEPS.add(2)
def attention(w: Writer) -> None:
    x = w.pick(3)
    _, t, c = w.shape(x)
    if t > 24 or c > 24:
        raise NoFitError
    kind = w.one("matmul", "sdpa", "heads", "module")
    if kind == "module":
        layer = w.layer(
            "attention", f"nn.MultiheadAttention({c}, {w.one(*divisors(c))}, batch_first=True)"
        )
        w.value(f"{layer}({x}, {x}, {x}, need_weights=False)[0]")
        return
    if kind == "heads":
        qkv = w.layer("qkv", f"nn.Linear({c}, 24)")
        parts = [w.name("v") for _ in "qkv"]
        w.run(
            f"{', '.join(parts)} = {qkv}({x}).reshape({x}.shape[0], {t}, 3, 2, 4)"
            ".permute(2, 0, 3, 1, 4)"
        )
        q, k, v = parts
        score = w.value(f"F.softmax({q} @ {k}.transpose(-2, -1) * 0.5, dim=-1)")
        w.value(f"({score} @ {v}).transpose(1, 2).flatten(2)")
        return
    q, k, v = (w.layer(n, f"nn.Linear({c}, 6)") for n in "qkv")
    if kind == "sdpa":
        causal = w.one("", ", is_causal=True")
        w.value(f"F.scaled_dot_product_attention({q}({x}), {k}({x}), {v}({x}){causal})")
    else:
        w.value(
            f"torch.bmm(torch.softmax(torch.bmm({q}({x}), {k}({x}).transpose(1, 2)) / 6 ** 0.5, -1)"
            f", {v}({x}))"
        )


@STEPS.add()
def products(w: Writer) -> None:
    """Products of values, without layers."""
    x = w.pick(3)
    y = w.pick(3, last=20)
    w.value(
        w.one(
            "torch.einsum('ntc,nsc->nts', {x}, {y})",
            "{x}.matmul({y}.transpose(1, 2))",
            "torch.bmm({x}, {y})",
        ).format(x=x, y=y)
    )
