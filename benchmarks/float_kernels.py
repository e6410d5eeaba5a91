"""Float operators that stay in a compiled model, next to PyTorch in eager mode, one thread.

    python -m benchmarks.float_kernels [--rounds 40] [--target native] [--only attention]

Every operator is compiled as a model of its own and called in turns with PyTorch, as other programs
disturb both alike. Prints one JSON line for each: the least time of either in microseconds, their
ratio, the largest difference between the results, and the seconds that compiling took.
`--networks` does the same with quantized networks, whose float parts are attention, norms and
recurrent layers, next to the float networks.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._pytree import tree_leaves

import qpc


@dataclass(frozen=True)
class Case:
    """A model and its inputs; the first axis of the first one is the batch."""

    name: str
    model: nn.Module
    inputs: tuple[Tensor, ...]


class Pair(nn.Module):
    """A function of two tensors, whose names capturing needs."""

    def __init__(self, function: Callable[..., Tensor]) -> None:
        super().__init__()
        self._function = function

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """What the function returns."""
        return self._function(a, b)


class Attention(nn.Module):
    """Scaled dot-product attention."""

    def __init__(self, *, causal: bool = False) -> None:
        super().__init__()
        self._causal = causal

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Of queries, keys and values[1, heads, tokens, width]."""
        return F.scaled_dot_product_attention(q, k, v, is_causal=self._causal)


def cases() -> Iterator[Case]:
    """The operators."""
    torch.manual_seed(0)
    yield Case("linear 197x384x1536", nn.Linear(384, 1536), (torch.randn(1, 197, 384),))
    yield Case("linear 197x1536x384", nn.Linear(1536, 384), (torch.randn(1, 197, 1536),))
    yield Case("linear 1x512x512", nn.Linear(512, 512), (torch.randn(1, 512),))
    for tokens in (32, 197, 512):
        heads = [torch.randn(1, 6, tokens, 64) for _ in range(3)]
        scores = torch.randn(1, 6, tokens, tokens)
        turned = Pair(lambda a, b: a @ b.transpose(-1, -2))
        yield Case(f"queries by keys, {tokens}", turned, (heads[0], heads[1]))
        yield Case(f"scores by values, {tokens}", Pair(torch.matmul), (scores, heads[2]))
        yield Case(f"attention, {tokens}", Attention(), tuple(heads))
        yield Case(f"causal attention, {tokens}", Attention(causal=True), tuple(heads))
    yield Case("softmax 6x197x197", nn.Softmax(-1), (torch.randn(1, 6, 197, 197),))
    yield Case("layer norm 197x384", nn.LayerNorm(384), (torch.randn(1, 197, 384),))
    yield Case("group norm 64x56x56", nn.GroupNorm(8, 64), (torch.randn(1, 64, 56, 56),))
    yield Case("gelu 197x1536", nn.GELU(), (torch.randn(1, 197, 1536),))
    yield Case("sigmoid 197x1536", nn.Sigmoid(), (torch.randn(1, 197, 1536),))
    yield Case("tanh 197x1536", nn.Tanh(), (torch.randn(1, 197, 1536),))
    sequence = torch.randn(1, 100, 256)
    yield Case("LSTM 100x256", nn.LSTM(256, 256, batch_first=True), (sequence,))
    yield Case("GRU 100x256", nn.GRU(256, 256, batch_first=True), (sequence,))
    deep = nn.LSTM(64, 128, num_layers=3, batch_first=True)
    yield Case("LSTM of three layers, 1000 steps", deep, (torch.randn(1, 1000, 64),))


