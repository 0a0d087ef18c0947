"""Microscope formats that are not read, or only with an extra: named, with what to do about them."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

from ..files.walk import walk
from .names import IN_EXTRA, NAMED_ONLY, READERS, install_line

_EXPORTS = {
    ".zvi": "in AxioVision or ZEN: Export > TIFF",
    ".lof": "in LAS X: Export > Save as TIFF",
    ".oib": "in FluoView: Export > TIFF",
    ".oif": "in FluoView: Export > TIFF",
    ".oir": "in FluoView or cellSens: Export > OME-TIFF",
    ".vsi": "in cellSens or OlyVIA: Export > TIFF",
    ".ims": "in Imaris: Export > OME-TIFF",
    ".sldy": "in SlideBook: Export > OME-TIFF",
    ".sld": "in SlideBook: Export > OME-TIFF",
    ".ndpi": "in NDP.view: Export > TIFF",
    ".svs": "in Aperio ImageScope: Save As > TIFF",
    ".mrc": "with Bio-Formats",
    ".dm3": "in GMS: Save As > TIFF",
    ".dm4": "in GMS: Save As > TIFF",
    ".h5": "with Bio-Formats",
    ".png": "with the program that wrote them: save as TIFF",
    ".jpg": "with the program that wrote them: save as TIFF, without loss",
    ".jpeg": "with the program that wrote them: save as TIFF, without loss",
    ".bmp": "with the program that wrote them: save as TIFF",
    ".hdf5": "with Bio-Formats",
    ".qptiff": "in QuPath: Export > OME-TIFF",
    ".scn": "in QuPath: Export > OME-TIFF",
    ".bif": "in QuPath: Export > OME-TIFF",
    ".flex": "with Bio-Formats",
    ".sif": "in Andor Solis: Export > TIFF",
}
_KNOWN = {*READERS, *_EXPORTS}
_MOST = 10_000  # files that are looked at


def other_formats(folder: Path) -> str | None:
    """A line about the files of other formats below a folder that holds no TIFF; None if there are none."""
    counts: Counter[str] = Counter()
    seen = 0
    for _, folders, names in walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        stores = [name for name in folders if name.lower().endswith(".zarr")]
        folders[:] = [name for name in folders if name not in stores]
        counts.update(ending for name in (*names, *stores) if (ending := os.path.splitext(name)[1].lower()) in _KNOWN)
        seen += len(names)
        if seen > _MOST:
            break
    if not counts:
        return None
    ending = counts.most_common(1)[0][0]
    others = ", ".join(f"{number} {suffix}" for suffix, number in counts.most_common())
    them = "it" if counts.total() == 1 else "them"
    cause = f"{folder}: holds no TIFF, but {others}"
    reader = READERS.get(ending)
    if reader in IN_EXTRA:
        return f"{cause}; read {them} with: {install_line(reader)}"
    export = f"{cause}; export {them} {_EXPORTS[ending]}"
    if reader is None:
        return f"{export}, or use bfconvert"
    named = f"name {them} (*{ending}) and " if reader == NAMED_ONLY else ""
    return f"{export}, or {named}install a reader: {install_line(reader)}"
