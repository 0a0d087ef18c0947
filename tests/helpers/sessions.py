"""An engine whose session can be watched, slowed down or made to fail, by the public contract of sessions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from defocus import Engine
from defocus.engine.inference.backends import OpenedSession, Session, Streamed, StreamsSession, open_session
from defocus.engine.inference.fallback import Fallback
from defocus.engine.inference.options import Settings, settings_for
from defocus.engine.model.card import read_card

# Called with each batch (N, C, H, W) and the number of its stream (None: the session on all threads) before it runs.
Before = Callable[[np.ndarray, int | None], None]


class WatchedSession:
    """A session that calls `before` first."""

    def __init__(self, session: Session, before: Before, stream: int | None = None) -> None:
        self._session, self._before, self._stream = session, before, stream
        self.description, self.close = session.description, session.close
        self.footprint, self.trim = session.footprint, session.trim

    def run(self, batch: np.ndarray) -> np.ndarray:
        self._before(batch, self._stream)
        return self._session.run(batch)


def watched_engine(
    model: Path,
    before: Before,
    threads: int = 2,
    tile: int | None = None,
    batch: int | None = None,
    streams: int | None = None,
) -> Engine:
    """An engine on the processor."""
    card = read_card(model)
    opened = open_session("cpu", model, card, threads)
    wide = opened.session
    watched: Session = WatchedSession(wide, before)
    if isinstance(wide, StreamsSession):

        def narrow(count: int) -> Sequence[Session]:
            assert isinstance(wide, StreamsSession)
            return [WatchedSession(session, before, number) for number, session in enumerate(wide.streams(count))]

        watched = Streamed(watched, narrow)

    def settings(opened: OpenedSession) -> Settings:
        return settings_for(card, opened.name, tile, threads=threads, batch=batch, streams=streams)

    fallback = Fallback("cpu", lambda name: open_session(name, model, card, threads), settings, card.multiple)
    return Engine(card, OpenedSession("cpu", watched), settings(opened), fallback)
