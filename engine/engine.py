"""The engine: an array goes in, the same array in focus comes out."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from math import isfinite
from types import TracebackType
from typing import Any, Literal, NamedTuple

import numpy as np

from .._version import __version__
from .backends import AUTO, CountsSession, Opened, not_finite, open_session
from .buffer import Buffer
from .card import DEFAULT, Card, model_path, read_card
from .errors import BackendError, InputError, StoppedError
from .fallback import Fallback, reopening
from .intensity import Intensity, check_dtype, from_unit, limited, measure, to_unit
from .planes import as_groups, channel_axis, check_axes, indices
from .scratch import relax
from .tiles import Tile, cut, plan, smallest_tile, up

DEFAULT_TILE = 1024


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
        How many tiles go through the network at once.
    threads : int or None
        Processor threads; None: as many as there are cores.
    """

    tile: int
    halo: int
    per: Literal["plane", "stack"] = "plane"
    batch: int = 1
    threads: int | None = None


class _Piece(NamedTuple):
    """One tile of one group (C, Y, X), where its core goes, and the intensity of each channel."""

    source: np.ndarray
    target: np.ndarray
    intensities: tuple[Intensity, ...]
    tile: Tile


class Engine:
    """A model opened in a backend, with its settings. Made by `Engine.load`; a context manager.

    One engine serves one thread at a time: give every thread its own.

    Attributes
    ----------
    card : Card
        What the model says of itself.
    settings : Settings
        Tile, halo, intensity per plane or stack, batch, threads.
    backend : str
        The name of the backend that runs.
    description : str
        What really runs, with version and device.
    passed_over : dict of str to str
        The backends that "auto" would rather have taken, and why each could not be.
    gave_way : list of str
        What was given up while running, and why: a line each for a smaller tile or another backend (`fallback`).
    """

    def __init__(self, card: Card, opened: Opened, settings: Settings, fallback: Fallback | None = None) -> None:
        self.card, self.settings = card, settings
        self.backend, self.passed_over = opened.name, opened.passed_over
        self._session, self.description = opened.session, opened.session.description
        self._fallback = fallback
        self._batch, self._edge = Buffer(), Buffer()  # of a batch, and of a tile at the plane's edge

    @property
    def gave_way(self) -> list[str]:
        return list(self._fallback.steps) if self._fallback else []

    @classmethod
    def load(
        cls,
        model: str | os.PathLike[str] = DEFAULT,
        backend: str = AUTO,
        tile: int | None = None,
        halo: int | None = None,
        per: Literal["plane", "stack"] = "plane",
        threads: int | None = None,
        batch: int = 1,
    ) -> Engine:
        """Open a model.

        Parameters
        ----------
        model : "default" or path
            "default" is the model inside the package.
        backend : str
            "auto" takes the first that really works here of `backends.NAMES`.
        tile, halo : int, optional
            In px; by default 1024 (more where the halo asks for it) and the halo on the model's card.
        per, threads, batch
            See `Settings`.

        Raises
        ------
        ModelError, BackendError, MissingExtraError
            The model or the backend cannot be used.
        InputError
            A setting makes no sense.
        """
        path = model_path(model)
        card = read_card(path)
        settings = _settings(card, tile, halo, per, threads, batch)
        fallback = Fallback(backend, reopening(path, card, threads), settings, card.multiple)
        return cls(card, open_session(backend, path, card, threads), settings, fallback)

    def __call__(
        self,
        image: np.ndarray,
        axes: str | None = None,
        name: object = "image",
        out: np.ndarray | None = None,
        stopped: Callable[[], bool] = lambda: False,
    ) -> np.ndarray:
        """Restore an image.

        Parameters
        ----------
        image : array
            Any shape with a Y and an X axis; uint8, uint16, uint32, int8, int16, int32, float16, float32 or float64.
            It is not changed.
        axes : str, optional
            One letter a dimension, such as "TZCYX" or "YXS". By default the last two are Y and X; a shape that ends
            like a colour image then needs axes.
        name : object
            What errors call the image: its file, say.
        out : array, optional
            Takes the result: of the same shape and dtype, sharing no memory with `image`. Both may lie on disk
            (`scratch.on_disk`): what is in memory at a time is a tile.
        stopped : function () -> bool
            Asked between tiles; yes ends it with `StoppedError`.

        Returns
        -------
        array
            `out`, or a new one. Same shape, dtype and units. A model of one channel goes plane by plane; one of C
            channels takes the axis C (or S), which must have C entries. Flat planes come back unchanged.

        Raises
        ------
        InputError
            Wrong axes, dtype or number of channels, NaN or infinite values.
        BackendError
            The runtime failed, or gave numbers that are none, and there was nothing to give way to: out of memory a
            smaller tile is tried, and where the backend was left to "auto" the next one.
        """
        image = np.asarray(image)
        check_dtype(image.dtype, name)
        axes = check_axes(image.shape, axes, name)
        result = np.empty(image.shape, image.dtype) if out is None else out
        if result.shape != image.shape or result.dtype != image.dtype:
            raise ValueError(f"out is {result.dtype} {result.shape}, the image {image.dtype} {image.shape}")
        while True:
            try:
                self._whole(image, result, axes, name, stopped)
                return result
            except BackendError as error:
                if not self._give_way(error):
                    raise

    def map(self, images: Iterable[np.ndarray], axes: str | None = None) -> Iterator[np.ndarray]:
        """Restore images as they come: lazy, in order, one in memory at a time.

        Parameters are those of a call. Whatever an image raises ends the stream.

        >>> import numpy as np, defocus
        >>> planes = (np.random.default_rng(i).integers(0, 4000, (64, 64), dtype=np.uint16) for i in range(3))
        >>> with defocus.Engine.load() as engine:
        ...     [plane.shape for plane in engine.map(planes)]
        [(64, 64), (64, 64), (64, 64)]
        """
        for number, image in enumerate(images):
            yield self(image, axes, name=f"image {number}")

    def _whole(
        self, image: np.ndarray, result: np.ndarray, axes: str, name: object, stopped: Callable[[], bool]
    ) -> None:
        """Restore an image once, from its first tile to its last."""
        source = as_groups(image, axes, self.card.channels, name)
        target = as_groups(result, axes, self.card.channels, name)
        pieces = self._pieces(source, target, axes, name)
        while batch := list(islice(pieces, self.settings.batch)):
            if stopped():
                raise StoppedError(name, "was left before its end", "start again")
            self._restore(batch)
            relax(image, result)

    def provenance(self) -> dict[str, Any]:
        """What made an output, ready for JSON: the software, the model and its hash, the backend, the settings."""
        return {
            "software": f"defocus {__version__}",
            "model": self.card.name,
            "model_sha256": self.card.sha256,
            "backend": self.description,
            "settings": asdict(self.settings) | {"intensity": asdict(self.card.intensity)},
            **({"gave_way": self.gave_way} if self.gave_way else {}),
        }

    def close(self) -> None:
        """Free the session; the engine cannot be called after."""
        self._session.close()

    def __enter__(self) -> Engine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _give_way(self, error: BackendError) -> bool:
        """Go on smaller or elsewhere, from the next try on; whether there is anything left to try."""
        if self._fallback is None:
            return False
        if less := self._fallback.smaller(self.settings, error):
            self.settings = less
            return True
        if (taken := self._fallback.next(self.backend, error)) is None:
            return False
        self._session.close()
        opened, self.settings = taken
        self.passed_over = self.passed_over | {self.backend: error.cause}
        self.backend, self._session, self.description = opened.name, opened.session, opened.session.description
        return True

    def _pieces(self, source: np.ndarray, target: np.ndarray, axes: str, name: object) -> Iterator[_Piece]:
        """The tiles of every group (channels, Y, X) that has something to restore; the others are copied."""
        if source.size == 0:
            return
        settings = self.settings
        height, width = source.shape[-2:]
        tiles = plan(height, width, settings.tile, settings.halo, self.card.multiple)
        find = self._per_plane if settings.per == "plane" else _PerStack(source, axes, self.card, name)
        for index in indices(source):
            intensities = find(source[index], index, name)
            if all(intensity.flat for intensity in intensities):
                target[index] = source[index]
                continue
            for tile in tiles:
                yield _Piece(source[index], target[index], intensities, tile)

    def _per_plane(self, group: np.ndarray, index: tuple[int, ...], name: object) -> tuple[Intensity, ...]:
        where = f"{name} plane {index}" if len(index) and any(index) else name
        return tuple(measure(plane, self.card.intensity, where) for plane in group)

    def _restore(self, pieces: list[_Piece]) -> None:
        """Run one batch of tiles and put their cores into place."""
        shape = (len(pieces), self.card.channels, *pieces[0].tile.shape)
        session = self._session
        if isinstance(session, CountsSession) and all(_same_counts(piece, session) for piece in pieces):
            self._restore_counts(session, pieces, shape)
            return
        batch = self._batch.array(shape, np.float32)
        for unit, (source, _, intensities, tile) in zip(batch, pieces, strict=True):
            for channel, intensity in enumerate(intensities):
                if intensity.flat:
                    unit[channel] = 0
                else:
                    to_unit(self._cut(source[channel], tile), intensity, out=unit[channel])
        batch, beyond = limited(batch)
        restored = session.run(batch)
        if restored.shape != batch.shape:
            cause = f"gave shape {restored.shape} for {batch.shape}"
            raise BackendError(self.description, cause, "export the model again with defocus-export")
        if not (isfinite(restored.min()) and isfinite(restored.max())):  # NaN comes through both
            raise not_finite(self.description)
        if beyond is not None:
            restored += beyond
        for unit, (source, target, intensities, tile) in zip(restored, pieces, strict=True):
            for channel, intensity in enumerate(intensities):
                core = (channel, *tile.target)
                if intensity.flat:
                    target[core] = source[core]
                else:
                    from_unit(unit[(channel, *tile.source)], intensity, target.dtype, out=target[core])

    def _restore_counts(self, session: CountsSession, pieces: list[_Piece], shape: tuple[int, ...]) -> None:
        """The same where the session converts the counts itself."""
        batch = self._batch.array(shape, np.uint16)
        for counts, piece in zip(batch, pieces, strict=True):
            for plane, source in zip(counts, piece.source, strict=True):
                plane[:] = self._cut(source, piece.tile)
        restored = session.run_counts(batch, [piece.intensities for piece in pieces])
        for counts, piece in zip(restored, pieces, strict=True):
            for plane, target in zip(counts, piece.target, strict=True):
                target[piece.tile.target] = plane[piece.tile.source]

    def _cut(self, plane: np.ndarray, tile: Tile) -> np.ndarray:
        """The pixels that a tile sees, valid until the next."""
        return cut(plane, tile, self._edge.array(tile.shape, plane.dtype))


