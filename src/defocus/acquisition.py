"""Frames straight from a running acquisition: each is restored, or only measured, while the next one is exposed.

With pymmcore-plus (`pip install pymmcore-plus`), in the process that runs the acquisition:

    import defocus
    from defocus.acquisition import connect

    with defocus.Engine.load() as engine, connect(core, engine, on_frame=lambda frame: print(frame.report.verdict)):
        core.run_mda(sequence, block=True)

With anything else, `frame_processor` gives a function that takes an image and returns one: what pycro-manager calls an
image processor. Files that are written to a folder are what `defocus-watch` is for.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    from defocus.engine.inference.engine import Engine
    from defocus.engine.quality.report import PlaneReport

_LOG = logging.getLogger("defocus")


@dataclass(frozen=True)
class Frame:
    """One frame of the acquisition, and what is known of it.

    Attributes
    ----------
    image : array (Y, X)
        As the camera gave it.
    restored : array (Y, X) or None
        Of the same dtype; the frame itself, bit for bit, where it is sharp already. None if frames are only measured.
    report : PlaneReport
        `focus_in` always; the blur in px, fidelity and verdict only where the frame was restored.
    event : object
        The acquisition event that the frame belongs to (of pymmcore-plus a `useq.MDAEvent`).
    """

    image: np.ndarray
    restored: np.ndarray | None
    report: PlaneReport
    event: Any = None


def process(engine: Engine | None, image: np.ndarray, event: Any = None, all_planes: bool = False) -> Frame:
    """Restore one frame (Y, X) and report on it; without an engine, only measure how sharp it is.

    Planes that are sharp already come back as they are, unless `all_planes`.

    Raises
    ------
    DefocusError
        What an engine raises: `InputError` for a dtype or shape that it does not take.
    """
    if engine is None:
        from defocus.engine.quality.focus import focus_score
        from defocus.engine.quality.report import PlaneReport

        return Frame(image, None, PlaneReport(focus_in=focus_score(image)), event)
    from defocus.engine.api import restore

    restored, (report,) = restore(engine, image, "YX", all_planes)
    return Frame(image, restored, report, event)


def frame_processor(engine: Engine, all_planes: bool = False) -> Callable[..., Any]:
    """A function `(image, metadata) -> (image, metadata)` that restores each frame and adds its report to the metadata.

    That is what pycro-manager's `Acquisition(image_process_fn=...)` takes. The report stands under "defocus".
    """

    def restore(image: np.ndarray, metadata: dict[str, Any], *_: Any) -> tuple[np.ndarray, dict[str, Any]]:
        frame = process(engine, image, all_planes=all_planes)
        return frame.restored if frame.restored is not None else image, metadata | {"defocus": frame.report.as_dict()}

    return restore


class Connection:
    """Frames on their way through an engine, in a thread of their own. Made by `connect`; a context manager.

    Attributes
    ----------
    processed, dropped, failed : int
        Frames handed to `on_frame`; frames given up because newer ones came faster than the engine works; frames, or
        calls of `on_frame`, that raised (the first is logged with its traceback, and all are counted).
    """

    def __init__(
        self,
        engine: Engine | None,
        on_frame: Callable[[Frame], None],
        all_planes: bool = False,
        waiting: int = 2,
    ) -> None:
        self._engine, self._on_frame, self._all_planes = engine, on_frame, all_planes
        self.processed = self.dropped = self.failed = 0
        self._frames: deque[tuple[np.ndarray, Any]] = deque()
        self._most, self._busy, self._closed = max(1, waiting), False, False
        self._changed = threading.Condition()
        self._disconnect: Callable[[], None] = lambda: None
        self._thread = threading.Thread(target=self._run, name="defocus-acquisition", daemon=True)
        self._thread.start()

    def put(self, image: np.ndarray, event: Any = None, *_: Any) -> None:
        """Take a frame. Never waits, never raises: where the engine is behind, the oldest waiting frame is dropped."""
        with self._changed:
            if self._closed:
                return
            if len(self._frames) == self._most:
                self._frames.popleft()  # who watches a live image wants the newest
                self.dropped += 1
            self._frames.append((image, event))
            self._changed.notify_all()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until every frame that was taken has been dealt with; whether that is so after `timeout` seconds."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._frames and not self._busy, timeout)

    def close(self) -> None:
        """Take no more frames, deal with those that wait, and let the acquisition go."""
        self._disconnect()
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join()

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._busy = False
                self._changed.notify_all()
                self._changed.wait_for(lambda: self._frames or self._closed)
                if not self._frames:
                    return
                image, event = self._frames.popleft()
                self._busy = True
            try:
                self._on_frame(process(self._engine, image, event, self._all_planes))
                self.processed += 1
            except Exception:  # whatever it is, the acquisition goes on
                if not self.failed:
                    _LOG.exception("a frame could not be processed; further ones are only counted")
                self.failed += 1


def connect(
    core: Any,
    engine: Engine | None = None,
    on_frame: Callable[[Frame], None] = lambda frame: None,
    *,
    all_planes: bool = False,
    waiting: int = 2,
) -> Connection:
    """Process every frame of a pymmcore-plus acquisition beside it.

    Parameters
    ----------
    core : pymmcore_plus.CMMCorePlus
        Its acquisition engine's `frameReady` signal brings the frames.
    engine : Engine, optional
        Restores the frames; None: they are only measured (focus score), which takes some ms.
    on_frame : function (Frame)
        Called with each result, in a thread of this connection. What it raises is counted and logged, no more.
    all_planes : bool
        Restore planes that are sharp already, too.
    waiting : int
        How many frames may wait for the engine; of more, the oldest are dropped and counted.

    Returns
    -------
    Connection
        To be closed, or used as a context manager. Nothing of it blocks the acquisition or raises into it.
    """
    connection = Connection(engine, on_frame, all_planes, waiting)
    signal = core.mda.events.frameReady
    signal.connect(connection.put)
    connection._disconnect = lambda: signal.disconnect(connection.put)
    return connection
