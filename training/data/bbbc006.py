"""BBBC006 as the Broad Bioimage Benchmark Collection distributes it (Ljosa, Sokolnicki, Carpenter 2012; CC0).

34 folders BBBC006_v1_images_z_00 .. z_33, one a plane, 2 um apart; in each a file for every well, site and channel:
mcf-z-stacks-03212011_<well>_s<1|2>_w<1|2><uuid>.tif, 696 x 520 pixels, 16 bits, LZW. w1 is Hoechst, w2 phalloidin. The
uuid differs between the channels and planes of one field, so fields are found by well and site.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np

from ...engine.errors import InputError
from .fields import load_field, name_hash
from .pairs import Pair, registered

PLANES, FOCUS, STEP_UM = 34, 16, 2.0  # the paper counts from 1 and calls the plane of focus 17
SHAPE = (520, 696)
SITES, CHANNELS = (1, 2), (1, 2)
WELLS = tuple(f"{row}{column:02d}" for row in "abcdefghijklmnop" for column in range(1, 25))
FILES = len(WELLS) * len(SITES) * len(CHANNELS)  # 1536 a plane
PAPER_TRAIN = 675  # fields, of 768
NAME = re.compile(r"mcf-z-stacks-03212011_(?P<well>[a-p]\d\d)_s(?P<site>[12])_w(?P<channel>[12]).*\.tif", re.IGNORECASE)

FieldId = tuple[str, int]  # well, site


def plane_folder(root: Path, z: int) -> Path:
    """The folder of plane `z`, 0 to 33."""
    return Path(root) / f"BBBC006_v1_images_z_{z:02d}"


@lru_cache(maxsize=2 * PLANES)
def files_of_plane(folder: Path) -> dict[tuple[str, int, int], Path]:
    """Files of one plane's folder by (well, site, channel). Raises InputError for a missing folder or a field twice."""
    if not folder.is_dir():
        raise InputError(folder, "no such folder", "get it with defocus-data bbbc006")
    found: dict[tuple[str, int, int], Path] = {}
    for path in sorted(folder.iterdir()):
        match = NAME.fullmatch(path.name)
        if match:
            key = (match["well"].lower(), int(match["site"]), int(match["channel"]))
            if key in found:
                raise InputError(path, f"is a second file of the field of {found[key].name}", "remove one of the two")
            found[key] = path
    return found


def read_fields(root: Path, focus: int = FOCUS) -> list[FieldId]:
    """Fields with both channels in the plane of focus, sorted by well and site.

    Raises InputError for a folder that is not BBBC006, and for a channel without the other.
    """
    files = files_of_plane(plane_folder(root, focus))
    for (well, site, channel), path in files.items():
        if (well, site, 3 - channel) not in files:
            raise InputError(path, f"has no w{3 - channel} beside it", "get the folder again with defocus-data bbbc006")
    if not files:
        raise InputError(plane_folder(root, focus), "holds no file of BBBC006", "give the folder above the planes'")
    return sorted({(well, site) for well, site, _ in files})


def load_pair(root: Path, field: FieldId, z: int, focus: int = FOCUS) -> Pair:
    """The field (well, site) at plane `z` and in focus, two channels (w1, w2), (2, Y, X); z_um = (z - focus) * 2.

    `focus` is 16 by the collection's notes; 17 as the paper counts is 16 here, and 17 takes the next plane.
    Raises InputError for a missing or damaged file, and for planes that do not show the same field.
    """
    planes, paths = [], []
    for plane in (z, focus):
        files = files_of_plane(plane_folder(root, plane))
        try:
            mine = [files[(*field, channel)] for channel in CHANNELS]
        except KeyError as error:
            folder = plane_folder(root, plane)
            cause = f"lacks w{error.args[0][2]} of well {field[0]}, site {field[1]}"
            raise InputError(folder, cause, "get the folder again with defocus-data bbbc006") from error
        planes.append(np.stack([load_field(path).data for path in mine]))
        paths.append(mine[0])
    name = f"{field[0]}_s{field[1]}_z{z:02d}"
    return registered(planes[0], planes[1], paths[0], paths[1], name, (z - focus) * STEP_UM, field[0])


def paper_split(fields: Sequence[FieldId]) -> tuple[list[FieldId], list[FieldId]]:
    """The paper's split of the sorted fields: the first 675 of 768 to train on, the last 93 to test.

    The paper does not say how it sorts; here by well, then site. Of fewer fields the same share.
    """
    count = round(len(fields) * PAPER_TRAIN / (len(WELLS) * len(SITES)))
    return list(fields[:count]), list(fields[count:])


def well_split(fields: Sequence[FieldId], share: float = 0.12) -> tuple[list[FieldId], list[FieldId]]:
    """A split by well, by a hash of its name: no well is on both sides, and adding wells moves none across."""
    test = [field for field in fields if name_hash(field[0]) / 2**64 < share]
    return [field for field in fields if field not in set(test)], test


def crops(pair: Pair) -> list[Pair]:
    """The four quarters of a pair, 348 x 260 (X x Y) of a whole field, as the paper cuts them."""
    height, width = (side // 2 for side in pair.sharp.shape[1:])
    parts = []
    for i, (y, x) in enumerate((y, x) for y in (0, height) for x in (0, width)):
        cut = (slice(None), slice(y, y + height), slice(x, x + width))
        parts.append(Pair(pair.blurred[cut], pair.sharp[cut], pair.z_um, f"{pair.name}_{i + 1}", pair.well))
    return parts


def verify(root: Path, planes: Sequence[int] = range(PLANES)) -> None:
    """Check that every file of the planes is there. Raises InputError that names what is missing."""
    files_of_plane.cache_clear()
    for z in planes:
        folder = plane_folder(root, z)
        files = files_of_plane(folder)
        if len(files) != FILES:
            wanted = ((well, site, channel) for well in WELLS for site in SITES for channel in CHANNELS)
            missing = next((key for key in wanted if key not in files), None)
            first = f"; the first missing is {missing[0]} s{missing[1]} w{missing[2]}" if missing else ""
            cause = f"has {len(files)} of {FILES} images{first}"
            raise InputError(folder, cause, "delete it and get it again with defocus-data bbbc006")
        empty = next((path for path in files.values() if path.stat().st_size == 0), None)
        if empty:
            raise InputError(empty, "is empty", "delete its folder and get it again with defocus-data bbbc006")
