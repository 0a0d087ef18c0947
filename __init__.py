"""defocus: a sharper TIFF for every one that a microscope wrote out of focus.

>>> import defocus
>>> with defocus.Engine.load() as engine:  # doctest: +SKIP
...     sharp = engine(image, axes="ZYX")
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
    from .engine.engine import Engine

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
]


def __getattr__(name: str) -> Any:
    if name == "Engine":  # numpy comes with it: only those who restore images pay for that
        from .engine.engine import Engine

        return Engine
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
