"""Networks that no package brings, written as their users write them; small, with all their parts.

Face detection in three steps (Zhang et al. 2016, arXiv:1604.02878), single-shot detection on VGG
(Liu et al. 2016, arXiv:1512.02325), text recognition by a recurrent network (Shi et al. 2015,
arXiv:1507.05717), a vocoder (Kong et al. 2020, arXiv:2010.05646) and a network that keeps its
resolution (Sun et al. 2019, arXiv:1902.09212). Weights are random.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm


@dataclass(frozen=True)
class WrittenNetwork:
    """A model, and the sizes of one sample that it takes."""

    make: Callable[[], nn.Module]
    sample: tuple[int, ...]


# --- face detection in three steps ----------------------------------------------------------------


class ProposalNet(nn.Module):
    """Windows of 12 pixels, everywhere in an image, that may hold a face."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            *(nn.Conv2d(3, 10, 3), nn.PReLU(10), nn.MaxPool2d(2, 2, ceil_mode=True)),
            *(nn.Conv2d(10, 16, 3), nn.PReLU(16), nn.Conv2d(16, 32, 3), nn.PReLU(32)),
        )
        self.face = nn.Conv2d(32, 2, 1)
        self.box = nn.Conv2d(32, 4, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.features(x)
        return F.softmax(self.face(x), dim=1), self.box(x)


class RefineNet(nn.Module):
    """Which of these windows do, looked at with 24 pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.prelu1 = nn.Conv2d(3, 28, 3), nn.PReLU(28)
        self.conv2, self.prelu2 = nn.Conv2d(28, 48, 3), nn.PReLU(48)
        self.conv3, self.prelu3 = nn.Conv2d(48, 64, 2), nn.PReLU(64)
        self.pool = nn.MaxPool2d(3, 2, ceil_mode=True)
        self.dense, self.prelu4 = nn.Linear(576, 128), nn.PReLU(128)
        self.face, self.box = nn.Linear(128, 2), nn.Linear(128, 4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.pool(self.prelu1(self.conv1(x)))
        x = self.pool(self.prelu2(self.conv2(x)))
        x = self.prelu3(self.conv3(x)).permute(0, 3, 2, 1).contiguous().view(x.shape[0], -1)
        x = self.prelu4(self.dense(x))
        return F.softmax(self.face(x), dim=1), self.box(x)


class OutputNet(nn.Module):
    """Where the face lies, its eyes, nose and mouth, with 48 pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            *(nn.Conv2d(3, 32, 3), nn.PReLU(32), nn.MaxPool2d(3, 2, ceil_mode=True)),
            *(nn.Conv2d(32, 64, 3), nn.PReLU(64), nn.MaxPool2d(3, 2, ceil_mode=True)),
            *(nn.Conv2d(64, 64, 3), nn.PReLU(64), nn.MaxPool2d(2, 2, ceil_mode=True)),
            *(nn.Conv2d(64, 128, 2), nn.PReLU(128)),
        )
        self.dense, self.prelu = nn.Linear(1152, 256), nn.PReLU(256)
        self.face, self.box, self.points = (nn.Linear(256, n) for n in (2, 4, 10))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x = self.features(x).permute(0, 3, 2, 1).contiguous().view(x.shape[0], -1)
        x = self.prelu(self.dense(x))
        return F.softmax(self.face(x), dim=1), self.box(x), self.points(x)


# --- single-shot detection ------------------------------------------------------------------------


class L2Norm(nn.Module):
    """Each place scaled to length 1 over its channels, then each channel by a learned factor."""

    def __init__(self, channels: int, scale: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((channels,), scale))

    def forward(self, x: Tensor) -> Tensor:
        norm = x.pow(2).sum(dim=1, keepdim=True).sqrt() + 1e-10
        x = torch.div(x, norm)
        return self.weight.unsqueeze(0).unsqueeze(2).unsqueeze(3).expand_as(x) * x


