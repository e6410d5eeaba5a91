"""Steps of random networks: layers with weights, alone, in blocks, and shared."""

from __future__ import annotations

from torch import nn

from tests.robustness.vocabulary import Steps, another, divisors, dress, maybe_activated, statistics
from tests.robustness.writer import NoFitError, Writer

STEPS = Steps()


@STEPS.add(6)
def conv2d(w: Writer) -> None:
    x = w.pick(4)
    _, c, h, wd = w.shape(x)
    groups = w.one(1, 1, 1, c, *divisors(c))
    out = groups * w.one(1, 1, 2, 3, 4, 5)
    kernel = (w.one(1, 3, 3, 2, 5), w.one(1, 3, 3, 2))
    padding = w.one(0, 1, (1, 2), (0, 1), "'same'")
    stride = 1 if padding == "'same'" else w.one(1, 1, 2, (1, 2), (2, 3))
    dilation = w.one(1, 1, 1, 2, (1, 2))
    bias, mode = w.one("", "", ", bias=False"), w.one(*[""] * 6, ", padding_mode='reflect'")
    if padding == "'same'":
        kernel = (3, 3)  # an even one makes PyTorch warn
    if out > 24 or (mode and min(h, wd) < 4):
        raise NoFitError
    layer = w.layer(
        "conv",
        f"nn.Conv2d({c}, {out}, {kernel}, {stride}, {padding}, {dilation}, {groups}{bias}{mode})",
    )
    dress(w, layer)
    if w.chance(0.1) and padding != "'same'" and not mode:  # the functional form
        window = f"{stride}, {padding}, {dilation}, {groups}"
        w.value(f"F.conv2d({x}, {layer}.weight, {layer}.bias, {window})")
    else:
        w.value(maybe_activated(w, f"{layer}({x})"))


@STEPS.add(2)
def conv_norm_act(w: Writer) -> None:
    """The block of most networks, as three layers or as one Sequential."""
    x = w.pick(4)
    _, c, _h, _wd = w.shape(x)
    out, kernel = w.one(3, 4, 6, 8, 11), w.one(1, 3)
    act = w.one("ReLU", "ReLU6", "SiLU", "Hardswish", "LeakyReLU", "ELU", "Mish")
    conv = f"nn.Conv2d({c}, {out}, {kernel}, padding={kernel // 2}, bias=False)"
    if w.chance(0.5):
        block = w.layer("block", f"nn.Sequential({conv}, nn.BatchNorm2d({out}), nn.{act}())")
        statistics(w, f"{block}[1]")
        w.value(f"{block}({x})")
        return
    layer = w.layer("conv", conv)
    norm = w.layer("norm", f"nn.BatchNorm2d({out})")
    statistics(w, norm)
    w.value(f"F.relu({norm}({layer}({x})), inplace={w.chance(0.5)})")


@STEPS.add()
def conv_transpose2d(w: Writer) -> None:
    x = w.pick(4)
    _, c, _h, _wd = w.shape(x)
    groups = w.one(1, 1, c, *divisors(c))
    out = groups * w.one(1, 2, 3)
    stride, dilation = w.one(1, 2, 2, (1, 3)), w.one(1, 1, 2)
    window = f"{w.one(2, 3, (1, 4))}, {stride}, {w.one(0, 0, 1)}, {w.one(0, 0, 1)}"
    layer = w.layer(
        "up", f"nn.ConvTranspose2d({c}, {out}, {window}, groups={groups}, dilation={dilation})"
    )
    dress(w, layer)
    w.value(f"{layer}({x})")


@STEPS.add(2)
def conv1d(w: Writer) -> None:
    x = w.pick(3)
    _, c, _length = w.shape(x)
    groups = w.one(1, 1, c, *divisors(c))
    out = groups * w.one(1, 2, 3)
    kernel = w.one(1, 3, 3, 2, 5)
    layer = w.layer(
        "conv",
        f"nn.Conv1d({c}, {out}, {kernel}, {w.one(1, 1, 2)}, {w.one(0, 1, 2)},"
        f" {w.one(1, 1, 2)}, {groups})",
    )
    dress(w, layer)
    w.value(maybe_activated(w, f"{layer}({x})"))


