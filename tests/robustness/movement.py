"""Steps of random networks: pools, sizes, and moving values from one shape to another."""

from __future__ import annotations

from tests.robustness.vocabulary import Steps, divisors
from tests.robustness.writer import NoFitError, Writer

STEPS = Steps()


@STEPS.add(3)
def pool(w: Writer) -> None:
    x = w.pick(4)
    kernel = w.one(2, 2, 3, (1, 2), (3, 2))
    w.value(
        w.one(
            f"F.max_pool2d({x}, {kernel})",
            f"F.max_pool2d({x}, 3, 2, 1)",
            f"F.max_pool2d({x}, {kernel}, 2, ceil_mode=True)",
            f"F.max_pool2d({x}, 2, 1, dilation=2)",
            f"F.avg_pool2d({x}, {kernel})",
            f"F.avg_pool2d({x}, 3, 2, 1)",
            f"F.avg_pool2d({x}, 3, 2, 1, count_include_pad=False)",
            f"F.avg_pool2d({x}, 2, 2, ceil_mode=True)",
            f"F.adaptive_avg_pool2d({x}, {w.one(1, 2, (3, 2))})",
            f"F.adaptive_max_pool2d({x}, {w.one(1, 2)})",
            f"F.lp_pool2d({x}, 2, 2)",
        )
    )


@STEPS.add()
def pool1d(w: Writer) -> None:
    x = w.pick(3)
    w.value(
        w.one(
            f"F.max_pool1d({x}, 2)",
            f"F.avg_pool1d({x}, 3, 2, 1)",
            f"F.adaptive_avg_pool1d({x}, 2)",
            f"F.max_pool1d({x}, 3, 2, 1, ceil_mode=True)",
        )
    )


