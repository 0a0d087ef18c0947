"""defocus: a sharper TIFF for every one that a microscope wrote out of focus.

>>> import numpy as np, defocus
>>> image = np.random.default_rng(0).integers(100, 4000, (3, 64, 64), dtype=np.uint16)
>>> sharp = defocus.deblur(image, axes="ZYX")
>>> sharp.shape, sharp.dtype
((3, 64, 64), dtype('uint16'))
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if not Path(__file__).with_name("engine").is_dir():
    # A wheel has the rooms beside this file, a checkout at its top: docs/reference/architecture.md says why.
    __path__.append(str(Path(__file__).parents[2]))

from defocus.engine._version import __version__
from defocus.engine.errors import (
    BackendError,
    ChangedError,
    DefocusError,
    InputError,
    MissingExtraError,
    ModelError,
    OutputError,
)

if TYPE_CHECKING:
    from defocus.engine.api import assess, deblur
    from defocus.engine.formats.dispatch import read_provenance
    from defocus.engine.inference.engine import Engine
    from defocus.engine.quality.report import PlaneReport

__all__ = [
    "BackendError",
    "ChangedError",
    "DefocusError",
    "Engine",
    "InputError",
    "MissingExtraError",
    "ModelError",
    "OutputError",
    "PlaneReport",
    "__version__",
    "assess",
    "deblur",
    "read_provenance",
]
_LAZY = {  # numpy comes with them: only when used
    "Engine": "engine.inference.engine",
    "PlaneReport": "engine.quality.report",
    "assess": "engine.api",
    "deblur": "engine.api",
    "read_provenance": "engine.formats.dispatch",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_LAZY[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
