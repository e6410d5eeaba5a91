"""Where windows over images lie: what torch pads by hand, TensorFlow Lite knows two ways for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from qpc.backends.litert.tables import Padding


@dataclass(frozen=True)
class Window:
    """Sizes along height and width."""

    kernel: Sequence[int]
    stride: Sequence[int]
    dilation: Sequence[int] = (1, 1)

    def placed(self, size: Sequence[int], result: Sequence[int], pads: Sequence[int]) -> Padding:
        """How to place windows over an image of `size`, which are to give one of `result`.

        pads: top, left, bottom, right. SAME pads by itself: as little as gives a window for every
        `stride` pixels, the smaller half of it in front. VALID does not; then the image is to be
        padded before.
        """
        if not any(pads):
            return Padding.VALID
        return (
            Padding.SAME if all(map(self._is_same, range(2), size, result, pads)) else Padding.VALID
        )

    def _is_same(self, axis: int, size: int, result: int, before: int) -> bool:
        reach = self.dilation[axis] * (self.kernel[axis] - 1) + 1
        count = -(-size // self.stride[axis])
        total = max((count - 1) * self.stride[axis] + reach - size, 0)
        return result == count and before == total // 2
