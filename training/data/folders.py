"""Measured pairs from two folders of the same fields, out of focus and in focus: files are paired by their names."""

from __future__ import annotations

from pathlib import Path

from ...engine.errors import InputError
from .bbbc006 import NAME
from .fields import list_images, load_field
from .pairs import Pair, registered

_SAME_NAME = "give each defocused file a sharp one of the same name (BBBC006: of the same well, site and channel)"


def pairs_from_folders(blurred: Path, sharp: Path, z_um: float | None = None) -> list[Pair]:
    """Pair the files of two folders by their relative paths without the suffix; all are `z_um` out of focus.

    Files of BBBC006 are paired by well, site and channel, since each has a uuid of its own in its name: it is left out
    of the pair's name. Their pairs have one channel, and those of a well belong together.

    Raises
    ------
    InputError
        A file without its partner or with two, of another shape, unreadable, not grey; or two planes that do not show
        the same.
    """
    blurred, sharp = Path(blurred), Path(sharp)
    there, here = (_by_name(folder) for folder in (sharp, blurred))
    for name, path in (*here.items(), *there.items()):
        if name not in here or name not in there:
            raise InputError(path, f"has no partner in {sharp if name not in there else blurred}", _SAME_NAME)
    pairs = []
    for name, path in here.items():
        match, partner = NAME.fullmatch(path.name), there[name]
        well = match["well"].lower() if match else ""
        planes = load_field(path).data[None], load_field(partner).data[None]
        pairs.append(registered(*planes, path, partner, name, z_um, well))
    return pairs


def _by_name(folder: Path) -> dict[str, Path]:
    """The images below a folder by what their partner must be called, too."""
    found: dict[str, Path] = {}
    for path in list_images(folder):
        match = NAME.fullmatch(path.name)
        own = path.name[: match.end("channel")] if match else path.stem
        name = (path.parent.relative_to(folder) / own).as_posix()
        if name in found:
            cause = f"would have the same partner as {found[name].name}"
            raise InputError(path, cause, "leave one of the two in the folder")
        found[name] = path
    return found
