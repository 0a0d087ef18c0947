"""defocus: a sharper TIFF for every one that a microscope wrote out of focus.

>>> import numpy as np, defocus
>>> image = np.random.default_rng(0).integers(100, 4000, (3, 64, 64), dtype=np.uint16)
>>> sharp = defocus.deblur(image, axes="ZYX")
>>> sharp.shape, sharp.dtype
((3, 64, 64), dtype('uint16'))
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ._version import __version__
from .engine.errors import (
    BackendError,
    ChangedError,
    DefocusError,
    InputError,
    MissingExtraError,
    ModelError,
    OutputError,
)

if TYPE_CHECKING:
    from .engine.api import deblur
    from .engine.inference.engine import Engine

__all__ = [
    "BackendError",
    "ChangedError",
    "DefocusError",
    "Engine",
    "InputError",
    "MissingExtraError",
    "ModelError",
    "OutputError",
    "__version__",
    "deblur",
]


def __getattr__(name: str) -> Any:
    if name == "Engine":  # numpy comes with it: only those who restore images pay for that
        from .engine.inference.engine import Engine

        return Engine
    if name == "deblur":
        from .engine.api import deblur

        return deblur
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
