"""Channel slices: some of the channels of larger images."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ChannelSlice:
    """Channels from `first` on of images that have `channels` of them."""

    first: int
    channels: int

    def part(self, first: int) -> ChannelSlice:
        """The slice that begins `first` channels later."""
        return ChannelSlice(self.first + first, self.channels)
