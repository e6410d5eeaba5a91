"""Channel slices: some of the channels of larger images."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Share:
    """Channels from `first` on of images that have `channels` of them."""

    first: int
    channels: int

    def part(self, first: int) -> Share:
        """The share that begins `first` channels later."""
        return Share(self.first + first, self.channels)
