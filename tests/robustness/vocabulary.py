"""What the steps of random networks have in common.

A step takes one or more values that there are, and writes statements that make another. Shapes that
do not fit are the writer's business: it takes the step back.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from tests.robustness.writer import NoFitError, Writer

Step = Callable[[Writer], None]


class Steps(list[Step]):
    """Steps to choose from, each as often in the list as its weight says."""

    def add(self, weight: int = 1) -> Callable[[Step], Step]:
        """Register a step."""

        def registered(function: Step) -> Step:
            self.extend([function] * weight)
            return function

        return registered


def dress(w: Writer, layer: str) -> None:
    """Now and then, weights as no initialiser makes them."""
    if not w.chance(0.3):
        return
    line = w.one(
        "{x}.weight[:1] = 0",
        "{x}.weight[-1] = 0.25",
        "{x}.weight.mul_(1e3)",
        "{x}.weight.mul_(1e-4)",
        "{x}.weight.mul_(1e-12)",
        "{x}.weight.zero_()",
        "{x}.weight[0].fill_(30.0)",
        "{x}.weight[0].mul_(1e-20)",
        "{x}.weight.clamp_(min=0)",
        "{x}.weight.round_()",
    ).format(x=layer)
    w.init(f"with torch.no_grad(): {line}")


def another(module: nn.Module) -> str:
    """The call that makes a layer like this one."""
    if isinstance(module, nn.Linear):
        return f"nn.Linear({module.in_features}, {module.out_features})"
    if isinstance(module, nn.Conv2d) and isinstance(module.padding, tuple):
        return (
            f"nn.Conv2d({module.in_channels}, {module.out_channels}, {module.kernel_size}, "
            f"{module.stride}, {module.padding}, {module.dilation}, {module.groups})"
        )
    raise NoFitError


def statistics(w: Writer, norm: str, *, affine: bool = True) -> None:
    """A batch norm that has seen something."""
    w.init(f"{norm}.running_mean.normal_()")
    w.init(f"{norm}.running_var.uniform_(0.5, 2.0)")
    if affine:
        w.init(f"nn.init.uniform_({norm}.weight, {w.one('0.5', '0.5', '-1.0')}, 1.5)")
        w.init(f"nn.init.normal_({norm}.bias)")


def maybe_activated(w: Writer, text: str) -> str:
    chosen: str = w.one(
        "{}", "{}", "{}.relu()", "F.relu({})", "F.relu6({})", "F.silu({})", "torch.sigmoid({})"
    )
    return chosen.format(text)


def divisors(n: int) -> list[int]:
    return [d for d in range(1, n + 1) if n % d == 0]