class Single(nn.Module):
    """A function of one tensor."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self._function = function

    def forward(self, x: Tensor) -> Tensor:
        """What the function returns."""
        return self._function(x)


def other_cases() -> Iterator[Case]:
    """Operators that are seldom left in float, and slow where they are if nobody cares."""
    torch.manual_seed(0)
    image, volume = torch.randn(1, 64, 56, 56), torch.randn(1, 16, 8, 28, 28)
    kernels = Pair(lambda x, w: F.conv2d(x, w, padding=1))
    yield Case("conv2d, computed weights", kernels, (image, torch.randn(64, 64, 3, 3)))
    yield Case("conv3d", nn.Conv3d(16, 32, 3, 1, 1), (volume,))
    yield Case(
        "depthwise conv1d", nn.Conv1d(256, 256, 31, 1, 15, groups=256), (torch.randn(1, 256, 400),)
    )
    rows = torch.randn(1, 256, 100)
    yield Case("transposed conv1d", nn.ConvTranspose1d(256, 128, 16, 8, 4), (rows,))
    yield Case("transposed conv2d", nn.ConvTranspose2d(64, 32, 4, 2, 1), (image[..., :32, :32],))
    yield Case("transposed conv3d", nn.ConvTranspose3d(16, 16, 2, 2), (volume,))
    functions: dict[str, Callable[[Tensor], Tensor]] = {
        "mean over an image": lambda x: x.mean((2, 3)),
        "mean over channels": lambda x: x.mean(1),
        "largest of channels": lambda x: x.amax(1),
        "PReLU": nn.PReLU(64),
        "choice": lambda x: torch.where(x > 0, x, x.mean((2, 3), keepdim=True)),
        "softplus": F.softplus,
        "logarithm": lambda x: x.abs().log(),
        "mish": F.mish,
        "sine": torch.sin,
        "running sum": lambda x: x.cumsum(1),
        "grid sample": lambda x: F.grid_sample(x, torch.zeros(1, 56, 56, 2), align_corners=False),
    }
    for name, function in functions.items():
        yield Case(f"{name} 64x56x56", Single(function), (image,))


class Block(nn.Module):
    """A block of a transformer, with norms in front of its parts."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Tokens[n, tokens, width]."""
        n, tokens, width = x.shape
        qkv = self.qkv(self.norm1(x)).reshape(n, tokens, 3, self.heads, width // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, tokens, width)
        x = x + self.proj(mixed)
        y: Tensor = x + self.mlp(self.norm2(x))
        return y


class VisionTransformer(nn.Module):
    """Twelve blocks over patches of 16 pixels, and a class token."""

    def __init__(self, width: int, heads: int, classes: int = 1000) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, 16, 16)
        self.token = nn.Parameter(torch.randn(1, 1, width))
        self.places = nn.Parameter(torch.randn(1, 197, width))
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(12)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Scores[n, classes] of images[n, 3, 224, 224]."""
        patches = self.patches(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.token.expand(len(x), -1, -1), patches], 1) + self.places
        y: Tensor = self.head(self.norm(self.blocks(tokens))[:, 0])
        return y


class Recognizer(nn.Module):
    """A text recognizer as CRNN is: convolutions, and two bidirectional LSTMs over the columns."""

    def __init__(self, classes: int = 37) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        sizes = [(1, 64, (2, 2)), (64, 128, (2, 2)), (128, 256, None), (256, 256, (2, 1))]
        sizes += [(256, 512, None), (512, 512, (2, 1))]
        for inputs, outputs, pool in sizes:
            layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU()]
            layers += [nn.MaxPool2d(pool)] if pool else []
        self.features = nn.Sequential(*layers, nn.Conv2d(512, 512, (2, 1)), nn.ReLU())
        self.first = nn.LSTM(512, 256, bidirectional=True, batch_first=True)
        self.middle = nn.Linear(512, 256)
        self.second = nn.LSTM(256, 256, bidirectional=True, batch_first=True)
        self.head = nn.Linear(512, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Scores[n, columns, classes] of images[n, 1, 32, width]."""
        columns = self.features(x).squeeze(2).transpose(1, 2)
        y: Tensor = self.head(self.second(self.middle(self.first(columns)[0]))[0])
        return y


def networks() -> Iterator[Case]:
    """Networks with weights that are not trained: they take as long as others."""
    torch.manual_seed(0)
    yield Case("CRNN", Recognizer(), (torch.randn(1, 1, 32, 100),))
    for name, heads in (("ViT-Ti/16", 3), ("ViT-S/16", 6)):
        width = 64 * heads
        yield Case(name, VisionTransformer(width, heads), (torch.randn(1, 3, 224, 224),))


def measure(case: Case, target: str, rounds: int, *, quantized: bool) -> dict[str, object]:
    """Compile a case, and time it in turns with PyTorch."""
    model = case.model.eval()
    gm = qpc.trace(model, case.inputs)
    gm = qpc.quantize(gm, [case.inputs[0]]) if quantized else gm
    begun = time.process_time()
    compiled = qpc.compile(gm, target=target, threads=1)
    seconds = time.process_time() - begun
    best = {"torch": float("inf"), "ours": float("inf")}
    with torch.inference_mode():
        wanted, got = tree_leaves(model(*case.inputs)), tree_leaves(compiled(*case.inputs))
        apart = max(float((a - b).abs().max()) for a, b in zip(got, wanted, strict=True))
        for _ in range(rounds):
            for name, call in (("torch", model), ("ours", compiled)):
                begin = time.perf_counter()
                call(*case.inputs)
                best[name] = min(best[name], time.perf_counter() - begin)
    return {
        "name": case.name,
        "torch_us": round(best["torch"] * 1e6, 1),
        "us": round(best["ours"] * 1e6, 1),
        "ratio": round(best["ours"] / best["torch"], 3),
        "difference": apart,
        "compile_s": round(seconds, 2),
    }


def main() -> None:
    """Print the measurements."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--target", default="native")
    parser.add_argument("--only", default="", help="cases with this in their names")
    parser.add_argument("--networks", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)
    chosen = networks() if given.networks else chain(cases(), other_cases())
    for case in chosen:
        if given.only in case.name:
            found = measure(case, given.target, given.rounds, quantized=given.networks)
            print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
