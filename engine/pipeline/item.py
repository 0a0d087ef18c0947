"""What the stages of the pipeline hand on: a file, what is known of it, and its pixels as far as it has come."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..formats.dispatch import OtherFile
from ..image.memmap import Allocator, in_memory
from ..tiff.read import TiffFile, TiffImage
from .jobs import Outcome
from .output_map import OutputMap

Stat = tuple[int, int]  # size in bytes and modification time in ns: the version of a file


@dataclass(frozen=True)
class PipelineItem:
    """A file on its way: what is known of it, and its pixels as far as it has come. With an error it is carried on.

    Of files that belong together `parts` has each, and `images` their pixels along a new first axis C (see
    `channel_groups`). `notes` go into the provenance.

    Attributes
    ----------
    file : TiffFile, OtherFile or None
        What the output is made from, beside the pixels.
    images : tuple of TiffImage
        What of it is to be restored; empty after an error.
    restored : tuple of array
        One for each image.
    place : Allocator
        Where its pixels go.
    nbytes : int
        Bytes of pixels that it has in memory, or will when it is restored.
    output : OutputMap or None
        Its output, once it has been read.
    """

    outcome: Outcome
    version: Stat = (0, 0)
    file: TiffFile | OtherFile | None = None
    images: tuple[TiffImage, ...] = ()
    restored: tuple[np.ndarray, ...] = ()
    place: Allocator = in_memory
    nbytes: int = 0
    output: OutputMap | None = None
    parts: tuple[PipelineItem, ...] = ()
    notes: dict[str, Any] = field(default_factory=dict)
