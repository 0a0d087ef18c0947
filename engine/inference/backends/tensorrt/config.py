"""What an engine is built for: named profiles of shapes, precision, limits."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from ....errors import InputError
from ....image.tiling import round_up
from ....model.card import Card

Size = tuple[int, int, int]  # batch, height, width


@dataclass(frozen=True)
class Profile:
    """A named range of shapes that an engine accepts, and the one it is tuned for; each (batch, height, width) px."""

    name: str
    least: Size
    best: Size
    most: Size

    def __str__(self) -> str:
        least, best, most = ("x".join(map(str, size)) for size in (self.least, self.best, self.most))
        return f"{self.name}={best}" if least == most else f"{self.name}={least}:{best}:{most}"

    def holds(self, size: Size) -> bool:
        """Whether a batch of that (batch, height, width) is inside."""
        return all(low <= value <= high for low, value, high in zip(self.least, size, self.most, strict=True))

    @classmethod
    def parse(cls, text: str, card: Card) -> Profile:
        """Read "[name=]LEAST:BEST:MOST" or "[name=]SIZE", each size N x C x H x W such as 1x1x528x704.

        Raises
        ------
        InputError
            Not that form, other channels than the card's, not multiples of the card's, or not in order.
        """
        remedy = f"write it like 1x{card.channels}x528x704 or tiles=1x{card.channels}x64x64:...:8x..., as defocus does"
        name, _, ranges = text.rpartition("=")
        try:
            sizes = [tuple(int(number) for number in part.lower().split("x")) for part in ranges.split(":")]
            if len(sizes) not in (1, 3) or any(len(size) != 4 for size in sizes):
                raise ValueError
        except ValueError as error:
            raise InputError(f"profile {text!r}", "not of the form NxCxHxW", remedy) from error
        if any(size[1] != card.channels for size in sizes):
            raise InputError(f"profile {text!r}", f"the model has {card.channels} channels", remedy)
        if any(side < 1 or side % card.multiple for size in sizes for side in size[2:]) or any(s[0] < 1 for s in sizes):
            raise InputError(f"profile {text!r}", f"sides must be multiples of {card.multiple} px", remedy)
        least, best, most = ((n, h, w) for n, _, h, w in (sizes * 3 if len(sizes) == 1 else sizes))
        if not all(a <= b <= c for a, b, c in zip(least, best, most, strict=True)):
            raise InputError(f"profile {text!r}", "its sizes are not in ascending order", remedy)
        return cls(name or ranges, least, best, most)


def usual_profiles(card: Card) -> tuple[Profile, ...]:
    """What an engine accepts unless told otherwise: batches of tiles, and whole planes one at a time."""
    least = card.multiple
    tile, plane = round_up(max(1024, 4 * card.halo), card.multiple), round_up(2048, card.multiple)
    field = (round_up(520, card.multiple), round_up(696, card.multiple))
    return (
        Profile("tiles", (1, least, least), (1, *field), (8, tile, tile)),
        Profile("planes", (1, least, least), (1, plane, plane), (1, plane, plane)),
    )


@dataclass(frozen=True)
class BuildConfig:
    """How an engine is built; everything here is part of its key in the cache.

    Attributes
    ----------
    profiles : tuple of Profile
        The shapes it accepts.
    precision : "fp16" or "fp32"
        What the caller asks for; it must be what the graph holds.
    workspace : int or None
        Limit of scratch memory, bytes; None: TensorRT's own.
    hardware_compatible, version_compatible : bool
        Let it run on other cards of its generation or newer, or with later TensorRT versions, at some cost in speed.
    capabilities : tuple of str
        TensorRT for RTX only: compute capabilities to build for ("SM89"), () for the card that is here.
    """

    profiles: tuple[Profile, ...]
    precision: Literal["fp16", "fp32"] = "fp16"
    workspace: int | None = None
    hardware_compatible: bool = False
    version_compatible: bool = False
    capabilities: tuple[str, ...] = ()

    @property
    def options(self) -> tuple[str, ...]:
        """The settings that are not the default, as text."""
        changed = [name for name in ("hardware_compatible", "version_compatible") if getattr(self, name)]
        changed += [f"workspace={self.workspace}"] if self.workspace else []
        return (*changed, *self.capabilities)


def describe(profiles: Iterable[Profile]) -> str:
    """The profiles in a few words, for errors and sidecars."""
    return ", ".join(map(str, profiles))
