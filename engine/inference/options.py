"""How an engine works, beside its model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ..errors import InputError
from ..image.tiling import Tile, computed_pixels, plan, round_up, smallest_tile
from ..model.card import Card
from ..threads import available_cores
from .memory import MEMORY, Footprint, pixels_for

CARD_TILE = 1024  # px; of a card whose memory is not known
# How many tiles go through a backend together unless told otherwise. On a processor one at a time is fastest
# (docs/explanation/performance.md); on a card several hide the copies and the start of each layer (not measured yet).
_TOGETHER = {"tensorrt": 4, "rtx": 4, "cuda": 4}
# How many batches go through a processor side by side: two are faster than one on all cores (the same page).
_ALONE = 1.1  # how much longer a batch takes on all threads than its share of several side by side (likewise)
_STREAMS = {"cpu": 2, "openvino": 2, "mnn": 2}


@dataclass(frozen=True)
class Settings:
    """How an engine works, beside its model.

    Attributes
    ----------
    tile : int or None
        Longest side of a tile with its halo, in px, as the user asked for; None: what `max_pixels` and `longest_side`
        allow.
    halo : int
        The halo of a tile, in px.
    per : "plane" or "stack"
        Whether each plane has an intensity of its own, or each channel of a stack has one.
    batch : int
        How many tiles at most go through the network at once, of one image or of several.
    streams : int
        How many batches at most run side by side on a processor, each on its share of the threads.
    threads : int or None
        Processor threads; None: as many as there are cores.
    max_pixels : int
        How many pixels of tiles, halos included, may be on their way at once.
    larger_if_cut : float
        How much larger a tile may be, if it goes alone, where its plane is cut: then the runtime takes less a pixel.
    longest_side : int or None
        Of a tile that the runtime takes, px.
    """

    tile: int | None
    halo: int
    per: Literal["plane", "stack"] = "plane"
    batch: int = 1
    streams: int = 1
    threads: int | None = None
    max_pixels: int = 2**40
    larger_if_cut: float = 1.0
    longest_side: int | None = None

    @property
    def tiles_in_flight(self) -> int:
        """How many tiles may be on their way through the network."""
        return self.batch * self.streams

    def tiles_for(self, height: int, width: int, multiple: int) -> list[Tile]:
        """The tiles of a plane: as little computed as memory allows.

        Where tiles side by side would have to be smaller, they go one by one if that computes so much less that it
        makes up for the threads that wait for one another.
        """
        if self.tile is not None:
            return plan(height, width, self.tile, self.halo, multiple)
        alone, cut, beside = (
            plan(height, width, self.longest_side, self.halo, multiple, int(pixels))
            for pixels in (
                self.max_pixels,
                self.max_pixels * self.larger_if_cut,
                self.max_pixels // self.tiles_in_flight,
            )
        )
        if min(len(alone), len(cut)) > 1:
            alone = cut
        return alone if _ALONE * computed_pixels(alone) < computed_pixels(beside) else beside

    def most_in_batch(self, pixels: int) -> int:
        """How many tiles of so many pixels go through the network at once."""
        return max(1, min(self.batch, self.max_pixels // pixels))

    def needs_all_memory(self, pixels: int) -> bool:
        """Whether a batch of so many pixels goes alone, not beside those of other streams."""
        return pixels * self.streams > self.max_pixels


def settings_for(
    card: Card,
    backend: str,
    tile: int | None = None,
    halo: int | None = None,
    per: str = "plane",
    threads: int | None = None,
    batch: int | None = None,
    streams: int | None = None,
    memory: int = MEMORY,
    footprint: Footprint | None = None,
) -> Settings:
    """Settings that fit a model and the backend that runs it; None is the default.

    Raises
    ------
    InputError
        A setting makes no sense.
    """
    if per not in ("plane", "stack"):
        raise InputError(f"per {per!r}", "unknown", 'choose "plane" or "stack"')
    least_one = (("threads", threads, 1), ("batch", batch, 1), ("streams", streams, 1))
    for word, value, least in (("halo", halo, 0), *least_one):
        if value is not None and value < least:
            raise InputError(f"{word} {value}", "too small", f"use at least {least}")
    halo = round_up(card.halo if halo is None else halo, card.multiple)
    smallest = smallest_tile(halo, card.multiple)
    if tile is not None:
        if tile < smallest:
            raise InputError(f"tile {tile}", f"leaves no core between halos of {halo} px", f"use at least {smallest}")
        tile = tile // card.multiple * card.multiple
    streams = min(streams or _STREAMS.get(backend, 1), threads or available_cores())  # each has a thread at least
    batch = batch or _TOGETHER.get(backend, 1)
    footprint, larger_if_cut = footprint or Footprint(), 1.0
    if footprint.bytes_per_pixel is None:  # a card's
        tile = tile or round_up(max(CARD_TILE, 4 * halo), card.multiple)
        max_pixels = batch * tile**2
    else:
        # Less than a quarter of such a tile would be core.
        max_pixels = pixels_for(footprint, memory, round_up(max(4 * halo, 256), card.multiple) ** 2)
        larger_if_cut = footprint.bytes_per_pixel / (footprint.cut_bytes_per_pixel or footprint.bytes_per_pixel)
    longest_side = footprint.longest_side and max(smallest, footprint.longest_side)
    return Settings(tile, halo, per, batch, streams, threads, max_pixels, larger_if_cut, longest_side)
