"""How an engine works, beside its model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ..errors import InputError
from ..image.tiling import round_up, smallest_tile
from ..model.card import Card
from .cpu_count import available_cores

DEFAULT_TILE = 1024
# How many tiles go through a backend together unless told otherwise. On a processor one at a time is fastest
# (docs/explanation/performance.md); on a card several hide the copies and the start of each layer (not measured yet).
_TOGETHER = {"tensorrt": 4, "rtx": 4, "cuda": 4}
# How many batches go through a processor side by side: two are faster than one on all cores (the same page).
_STREAMS = {"cpu": 2, "openvino": 2, "mnn": 2}


@dataclass(frozen=True)
class Settings:
    """How an engine works, beside its model.

    Attributes
    ----------
    tile, halo : int
        Side of a tile with its halo, and the halo, in px.
    per : "plane" or "stack"
        Whether each plane has an intensity of its own, or each channel of a stack has one.
    batch : int
        How many tiles at most go through the network at once, of one image or of several.
    streams : int
        How many batches at most run side by side on a processor, each on its share of the threads.
    threads : int or None
        Processor threads; None: as many as there are cores.
    """

    tile: int
    halo: int
    per: Literal["plane", "stack"] = "plane"
    batch: int = 1
    streams: int = 1
    threads: int | None = None

    @property
    def tiles_in_flight(self) -> int:
        """How many tiles may be on their way through the network."""
        return self.batch * self.streams


def settings_for(
    card: Card,
    backend: str,
    tile: int | None = None,
    halo: int | None = None,
    per: str = "plane",
    threads: int | None = None,
    batch: int | None = None,
    streams: int | None = None,
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
    if tile is None:
        tile = round_up(max(DEFAULT_TILE, 4 * halo), card.multiple)  # less than a quarter of such a tile would be core
    elif tile < smallest:
        raise InputError(f"tile {tile}", f"leaves no core between halos of {halo} px", f"use at least {smallest}")
    tile = tile // card.multiple * card.multiple
    streams = min(streams or _STREAMS.get(backend, 1), threads or available_cores())  # each has a thread at least
    return Settings(tile, halo, per, batch or _TOGETHER.get(backend, 1), streams, threads)