class SingleShotDetector(nn.Module):
    """Boxes and classes at six resolutions, from VGG-16 of a quarter of its width.

    x: images [n, 3, 300, 300]. Returns boxes [n, 8732, 4] and probabilities [n, 8732, classes].
    """

    def __init__(self, classes: int = 21, width: int = 16) -> None:
        super().__init__()
        a, b, c, d, e = width, 2 * width, 4 * width, 8 * width, 16 * width
        self.classes = classes
        self.early = nn.Sequential(
            *(*_convs(3, a, a), nn.MaxPool2d(2), *_convs(a, b, b), nn.MaxPool2d(2)),
            *(*_convs(b, c, c, c), nn.MaxPool2d(2, ceil_mode=True), *_convs(c, d, d, d)),
        )
        self.norm = L2Norm(d, 20.0)
        self.late = nn.Sequential(
            *(nn.MaxPool2d(2), *_convs(d, d, d, d), nn.MaxPool2d(3, 1, 1)),
            *(nn.Conv2d(d, e, 3, padding=6, dilation=6), nn.ReLU(inplace=True)),
            *(nn.Conv2d(e, e, 1), nn.ReLU(inplace=True)),
        )
        shapes = ((e, c, d, 2, 1), (d, b, c, 2, 1), (c, b, c, 1, 0), (c, b, c, 1, 0))
        self.extras = nn.ModuleList(
            nn.Sequential(
                *(nn.Conv2d(before, narrow, 1), nn.ReLU(inplace=True)),
                *(nn.Conv2d(narrow, after, 3, stride, padding), nn.ReLU(inplace=True)),
            )
            for before, narrow, after, stride, padding in shapes
        )
        sources = zip((d, e, d, c, c, c), (4, 6, 6, 6, 4, 4), strict=True)
        heads = [(n, count * 4, count * classes) for n, count in sources]
        self.boxes = nn.ModuleList(nn.Conv2d(n, boxes, 3, padding=1) for n, boxes, _ in heads)
        self.scores = nn.ModuleList(nn.Conv2d(n, scores, 3, padding=1) for n, _, scores in heads)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.early(x)
        sources = [self.norm(x)]
        x = self.late(x)
        sources.append(x)
        for extra in self.extras:
            x = extra(x)
            sources.append(x)
        boxes, scores = [], []
        for source, box, score in zip(sources, self.boxes, self.scores, strict=True):
            boxes.append(box(source).permute(0, 2, 3, 1).contiguous())
            scores.append(score(source).permute(0, 2, 3, 1).contiguous())
        box, score = (torch.cat([o.view(o.size(0), -1) for o in v], 1) for v in (boxes, scores))
        probabilities = F.softmax(score.view(score.size(0), -1, self.classes), dim=-1)
        return box.view(box.size(0), -1, 4), probabilities


def _convs(before: int, *channels: int) -> list[nn.Module]:
    made: list[nn.Module] = []
    for after in channels:
        made += [nn.Conv2d(before, after, 3, padding=1), nn.ReLU(inplace=True)]
        before = after
    return made


# --- text recognition -----------------------------------------------------------------------------


class TextRecognizer(nn.Module):
    """Letters by column, from a line of text in grey [n, 1, 32, w]: [w / 4 + 1, n, classes]."""

    def __init__(self, classes: int = 37, hidden: int = 128) -> None:
        super().__init__()
        self.cnn = nn.Sequential(
            *(*_block(1, 64), nn.MaxPool2d(2, 2), *_block(64, 128), nn.MaxPool2d(2, 2)),
            *(*_block(128, 256, norm=True), *_block(256, 256)),
            nn.MaxPool2d((2, 2), (2, 1), (0, 1)),
            *(*_block(256, 512, norm=True), *_block(512, 512)),
            nn.MaxPool2d((2, 2), (2, 1), (0, 1)),
            *_block(512, 512, norm=True, kernel=2),
        )
        self.rnn1 = nn.LSTM(512, hidden, bidirectional=True)
        self.embedding = nn.Linear(2 * hidden, hidden)
        self.rnn2 = nn.LSTM(hidden, hidden, bidirectional=True)
        self.classifier = nn.Linear(2 * hidden, classes)

    def forward(self, x: Tensor) -> Tensor:
        features = self.cnn(x).squeeze(2).permute(2, 0, 1)
        recurrent, _ = self.rnn1(features)
        steps, n, width = recurrent.size()
        embedded = self.embedding(recurrent.view(steps * n, width)).view(steps, n, -1)
        recurrent, _ = self.rnn2(embedded)
        return F.log_softmax(self.classifier(recurrent), dim=2)


