"""How long many files will take, told before the first is begun: a plane like theirs is restored, and timed."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, wait
from pathlib import Path
from time import perf_counter

import numpy as np

from ..errors import DefocusError
from ..files.version import open_regular
from ..inference.engine import Engine
from ..inference.tasks import ImageRequest
from ..quality.assess import assess
from ..tiff.integrity import errors_as_input_error, open_tiff
from ..tiff.quiet import quiet_tifffile

SMALLEST, LARGEST = 64, 1024  # px, sides of the plane that is timed; a larger one goes through the network in tiles
_OTHER = (LARGEST, LARGEST), 2.0  # layout of a format that is not looked into: cameras have 10 to 16 bits


class Forecast:
    """Asked for files, it tells how long they will take. May be asked from any thread.

    What is timed is the engine and the assessment: that a disk is slow shows when the first files are done.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine, self._lock = engine, threading.Lock()
        self._pace: float | None = None  # s a pixel

    def seconds(self, files: Sequence[tuple[Path, int]], stop: Callable[[], bool] = lambda: False) -> float | None:
        """How long `files` (path, bytes) will take, s, if all are like the one of middle size.

        None if that cannot be told, or if `stop`, which is asked again and again meanwhile, says yes.
        """
        path, _ = sorted(files, key=lambda file: file[1])[len(files) // 2]
        shape, density = _layout(path)
        try:
            with self._lock:  # one at a time: two would each seem to take as long as both
                if self._pace is None:
                    self._pace = self._timed(shape, stop)
        except (DefocusError, CancelledError, TimeoutError):
            return None  # the backend fails, and whoever works with it tells
        return self._pace * sum(size for _, size in files) / density

    def _timed(self, shape: tuple[int, int], stop: Callable[[], bool]) -> float:
        """Seconds a pixel. The first run makes ready what the files need as well, and is not counted."""
        height, width = (max(SMALLEST, min(side, LARGEST)) for side in shape)
        y, x = np.ogrid[:height, :width]
        random = np.random.default_rng(0)
        drawn = 1000 + 400 * np.sin(x / 5) * np.sin(y / 7) + random.normal(0, 20, (height, width))
        planes = np.broadcast_to(drawn.astype(np.uint16), (self._engine.card.channels, height, width))
        seconds = 0.0
        for _ in range(2):
            start = perf_counter()
            future = self._engine.submit([ImageRequest(planes, "CYX", "a drawn plane that is timed")], stop, stop)
            while not wait([future], 0.5).done:
                if stop():
                    raise TimeoutError
            assess(planes, future.result()[0], "CYX")
            seconds = perf_counter() - start
        return seconds / planes.size


def _layout(path: Path) -> tuple[tuple[int, int], float]:
    """Height and width of a file's first plane, px, and bytes a pixel as they lie on the disk, compressed or not."""
    try:
        with errors_as_input_error(path), quiet_tifffile(), open_regular(path) as file, open_tiff(file) as tif:
            page = tif.pages[0].aspage()
            pixels = page.imagelength * page.imagewidth * page.samplesperpixel
            return (page.imagelength, page.imagewidth), max(1, sum(page.databytecounts)) / max(1, pixels)
    except (DefocusError, OSError):  # another format, or a file that will be told of in its turn
        return _OTHER
