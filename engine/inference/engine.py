"""The engine: an array goes in, the same array in focus comes out."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict
from itertools import islice
from math import prod
from typing import Any, Literal

import numpy as np

from .._version import __version__
from ..errors import BackendError, DefocusError, InputError, StoppedError, drop_frames
from ..image.memmap import check_length, drop_resident_pages
from ..model.card import DEFAULT, Card, model_path, read_card
from ..threads import available_cores, thread_pool
from .backends import AUTO, OpenedSession, open_session
from .fallback import Fallback
from .memory import MEMORY
from .options import Settings, settings_for
from .request_queue import RequestQueue, RestorationFuture
from .session_pool import SessionPool
from .tasks import ImageRequest, ImageTask, TileTask
from .tile_runner import Batch


class Engine:
    """A model opened in a backend, with its settings. Made by `Engine.load`; a context manager.

    One engine serves one thread at a time: give every thread its own, or `submit` from all of them.

    Attributes
    ----------
    card : Card
        What the model says of itself.
    settings : Settings
        Tile, halo, intensity per plane or stack, batch, streams, threads.
    backend : str
        The name of the backend that runs.
    description : str
        What really runs, with version and device.
    rejected_backends : dict of str to str
        The backends that "auto" would rather have taken, and why each could not be.
    progress : function (name, share)
        Called between the tiles of what takes several: the name of the (first) image, and how much is done, 0 to 1.
        From any thread that restores.
    fallbacks : list of str
        What was given up while running, and why: a line each for a smaller tile or another backend (`fallback`).
    """

    def __init__(self, card: Card, opened: OpenedSession, settings: Settings, fallback: Fallback | None = None) -> None:
        self.card, self.settings = card, settings
        self.backend, self.rejected_backends = opened.name, opened.rejected_backends
        self._half_sha256 = opened.half_sha256
        self._threads = thread_pool(max(settings.streams, available_cores()) + 1, "defocus-engine")
        self._requests = RequestQueue(lambda *run: self.restore_many(*run), lambda: self.settings, self._threads)
        self._sessions, self.description = self._pool(opened), opened.session.description
        self._fallback = fallback
        self.progress: Callable[[object, float], None] = lambda name, share: None
        self._largest = 0  # pixels of a tile, of those tried last

    @property
    def fallbacks(self) -> list[str]:
        return list(self._fallback.steps) if self._fallback else []

    @classmethod
    def load(
        cls,
        model: str | os.PathLike[str] = DEFAULT,
        *,
        backend: str = AUTO,
        tile: int | None = None,
        halo: int | None = None,
        per: Literal["plane", "stack"] = "plane",
        threads: int | None = None,
        batch: int | None = None,
        streams: int | None = None,
        memory: int = MEMORY,
    ) -> Engine:
        """Open a model.

        Parameters
        ----------
        model : "default" or path
            "default" is the model inside the package. On a card the file `NAME_fp16.onnx` beside a model `NAME.onnx`
            runs in its place if it was proven against it; the default one has such a file.
        backend : str
            "auto" takes the first that really works here of `backends.NAMES`.
        tile, halo : int, optional
            In px. By default tiles are as large as `memory` allows, whole planes where they fit, and the halo is that
            on the model's card.
        memory : int
            Bytes that tiles may take on a processor; 0: what is free. On a card its free memory counts.
        per, threads, batch, streams
            See `Settings`; of batch and streams None is what is usual for the backend that is taken.

        Raises
        ------
        ModelError, BackendError, MissingExtraError
            The model or the backend cannot be used.
        InputError
            A setting makes no sense.
        """
        path = model_path(model)
        card = read_card(path)

        def settings(opened: OpenedSession) -> Settings:
            footprint = opened.session.footprint
            return settings_for(card, opened.name, tile, halo, per, threads, batch, streams, memory, footprint)

        settings_for(card, backend, tile, halo, per, threads, batch, streams)  # refuses before a backend is opened
        opened = open_session(backend, path, card, threads)
        fallback = Fallback(backend, lambda name: open_session(name, path, card, threads), settings, card.multiple)
        return cls(card, opened, settings(opened), fallback)

    def __call__(
        self,
        image: np.ndarray,
        axes: str | None = None,
        name: object = "image",
        out: np.ndarray | None = None,
        cancelled: Callable[[], bool] = lambda: False,
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
            (`memmap.on_disk`): what is in memory at a time is a tile.
        cancelled : function () -> bool
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
        (result,) = self.restore_many([ImageRequest(image, axes, name, out)], cancelled)
        if isinstance(result, DefocusError):
            raise result
        return result

    def restore_many(
        self, images: Sequence[ImageRequest], cancelled: Callable[[], bool] = lambda: False, shared: bool = False
    ) -> list[np.ndarray | DefocusError]:
        """Restore several images, whose tiles share batches where they have one shape, and batches go side by side, as
        far as the settings allow.

        Of each, what a call would return or raise: a bad image does not stop the others.

        With `shared`, other threads may do the same meanwhile: it takes one stream, or waits for one, and what the
        runtime refuses then, or needs all memory, is refused, without a fallback.
        """
        tasks: list[ImageTask | DefocusError] = [self._task(image) for image in images]
        while True:
            try:
                batches, done = self._batches(tasks), 0
                count = sum(task.tile_count(self.settings) for task in tasks if isinstance(task, ImageTask))
                while group := list(islice(batches, 1 if shared else self.settings.streams)):
                    if cancelled():
                        raise StoppedError(images[0].name, "was stopped before it was done", "start again")
                    check_length(*(task.data for task in tasks if isinstance(task, ImageTask)))
                    self._sessions.run(group, self.settings, shared)
                    done += sum(map(len, group))
                    if done < count:
                        self.progress(images[0].name, done / count)
                    drop_resident_pages(
                        *(array for task in tasks if isinstance(task, ImageTask) for array in (task.data, task.result))
                    )
                break
            except BackendError as error:
                if not shared and self._give_way(error):
                    continue
                if not shared and len(images) > 1:  # whose fault it is shows when each goes alone
                    return [self.restore_many([image], cancelled)[0] for image in images]
                failed: DefocusError = error
            except StoppedError as error:
                failed = error
            tasks = [failed if isinstance(task, ImageTask) else task for task in tasks]
            break
        for error in tasks:
            if isinstance(error, DefocusError):
                drop_frames(error)
        return [task.result if isinstance(task, ImageTask) else task for task in tasks]

    def submit(
        self,
        images: Sequence[ImageRequest],
        stop: Callable[[], bool] = lambda: False,
        abandoned: Callable[[], bool] = lambda: False,
    ) -> RestorationFuture:
        """Restore images of one file beside those that others submit; may be called from any thread.

        What is submitted alone has the engine to itself; what waits together shares it, a stream each, and batches
        where the shapes are the same. Images on disk (`memmap.on_disk`) never share it.

        Parameters
        ----------
        stop : function () -> bool
            Once it says yes, images are not begun any more (the future is cancelled), and those on disk are left
            between two tiles with `StoppedError`.
        abandoned : function () -> bool
            Once it says yes, all are left so.

        Returns
        -------
        Future of a list of arrays
            Its exception is what a call would raise for the first image that failed.
        """
        return self._requests.submit(images, stop, abandoned)

    def map(self, images: Iterable[np.ndarray], axes: str | None = None) -> Iterator[np.ndarray]:
        """Restore images as they come: lazy, in order, one in memory at a time.

        Parameters are those of a call. Whatever an image raises ends the stream.

        Examples
        --------
        >>> import numpy as np, defocus
        >>> planes = (np.random.default_rng(i).integers(0, 4000, (64, 64), dtype=np.uint16) for i in range(3))
        >>> with defocus.Engine.load() as engine:
        ...     [plane.shape for plane in engine.map(planes)]
        [(64, 64), (64, 64), (64, 64)]
        """
        for number, image in enumerate(images):
            yield self(image, axes, name=f"image {number}")

    def _task(self, image: ImageRequest) -> ImageTask | DefocusError:
        try:
            return ImageTask(image, self.card)
        except DefocusError as error:  # the image's own, or no room on the disk for its result
            return error

    def _batches(self, tasks: list[ImageTask | DefocusError]) -> Iterator[Batch]:
        """The tiles of all images in batches of one shape; an image that turns out to be bad becomes its error."""
        self._largest = 0

        def tiles() -> Iterator[TileTask]:
            for index, task in enumerate(tasks):
                if isinstance(task, ImageTask):
                    try:
                        yield from task.tile_tasks(self.settings)
                    except InputError as error:
                        tasks[index] = error

        batch: Batch = []
        for task in tiles():
            pixels = prod(task.tile.shape)
            self._largest = max(self._largest, pixels)
            full = len(batch) >= self.settings.most_in_batch(pixels)
            if batch and (full or task.tile.shape != batch[0].tile.shape):
                yield batch
                batch = []
            batch.append(task)
        if batch:
            yield batch

    def provenance(self) -> dict[str, Any]:
        """What made an output, ready for JSON: the software, the model and its hash, the backend, the settings."""
        return {
            "software": f"defocus {__version__}",
            "model": self.card.name,
            "model_sha256": self.card.sha256,
            **({"half_sha256": self._half_sha256} if self._half_sha256 else {}),
            "backend": self.description,
            "settings": asdict(self.settings) | {"intensity": asdict(self.card.intensity)},
            **({"fallbacks": self.fallbacks} if self.fallbacks else {}),
        }

    def close(self) -> None:
        """Free what the backend holds; the engine cannot be called after."""
        self._threads.shutdown(wait=True)
        self._sessions.close()

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _give_way(self, error: BackendError) -> bool:
        """Go on smaller or elsewhere, from the next try on; whether there is anything left to try."""
        if self._fallback is None:
            return False
        if less := self._fallback.smaller(self.settings, error, self._largest):
            self.settings = less
            return True
        if (taken := self._fallback.next(self.backend, error)) is None:
            return False
        self._sessions.close()
        opened, self.settings = taken
        self.rejected_backends = self.rejected_backends | {self.backend: error.cause}
        self.backend, self.description = opened.name, opened.session.description
        self._half_sha256 = opened.half_sha256
        self._sessions = self._pool(opened)
        return True

    def _pool(self, opened: OpenedSession) -> SessionPool:
        return SessionPool(opened.session, self.card.channels, self._threads)