def _block(before: int, after: int, *, norm: bool = False, kernel: int = 3) -> list[nn.Module]:
    layers: list[nn.Module] = [nn.Conv2d(before, after, kernel, padding=kernel // 3)]
    return [*layers, *([nn.BatchNorm2d(after)] if norm else []), nn.ReLU(inplace=True)]


# --- a vocoder ------------------------------------------------------------------------------------


class DilatedResidual(nn.Module):
    """Pairs of convolutions over time, the first of growing dilation, each around a residual."""

    def __init__(self, channels: int, kernel: int, dilations: Sequence[int]) -> None:
        super().__init__()
        half = kernel // 2
        self.first = nn.ModuleList(
            weight_norm(nn.Conv1d(channels, channels, kernel, dilation=d, padding=half * d))
            for d in dilations
        )
        self.second = nn.ModuleList(
            weight_norm(nn.Conv1d(channels, channels, kernel, padding=half)) for _ in dilations
        )

    def forward(self, x: Tensor) -> Tensor:
        for first, second in zip(self.first, self.second, strict=True):
            x = second(F.leaky_relu(first(F.leaky_relu(x, 0.1)), 0.1)) + x
        return x


class Vocoder(nn.Module):
    """A waveform [n, 1, 256 * t] from its mel spectrum [n, 80, t]."""

    def __init__(self, channels: int = 128) -> None:
        super().__init__()
        self.kernels = (3, 7, 11)
        self.before = weight_norm(nn.Conv1d(80, channels, 7, padding=3))
        self.ups, self.blocks = nn.ModuleList(), nn.ModuleList()
        for rate, kernel in ((8, 16), (8, 16), (2, 4), (2, 4)):
            after, cut = channels // 2, (kernel - rate) // 2
            self.ups.append(
                weight_norm(nn.ConvTranspose1d(channels, after, kernel, rate, padding=cut))
            )
            self.blocks.extend(DilatedResidual(after, k, (1, 3, 5)) for k in self.kernels)
            channels = after
        self.after = weight_norm(nn.Conv1d(channels, 1, 7, padding=3))

    def forward(self, x: Tensor) -> Tensor:
        x = self.before(x)
        count = len(self.kernels)
        for number, up in enumerate(self.ups):
            x = up(F.leaky_relu(x, 0.1))
            first, *others = self.blocks[number * count : (number + 1) * count]
            total = first(x)
            for block in others:
                total = total + block(x)
            x = total / count
        return torch.tanh(self.after(F.leaky_relu(x)))


# --- a network that keeps its resolution ----------------------------------------------------------


class BasicBlock(nn.Module):
    """Two convolutions around a residual."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(n, n, 3, padding=1, bias=False), nn.BatchNorm2d(n)
        self.conv2, self.bn2 = nn.Conv2d(n, n, 3, padding=1, bias=False), nn.BatchNorm2d(n)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += x
        return self.relu(out)


class Exchange(nn.Module):
    """Branches of several resolutions, each of which gets the sum of all at its own resolution."""

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            nn.Sequential(BasicBlock(width), BasicBlock(width)) for width in widths
        )
        self.fuse = nn.ModuleList(
            nn.ModuleList(_between(widths, source, goal) for source in range(len(widths)))
            for goal in range(len(widths))
        )
        self.relu = nn.ReLU()

    def forward(self, x: list[Tensor]) -> list[Tensor]:
        x = [branch(value) for branch, value in zip(self.branches, x, strict=True)]
        fused = []
        for goal, layers in enumerate(self.fuse):
            y = torch.zeros_like(x[goal])
            for source, layer in enumerate(layers):
                value = layer(x[source])
                if source > goal:
                    size = x[goal].shape[-2:]
                    value = F.interpolate(value, size, mode="bilinear", align_corners=False)
                y = y + value
            fused.append(self.relu(y))
        return fused


def _between(widths: Sequence[int], source: int, goal: int) -> nn.Module:
    """From one branch to another: 1x1 upwards, strided 3x3 downwards."""
    if source == goal:
        return nn.Identity()
    if source > goal:
        layer = nn.Conv2d(widths[source], widths[goal], 1, bias=False)
        return nn.Sequential(layer, nn.BatchNorm2d(widths[goal]))
    steps = [_strided(widths[source], widths[source]) for _ in range(source, goal - 1)]
    return nn.Sequential(*sum(steps, []), *_strided(widths[source], widths[goal])[:2])


def _strided(before: int, after: int) -> list[nn.Module]:
    layer = nn.Conv2d(before, after, 3, stride=2, padding=1, bias=False)
    return [layer, nn.BatchNorm2d(after), nn.ReLU(inplace=True)]


class HighResolutionNet(nn.Module):
    """Segmentation of images [n, 3, h, w] at a quarter of their resolution, with three branches."""

    def __init__(self, classes: int = 19, width: int = 16) -> None:
        super().__init__()
        widths = (width, 2 * width, 4 * width)
        self.stem = nn.Sequential(*_strided(3, 32), *_strided(32, width), BasicBlock(width))
        self.down = nn.ModuleList(
            nn.Sequential(*_strided(a, b)) for a, b in itertools.pairwise(widths)
        )
        self.stages = nn.ModuleList(Exchange(widths[:count]) for count in (2, 3, 3))
        self.head = nn.Sequential(
            *(nn.Conv2d(sum(widths), sum(widths), 1), nn.BatchNorm2d(sum(widths)), nn.ReLU()),
            nn.Conv2d(sum(widths), classes, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        values = [x := self.stem(x), self.down[0](x)]
        values = self.stages[0](values)
        values.append(self.down[1](values[-1]))
        for stage in self.stages[1:]:
            values = stage(values)
        size = values[0].shape[-2:]
        wide = [values[0], *(F.interpolate(v, size=size, mode="bilinear") for v in values[1:])]
        return self.head(torch.cat(wide, 1))


NETWORKS: Mapping[str, WrittenNetwork] = {
    "mtcnn_p": WrittenNetwork(ProposalNet, (3, 120, 160)),
    "mtcnn_r": WrittenNetwork(RefineNet, (3, 24, 24)),
    "mtcnn_o": WrittenNetwork(OutputNet, (3, 48, 48)),
    "ssd300": WrittenNetwork(SingleShotDetector, (3, 300, 300)),
    "crnn": WrittenNetwork(TextRecognizer, (1, 32, 100)),
    "hifigan": WrittenNetwork(Vocoder, (80, 16)),
    "hrnet": WrittenNetwork(HighResolutionNet, (3, 192, 256)),
}