@STEPS.add()
def conv3d(w: Writer) -> None:
    """Frames made of channels, and back."""
    x = w.pick(4)
    _, _c, _h, _wd = w.shape(x)
    layer = w.layer("conv", f"nn.Conv3d(1, 2, (1, {w.one(1, 3)}, 3), padding=(0, 0, 1))")
    w.value(f"{layer}({x}.unsqueeze(1)).flatten(1, 2)")


@STEPS.add(4)
def linear(w: Writer) -> None:
    """Over the last axis of anything."""
    x = w.pick(w.one(2, 2, 3, 3, 4))
    features = w.shape(x)[-1]
    layer = w.layer(
        "fc", f"nn.Linear({features}, {w.one(1, 4, 5, 8, 10, 17)}{w.one('', '', ', bias=False')})"
    )
    dress(w, layer)
    if w.chance(0.15):
        w.value(f"F.linear({x}, {layer}.weight, {layer}.bias)")
    elif w.chance(0.1):
        w.value(f"{x} @ {layer}.weight.t()")
    else:
        w.value(maybe_activated(w, f"{layer}({x})"))


@STEPS.add(2)
def same_layer_again(w: Writer) -> None:
    """A shared module."""
    kind = w.one(nn.Conv2d, nn.Linear, nn.Conv1d, nn.BatchNorm2d, nn.LayerNorm)
    made = w.layers(kind)
    if not made:
        raise NoFitError
    layer, _ = w.one(*made)
    w.value(
        f"{layer}({w.pick({nn.Conv2d: 4, nn.BatchNorm2d: 4, nn.Conv1d: 3}.get(kind, w.one(2, 3)))})"
    )


@STEPS.add()
def tied_weight(w: Writer) -> None:
    """Another layer with the same parameter."""
    made = w.layers(w.one(nn.Conv2d, nn.Linear))
    if not made:
        raise NoFitError
    layer, module = w.one(*made)
    twin = w.layer("tied", another(module))
    w.init(f"{twin}.weight = {layer}.weight")
    w.value(f"{twin}({w.pick(4 if isinstance(module, nn.Conv2d) else w.one(2, 3))})")


@STEPS.add(2)
def norm(w: Writer) -> None:
    x = w.pick(w.one(2, 3, 4, 4))
    shape = w.shape(x)
    c = shape[1]
    kinds = {
        2: [f"nn.BatchNorm1d({c})", f"nn.LayerNorm({c})", f"nn.RMSNorm({c})"],
        3: [f"nn.BatchNorm1d({c})", f"nn.LayerNorm({shape[-1]})", f"nn.GroupNorm(1, {c})"],
        4: [
            f"nn.BatchNorm2d({c})",
            f"nn.BatchNorm2d({c}, affine=False)",
            f"nn.GroupNorm({w.one(*divisors(c))}, {c})",
            f"nn.InstanceNorm2d({c}, affine=True)",
            f"nn.LayerNorm({list(shape[2:])})",
        ],
    }
    text = w.one(*kinds[len(shape)])
    layer = w.layer("norm", text)
    if "BatchNorm" in text:
        statistics(w, layer, affine="affine=False" not in text)
    w.value(f"{layer}({x})")


@STEPS.add()
def layer_norm_of_channels(w: Writer) -> None:
    x = w.pick(4)
    c = w.shape(x)[1]
    layer = w.layer("norm", f"nn.LayerNorm({c})")
    w.value(f"{layer}({x}.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)")


@STEPS.add()
def recurrent(w: Writer) -> None:
    x = w.pick(3)
    _, t, c = w.shape(x)
    if t > 6:
        raise NoFitError
    kind, size = w.one("LSTM", "GRU", "RNN"), w.one(3, 4)
    layer = w.layer("rnn", f"nn.{kind}({c}, {size}, batch_first=True)")
    w.value(f"{layer}({x})[0]")