def _same_counts(piece: _Piece, session: CountsSession) -> bool:
    """Whether a piece goes from counts that the session takes to counts of the same kind."""
    return piece.source.dtype == piece.target.dtype and session.takes_counts(piece.source.dtype)


class _PerStack:
    """One intensity for all planes of a stack, but one a channel: dyes have nothing to do with one another."""

    def __init__(self, source: np.ndarray, axes: str, card: Card, name: object) -> None:
        self._source, self._card, self._name = source, card, name
        others = [letter for letter in axes if letter not in "YX"]
        channel = channel_axis(axes)
        # With one channel at a time the channel axis is among the leading ones of (..., 1, Y, X).
        self._position = others.index(channel) if channel and card.channels == 1 else None
        self._found: dict[int, tuple[Intensity, ...]] = {}

    def __call__(self, group: np.ndarray, index: tuple[int, ...], name: object) -> tuple[Intensity, ...]:
        key = 0 if self._position is None else index[self._position]
        if key not in self._found:
            stack = self._source if self._position is None else self._source[(slice(None),) * self._position + (key,)]
            self._found[key] = tuple(
                measure(stack[..., channel, :, :], self._card.intensity, self._name)
                for channel in range(self._card.channels)
            )
        # A flat plane stays as it is, also among others.
        return tuple(
            Intensity(intensity.offset, 0.0) if plane.min() == plane.max() else intensity
            for plane, intensity in zip(group, self._found[key], strict=True)
        )


def _settings(card: Card, tile: int | None, halo: int | None, per: str, threads: int | None, batch: int) -> Settings:
    if per not in ("plane", "stack"):
        raise InputError(f"per {per!r}", "unknown", 'choose "plane" or "stack"')
    for word, value, least in (("halo", halo, 0), ("tile", tile, 1), ("threads", threads, 1), ("batch", batch, 1)):
        if value is not None and value < least:
            raise InputError(f"{word} {value}", "too small", f"use at least {least}")
    halo = up(card.halo if halo is None else halo, card.multiple)
    smallest = smallest_tile(halo, card.multiple)
    if tile is None:
        tile = up(max(DEFAULT_TILE, 4 * halo), card.multiple)  # less than a quarter of such a tile would be core
    elif tile < smallest:
        raise InputError(f"tile {tile}", f"leaves no core between halos of {halo} px", f"use at least {smallest}")
    return Settings(tile // card.multiple * card.multiple, halo, per, batch, threads)
