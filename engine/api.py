"""One call for one array."""

from __future__ import annotations

import threading

import numpy as np

from .inference.backends import AUTO
from .inference.cached_engine import CachedEngine
from .inference.engine import Engine
from .model.card import DEFAULT

_LOCK = threading.Lock()  # an engine serves one thread at a time, and is not closed while it does
_ENGINE: CachedEngine[tuple[str, str]] = CachedEngine(lambda what: Engine.load(*what))


def deblur(image: np.ndarray, axes: str | None = None, *, model: str = DEFAULT, backend: str = AUTO) -> np.ndarray:
    """Restore an image that was recorded out of focus.

    The engine of the last model is kept for the next call. For many images, or settings of its own, use `Engine`.

    Parameters
    ----------
    image : array
        Any shape with a Y and an X axis, any dtype that `Engine` takes. It is not changed.
    axes : str, optional
        One letter a dimension, such as "TCYX"; by default the last two are Y and X.
    model, backend
        See `Engine.load`.

    Returns
    -------
    array of the same shape and dtype.

    Raises
    ------
    DefocusError
        What `Engine.load` and an engine raise.
    """
    with _LOCK:
        return _ENGINE.get((str(model), backend))(image, axes)
