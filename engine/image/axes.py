"""Axes: an array of any axes, seen as the planes that a model takes.

Axes are one letter each, as tifffile and OME have them: T time, Z depth, C channel, Y, X, S samples (RGB), any other.
"""

from __future__ import annotations

from math import prod

import numpy as np

from ..errors import InputError

# A last axis this short, with no axes given, may be red-green-blue(-alpha) instead of a width.
_MAYBE_COLOURS = (3, 4)


def check_axes(shape: tuple[int, ...], axes: str | None, thing: object = "image") -> str:
    """The axes of an array of this shape, in capitals. None means that the last two are Y and X.

    Without `axes`, a shape that ends like a colour image (..., 3) or (..., 4) is refused rather than guessed.

    Raises
    ------
    InputError
        The axes do not fit the shape, or do not have Y and X once each.
    """
    if axes is None:
        if len(shape) < 2:
            raise InputError(
                thing, f"has shape {shape}, without a Y and an X axis", "give an array of at least two axes"
            )
        if len(shape) > 2 and shape[-1] in _MAYBE_COLOURS and shape[-2] > max(_MAYBE_COLOURS):
            cause = f"shape {shape} may be a colour image (YXS) or a stack of planes {shape[-1]} px wide"
            raise InputError(thing, cause, 'say which with axes="...YXS" or axes="...YX"')
        return "?" * (len(shape) - 2) + "YX"
    axes = axes.upper()
    if len(axes) != len(shape):
        raise InputError(
            thing, f"axes {axes} name {len(axes)} of {len(shape)} dimensions", "give one letter a dimension"
        )
    if not {"Y", "X"} <= set(axes):
        raise InputError(thing, f"axes {axes} have no Y and X", "give an image whose planes have Y and X axes")
    if axes.count("Y") + axes.count("X") != 2:  # other letters may repeat: tifffile calls unnamed axes Q
        raise InputError(thing, f"axes {axes} repeat Y or X", "give one Y and one X")
    return axes


def as_groups(array: np.ndarray, axes: str, channels: int, thing: object = "image") -> np.ndarray:
    """A view of the array as (..., channels, Y, X): what one call of a model of that many channels takes, and the rest.

    For one channel every axis but Y and X is "the rest". For more, the axis C, else S, must have as many entries.

    Raises
    ------
    InputError
        There is no such axis.
    """
    y, x = axes.index("Y"), axes.index("X")
    if channels == 1:
        return np.moveaxis(array, (y, x), (-2, -1))[..., np.newaxis, :, :]
    for letter in "CS":
        channel = axes.find(letter)
        if channel >= 0 and array.shape[channel] == channels:
            return np.moveaxis(array, (channel, y, x), (-3, -2, -1))
    has = next((f"{array.shape[axes.index(letter)]} channels" for letter in "CS" if letter in axes), "no channel axis")
    cause = f"has {has} (axes {axes}, shape {array.shape}), the model takes {channels} channels together"
    raise InputError(
        thing,
        cause,
        f"give an axis C with {channels} entries, join files of one channel each with --channels, "
        "or take a one-channel model such as --model default",
    )


def plane_count(shape: tuple[int, ...], axes: str | None = None) -> int:
    """How many planes (Y, X) an image has; by default the last two axes are Y and X."""
    names = axes or "." * (len(shape) - 2) + "YX"
    return prod(size for size, name in zip(shape, names, strict=False) if name not in "YX")


def own_channels(axes: str, shape: tuple[int, ...]) -> int:
    """How many channels an image has of its own: entries of its longest axis C or S; 1 if it has none."""
    return max((size for letter, size in zip(axes, shape, strict=True) if letter in "CS"), default=1)


def channel_axis(axes: str) -> str | None:
    """The axis along which planes show different specimens or dyes, and so have intensities of their own."""
    return next((letter for letter in "CS" if letter in axes), None)
