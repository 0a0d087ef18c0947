"""One call for one array."""

from __future__ import annotations

import threading
from typing import Literal, overload

import numpy as np

from .errors import DefocusError, ErrorCode, InputError
from .image.axes import check_axes
from .image.plane_statistics import PlaneStatistics
from .inference.backends import AUTO
from .inference.cached_engine import CachedEngine
from .inference.engine import Engine
from .inference.tasks import ImageRequest
from .model.card import DEFAULT
from .quality import assess as quality
from .quality.report import PlaneReport

_LOCK = threading.Lock()  # an engine serves one thread at a time, and is not closed while it does
_ENGINE: CachedEngine[tuple[str, str]] = CachedEngine(lambda key: Engine.load(key[0], backend=key[1]))

Reports = tuple[PlaneReport, ...]


@overload
def deblur(
    image: np.ndarray,
    axes: str | None = None,
    *,
    model: str = DEFAULT,
    backend: str = AUTO,
    all_planes: bool = False,
    report: Literal[False] = False,
) -> np.ndarray: ...
@overload
def deblur(
    image: np.ndarray,
    axes: str | None = None,
    *,
    model: str = DEFAULT,
    backend: str = AUTO,
    all_planes: bool = False,
    report: Literal[True],
) -> tuple[np.ndarray, Reports]: ...
def deblur(
    image: np.ndarray,
    axes: str | None = None,
    *,
    model: str = DEFAULT,
    backend: str = AUTO,
    all_planes: bool = False,
    report: bool = False,
) -> np.ndarray | tuple[np.ndarray, Reports]:
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
    all_planes : bool
        Restore every plane. By default planes that are sharp already, or show nothing above their noise, come back bit
        for bit, as `defocus-run` keeps them.
    report : bool
        Return what is known of each plane as well.

    Returns
    -------
    array of the same shape and dtype
        With `report`, a tuple of it and a `PlaneReport` per plane, in the order of the axes without Y and X.

    Raises
    ------
    DefocusError
        What `Engine.load` and an engine raise.
    """
    with _LOCK:
        engine = _ENGINE.get((str(model), backend))
        if all_planes and not report:
            return engine(image, axes)
        restored, reports = restore(engine, image, axes, all_planes)
    return (restored, reports) if report else restored


def restore(
    engine: Engine, image: np.ndarray, axes: str | None = None, all_planes: bool = False, name: object = "image"
) -> tuple[np.ndarray, Reports]:
    """Restore an image with an engine that is open, keep its sharp planes unless `all_planes`, and report on each.

    Shapes, dtypes and errors are those of a call of the engine; `name` is what errors call the image.
    """
    image, statistics = np.asarray(image), PlaneStatistics()
    (restored,) = engine.restore_many([ImageRequest(image, axes, name, statistics=statistics)])
    if isinstance(restored, DefocusError):
        raise restored
    axes = check_axes(image.shape, axes, name)
    reports = quality.assess(image, restored, axes, statistics)
    return restored, reports if all_planes else quality.keep_sharp_planes(image, restored, axes, reports)


def assess(before: np.ndarray, after: np.ndarray, axes: str | None = None) -> Reports:
    """Report how far each plane of a restored image can be trusted, whatever restored it.

    Parameters
    ----------
    before, after : array
        The image as it was recorded, and the restored one: same shape, dtype and unit. They are not changed.
    axes : str, optional
        One letter a dimension, such as "TCYX"; by default the last two are Y and X.

    Returns
    -------
    tuple of PlaneReport
        One per plane, in the order of the axes without Y and X: focus scores in cycles per pixel, fidelity, the largest
        local residual, the blur in px, and a verdict.

    Raises
    ------
    InputError
        Shapes or dtypes differ, the axes do not fit, the dtype is not one of real numbers, or there is NaN or infinity.
    """
    before, after = np.asarray(before), np.asarray(after)
    axes = check_axes(before.shape, axes)
    if (before.shape, before.dtype) != (after.shape, after.dtype):
        cause = f"has shape {before.shape} and dtype {before.dtype}, after {after.shape} and {after.dtype}"
        raise InputError("before", cause, "give two arrays of one shape and dtype")
    for name, array in (("before", before), ("after", after)):
        if array.dtype.kind not in "iuf":
            raise InputError(name, f"has dtype {array.dtype}", "give integers or floating-point numbers")
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise InputError(name, "has NaN or infinite values", "replace them", ErrorCode.NOT_FINITE)
    return quality.assess(before, after, axes)
