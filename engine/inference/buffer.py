"""Memory that is kept from call to call: what is made for each batch anew costs the time to fault its pages in."""

from __future__ import annotations

from math import prod

import numpy as np


class Buffer:
    """One array at a time, over memory that only grows."""

    def __init__(self) -> None:
        self._bytes = np.empty(0, np.uint8)

    def array(self, shape: tuple[int, ...], dtype: np.dtype | type[np.generic]) -> np.ndarray:
        """An array, C-contiguous, of whatever was there before; valid until the next call."""
        dtype = np.dtype(dtype)
        nbytes = prod(shape) * dtype.itemsize
        if self._bytes.size < nbytes:
            self._bytes = np.empty(0, np.uint8)  # the old one goes before the new one comes
            self._bytes = np.empty(nbytes, np.uint8)
        return self._bytes[:nbytes].view(dtype).reshape(shape)
