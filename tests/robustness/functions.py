"""Steps of random networks: functions of one value, of several, and writing in place."""

from __future__ import annotations

from tests.robustness.vocabulary import Steps
from tests.robustness.writer import NoFitError, Writer

STEPS = Steps()

_FUNCTIONS = (
    "F.relu({x})",
    "{x}.relu()",
    "torch.relu({x})",
    "F.relu6({x})",
    "F.gelu({x})",
    "F.gelu({x}, approximate='tanh')",
    "F.silu({x})",
    "{x} * torch.sigmoid({x})",
    "F.hardswish({x})",
    "F.hardsigmoid({x})",
    "F.leaky_relu({x}, 0.1)",
    "F.elu({x})",
    "F.softplus({x})",
    "torch.tanh({x})",
    "{x}.sigmoid()",
    "{x}.clamp(-1, 2)",
    "torch.clamp({x}, min=-0.5)",
    "F.hardtanh({x}, -2, 2)",
    "{x} * 0.5",
    "2 * {x} + 1",
    "1 - {x}",
    "{x} / 3",
    "-{x}",
    "{x}.abs()",
    "{x} ** 2",
    "{x}.square().mean(-1, keepdim=True).sqrt() + {x}",
    "torch.exp(-{x}.abs())",
    "torch.log1p({x}.abs())",
    "torch.softmax({x}, -1)",
    "F.softmax({x}, dim=1)",
    "F.log_softmax({x}, 1)",
    "F.normalize({x}, dim=1)",
    "F.dropout({x}, 0.3, self.training)",
    "{x}.masked_fill({x} < 0, 0.25)",
    "torch.where({x} > 0, {x}, 0.1 * {x})",
    "{x} - {x}.mean(1, keepdim=True)",
    "{x} / ({x}.abs().amax(-1, keepdim=True) + 1)",
    "{x} + torch.arange({x}.shape[-1], dtype=torch.float32) * 0.1",
    "{x} + torch.zeros_like({x})",
    "{x}.to(torch.float32)",
    "{x}.contiguous()",
    "{x}.detach()",
    "{x}.clone()",
    "{x}.flip(-1)",
    "torch.roll({x}, 1, -1)",
    "{x}.cumsum(-1)",
    "{x}.sort(-1)[0]",
    "torch.sign({x}) * {x}.abs().sqrt()",
    "{x}.float().reciprocal().clamp(-3, 3)",
    "torch.round({x} * 4) / 4",
    "F.mish({x})",
    "torch.log({x}.abs() + 0.1)",
    "{x} * {x}.prod(-1, keepdim=True).tanh()",
    "{x}.sort(1, descending=True)[0]",
    "{x} - {x}.min()",
    "{x} - {x}.min(1, keepdim=True)[0]",
    "{x} / ({x}.abs().max() + 1)",
    "torch.where(({x} > 1).any(-1, keepdim=True), {x}, -{x})",
    "{x}.scatter(1, {x}.argmax(1, keepdim=True), 0.5)",
    "torch.zeros_like({x}).scatter_add(-1, ({x} > 0).long(), {x})",
    "torch.fmod({x}, 0.7)",
    "torch.atan2({x}, {x}.abs() + 1)",
    "torch.maximum({x}, {x}.flip(-1))",
    "{x}.cumprod(-1).clamp(-2, 2)",
    "torch.bmm({x}.flatten(1, -2).unsqueeze(1), {x}.flatten(1, -2).unsqueeze(2)).flatten(1)",
)


@STEPS.add(7)
def function(w: Writer) -> None:
    x = w.pick(w.one(2, 3, 4, 4))
    w.value(w.one(*_FUNCTIONS).format(x=x))


@STEPS.add(2)
def activation_module(w: Writer) -> None:
    x = w.pick(w.one(2, 3, 4))
    kind = w.one(
        "ReLU()",
        "ReLU(inplace=True)",
        "GELU()",
        "Hardswish()",
        "Identity()",
        "Dropout(0.1)",
        "Sigmoid()",
        "Tanh()",
        "Softmax(-1)",
        "ReLU6(inplace=True)",
        "Softplus()",
        "Hardsigmoid()",
    )
    w.value(f"{w.layer('act', f'nn.{kind}')}({x})")


@STEPS.add()
def prelu(w: Writer) -> None:
    x = w.pick(4)
    w.value(f"{w.layer('act', f'nn.PReLU({w.one(1, w.shape(x)[1])})')}({x})")


@STEPS.add(2)
def in_place(w: Writer) -> None:
    """Writes to a value that others may read, or to a part of it."""
    x = w.pick(w.one(2, 3, 4))
    if x in w.arguments:
        raise NoFitError
    w.run(
        w.one(
            "{x} += 1",
            "{x} *= 0.5",
            "{x}.relu_()",
            "{x}.clamp_(-2, 2)",
            "{x}[:, 0] = 0",
            "{x}[:, :1] += 1",
            "{x}[..., -1] = {x}[..., 0]",
            "{x}.sub_({x}.mean())" if w.chance(0) else "{x}.mul_(2)",
            "{x}.flatten(1)[:, 1:].neg_()",
            "{x}.copy_({x}.sigmoid())",
        ).format(x=x)
    )


@STEPS.add(2)
def scale_and_shift(w: Writer) -> None:
    """Parameters and buffers of the network's own."""
    x = w.pick(w.one(3, 4))
    shape = w.shape(x)
    axes = (shape[1], 1, 1) if len(shape) == 4 else (shape[-1],)
    scale, shift = f"self.{w.name('scale')}", f"self.{w.name('shift')}"
    w.init(f"{scale} = nn.Parameter(torch.rand{axes} + 0.5)".replace(",)", ",)"))
    w.init(f"self.register_buffer('{shift[5:]}', torch.randn{axes})")
    w.value(
        w.one(
            f"{x} * {scale} + {shift}",
            f"{x} * {scale}",
            f"({x} - {shift}) / {scale}",
            f"torch.addcmul({shift}, {x}, {scale})",
        )
    )