@STEPS.add(2)
def resize(w: Writer) -> None:
    x = w.pick(4)
    h, wd = w.shape(x)[2:]
    size = (w.one(h + 1, 2 * h, max(1, h - 2)), w.one(wd, wd + 3, max(1, wd // 2)))
    w.value(
        w.one(
            f"F.interpolate({x}, scale_factor=2)",
            f"F.interpolate({x}, size={size}, mode='nearest')",
            f"F.interpolate({x}, size={size}, mode='bilinear', align_corners={w.chance(0.5)})",
            f"F.interpolate({x}, scale_factor=2.0, mode='bilinear')",
            f"F.interpolate({x}, size={size}, mode='bicubic')",
            f"F.interpolate({x}, scale_factor=0.5, mode='area')",
            f"F.interpolate({x}, scale_factor=1.5, mode='nearest-exact')",
        )
    )


@STEPS.add(2)
def pad(w: Writer) -> None:
    x = w.pick(w.one(3, 4))
    sides = w.one((1, 1, 1, 1), (0, 1, 2, 0), (1, 0), (-1, 1), (0, 0, 1, 0))
    mode = w.one(
        "",
        "",
        ", value=0.5",
        ", value=-1.0",
        ", mode='reflect'",
        ", mode='replicate'",
        ", mode='circular'",
    )
    w.value(f"F.pad({x}, {sides}{mode})")


@STEPS.add(2)
def move_pixels(w: Writer) -> None:
    x = w.pick(4)
    c = w.shape(x)[1]
    g = w.one(*divisors(c))
    w.value(
        w.one(
            f"F.pixel_shuffle({x}, 2)",
            f"F.pixel_unshuffle({x}, 2)",
            f"F.channel_shuffle({x}, {g})",
            f"{x}.view({x}.size(0), {g}, {c // g}, {x}.size(2), {x}.size(3)).transpose(1, 2)"
            f".reshape({x}.shape)",
            f"{x}.transpose(2, 3)",
            f"{x}.permute(0, 3, 1, 2)",
            f"{x}.flip([2, 3])",
            f"torch.roll({x}, (1, -2), (2, 3))",
            f"{x}[:, :, 1:, :-1]",
            f"{x}[..., ::2]",
            f"{x}[:, [{', '.join(str(w.choose.randrange(c)) for _ in range(3))}]]",
            f"{x}.narrow(1, {c // 2}, 1)",
            f"{x}.repeat(1, 2, 1, 1)",
            f"{x}.unfold(2, 2, 1).mean(-1)",
            f"{x}.expand(-1, -1, -1, -1)",
            f"torch.movedim({x}, 1, -1)",
            f"{x}.index_select(1, torch.tensor([0, {c - 1}]))",
            f"F.unfold({x}, 2).view({x}.shape[0], {4 * c}, {w.shape(x)[2] - 1}, -1)",
        )
    )


@STEPS.add(3)
def to_sequence(w: Writer) -> None:
    x = w.pick(w.one(4, 4, 3))
    if len(w.shape(x)) == 3:
        w.value(
            w.one(
                "{x}.transpose(1, 2)",
                "{x}[:, 1:]",
                "{x}.permute(0, 2, 1)",
                "torch.cat([{x}[:, :1], {x}], 1)",
            ).format(x=x)
        )
        return
    w.value(
        w.one(
            "{x}.flatten(2)",
            "{x}.flatten(2).transpose(1, 2)",
            "{x}.mean(2)",
            "{x}.amax(-1)",
            "{x}.reshape({x}.shape[0], {x}.shape[1], -1)",
            "{x}[:, :, 0]",
        ).format(x=x)
    )


@STEPS.add(3)
def to_vector(w: Writer) -> None:
    x = w.pick(w.one(3, 4))
    if len(w.shape(x)) == 4:
        text = w.one(
            "{x}.mean((2, 3))",
            "{x}.flatten(1)",
            "torch.flatten({x}, 1)",
            "{x}.view({x}.size(0), -1)",
            "{x}.amax((2, 3))",
            "F.adaptive_avg_pool2d({x}, (1, 1)).squeeze(-1).squeeze(-1)",
            "{x}.sum((2, 3))",
            "{x}.mean(dim=[2, 3])",
            "F.avg_pool2d({x}, {x}.shape[2:]).flatten(1)",
            "{x}.std((2, 3))",
            "{x}[:, :, 0, 0]",
        )
    else:
        text = w.one(
            "{x}.mean(1)",
            "{x}[:, 0]",
            "{x}.flatten(1)",
            "{x}.amax(1)",
            "{x}.sum(-1)",
            "{x}[:, -1]",
            "{x}.reshape(len({x}), -1)",
        )
    w.value(text.format(x=x))


@STEPS.add()
def from_vector(w: Writer) -> None:
    x = w.pick(2)
    c = w.shape(x)[1]
    w.value(
        w.one(
            f"{x}.unsqueeze(1)",
            f"{x}[:, None]",
            f"{x}.view(-1, {c}, 1, 1)",
            f"{x}.unflatten(1, ({w.one(*divisors(c))}, -1))",
            f"{x}[:, :, None, None].expand(-1, -1, 3, 4)",
            f"{x}.reshape({x}.shape[0], 1, 1, -1)",
        )
    )


@STEPS.add(2)
def to_image(w: Writer) -> None:
    x = w.pick(3)
    t, c = w.shape(x)[1:]
    a = w.one(*divisors(t))
    w.value(
        w.one(
            f"{x}.unsqueeze(1)",
            f"{x}.transpose(1, 2).reshape({x}.shape[0], {c}, {a}, {t // a})",
            f"{x}.unsqueeze(-1)",
            f"{x}.unflatten(1, ({a}, {t // a}))",
        )
    )


@STEPS.add(2)
def embed(w: Writer) -> None:
    ids = [n for n, v in w.values.items() if not v.is_floating_point() and v.dim() == 2]
    if not ids:
        raise NoFitError
    x = w.one(*ids)
    layer = w.layer(
        "embedding", f"nn.{w.one('Embedding', 'Embedding', 'EmbeddingBag')}(11, {w.one(4, 6, 9)})"
    )
    w.value(f"{layer}({x})")


@STEPS.add()
def masked(w: Writer) -> None:
    """A constant mask, made in forward or held as a buffer."""
    x = w.pick(3)
    t = w.shape(x)[1]
    if w.chance(0.5):
        w.value(f"{x} * torch.ones({t}, {w.shape(x)[2]}).tril()")
        return
    name = w.name("mask")
    w.init(
        f"self.register_buffer('{name}', torch.arange({t})[:, None] % 2 == 0,"
        f" persistent={w.chance(0.5)})"
    )
    w.value(f"{x}.masked_fill(self.{name}, {w.one('0.0', '-1.5')})")


@STEPS.add()
def loop(w: Writer) -> None:
    """Control flow that Python decides."""
    x = w.pick(4)
    c = w.shape(x)[1]
    blocks = w.layer(
        "blocks", f"nn.ModuleList([nn.Conv2d({c}, {c}, 3, padding=1) for _ in range(2)])"
    )
    y = w.value(f"{x} * 1.0")
    w.run(f"for block in {blocks}: {y} = F.relu(block({y})) + {y}")
    w.keep(y)
