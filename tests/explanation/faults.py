"""Networks into which one fault is put, and what is to be found then."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch._ops import OpOverload
from torch.fx import GraphModule, Node

import qpc
from qpc.backends.profile import KernelTime, Machine, Profile
from qpc.layers import integer_layer
from qpc.meta import attribute, copied, info, label, update_info
from qpc.registry import op_name

SIZE = 16
MACHINE = Machine(gmac_s=100.0, gb_s={1 << 20: 50.0}, call_us=0.01)


class Residual(nn.Module):
    """Convolutions with a shortcut around two of them."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 12, 3, padding=1)
        self.a = nn.Conv2d(12, 12, 3, padding=1)
        self.b = nn.Conv2d(12, 12, 3, padding=1)
        self.down = nn.Conv2d(12, 16, 3, stride=2)
        self.head = nn.Linear(16, 8)

    def forward(self, x: Tensor) -> Any:
        x = self.stem(x).relu()
        x = (x + self.b(self.a(x).relu())).relu()
        return self.head(self.down(x).relu().mean((2, 3)))


class Depthwise(nn.Module):
    """Depthwise convolutions between pointwise ones, with ReLU6."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, stride=2, padding=1)
        self.expand = nn.Conv2d(16, 24, 1)
        self.depthwise = nn.Conv2d(24, 24, 3, padding=1, groups=24)
        self.project = nn.Conv2d(24, 16, 1)
        self.head = nn.Linear(16, 8)

    def forward(self, x: Tensor) -> Any:
        x = nn.functional.relu6(self.stem(x))
        x = nn.functional.relu6(self.depthwise(nn.functional.relu6(self.expand(x))))
        return self.head(self.project(x).mean((2, 3)))


class Branches(nn.Module):
    """Two branches that are concatenated, and a pool."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3)
        self.left = nn.Conv2d(8, 8, 1)
        self.right = nn.Conv2d(8, 8, 3, padding=1)
        self.join = nn.Conv2d(16, 16, 3)
        self.head = nn.Linear(16, 8)

    def forward(self, x: Tensor) -> Any:
        x = nn.functional.max_pool2d(self.stem(x).relu(), 2)
        x = torch.cat([self.left(x).relu(), self.right(x).relu()], 1)
        return self.head(self.join(x).relu().mean((2, 3)))


class Squeeze(nn.Module):
    """A squeeze-and-excitation, an upsampling beside it, and smooth activations."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.norm = nn.BatchNorm2d(16)
        self.down = nn.Conv2d(16, 24, 3, stride=2, padding=1)
        self.fewer, self.more = nn.Conv2d(24, 8, 1), nn.Conv2d(8, 24, 1)
        self.mid = nn.Conv2d(24, 24, 3, padding=1)
        self.up = nn.ConvTranspose2d(24, 16, 2, stride=2)
        self.join = nn.Conv2d(32, 20, 3, padding=1)
        self.tail = nn.Conv2d(20, 20, 3, padding=1, groups=4)
        self.head = nn.Linear(20, 10)

    def forward(self, x: Tensor) -> Any:
        wide = nn.functional.silu(self.norm(self.stem(x)))
        x = nn.functional.silu(self.down(wide))
        scales = self.more(self.fewer(x.mean((2, 3), keepdim=True)).relu()).sigmoid()
        x = self.up(nn.functional.hardswish(self.mid(x * scales)))
        x = self.join(torch.cat([wide, x], 1)).relu()
        return self.head(nn.functional.gelu(self.tail(x)).mean((2, 3)))


class Island(nn.Module):
    """A network with an operator that has no integer form behind one of its modules."""

    def __init__(self, inner: nn.Module, after: str) -> None:
        super().__init__()
        self.inner = inner
        module = inner.get_submodule(after)
        module.register_forward_hook(lambda module, given, out: out.cumsum(1) * 0.2)

    def forward(self, x: Tensor) -> Any:
        return self.inner(x)


NETWORKS: tuple[Callable[[], nn.Module], ...] = (Residual, Depthwise, Branches)


def images(count: int = 6, seed: int = 1) -> Tensor:
    """float32[count, 3, SIZE, SIZE]."""
    return torch.randn(count, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(seed))


def stages(model: nn.Module) -> tuple[GraphModule, GraphModule]:
    """The float graph of a model, and the integer graph."""
    gm = qpc.trace(model.eval(), images(1))
    return gm, qpc.quantize(gm, [images(16, 0)])


def seeded(make: Callable[[], nn.Module], seed: int) -> nn.Module:
    """A network with weights of its own."""
    torch.manual_seed(seed)
    return make()


# --- faults ---------------------------------------------------------------------------------------


def layers_of(gm: GraphModule) -> list[Node]:
    """The layers of an integer graph but the last, whose values nothing rounds again."""
    return [node for node in gm.graph.nodes if integer_layer(node) is not None]


def with_wrong_scale(gm: GraphModule, place: int, factor: float) -> tuple[GraphModule, str]:
    """An integer graph with a layer whose multiplier is wrong, and the label of the layer."""
    made = copied(gm)
    layers = layers_of(made)
    node = layers[place % len(layers)]
    view = integer_layer(node)
    assert view is not None
    multiplier = attribute(made, str(view.multiplier.target))
    multiplier.mul_(factor)
    return made, label(node)


def with_clipped_values(gm: GraphModule, place: int, part: float) -> tuple[GraphModule, str]:
    """An integer graph with a layer whose results end at a part of their range."""
    made = copied(gm)
    layers = layers_of(made)
    node = layers[place % len(layers)]
    grid = info(node).qparams
    assert grid is not None
    assert isinstance(node.target, OpOverload)
    names = [a.name for a in node.target._schema.arguments]
    zero, args = grid.zero_point, list(node.args)
    hi = zero + max(round((int(str(args[names.index("hi")])) - zero) * part), 1)
    lo = zero - max(round((zero - int(str(args[names.index("lo")]))) * part), 0)
    args[names.index("hi")], args[names.index("lo")] = hi, lo
    node.args = tuple(args)
    update_info(node, qparams=replace(grid, lo=min(lo, hi - 1), hi=hi))
    made.recompile()
    return made, label(node)


def with_slow_island(make: Callable[[], nn.Module], seed: int, place: int) -> nn.Module:
    """A network with a float operator in its middle."""
    inner = seeded(make, seed)
    names = [name for name, module in inner.named_modules() if isinstance(module, nn.Conv2d)]
    return Island(inner, names[place % len(names)])


def share_of_islands(profile: Profile) -> float:
    """Of the time, as `made_up_profile` has it."""
    return sum(call.us for call in profile.calls if call.kernel != "k") / profile.total_us


def made_up_profile(gm: GraphModule) -> Profile:
    """A profile as a machine would give it: integers quick, floats slow, nothing measured."""
    calls = []
    for node in gm.graph.nodes:
        shape = info(node).shape
        if node.op != "call_function" or shape is None:
            continue
        values = 1
        for size in shape:
            values *= size if isinstance(size, int) else 1
        floating = info(node).dtype is torch.float32
        bridge = op_name(node) in ("quantize", "dequantize")
        kernel, layers = (op_name(node), ()) if floating and not bridge else ("k", (label(node),))
        us = values * (0.01 if floating else 0.001) * (3.0 if integer_layer(node) else 1.0)
        calls.append(KernelTime.of(kernel, layers, us, 0, values, MACHINE))
    return Profile(tuple(calls), sum(c.us for c in calls), 1, 1, MACHINE)
