"""Which files are images of another format than TIFF, by their names, and what their outputs are called.

Readers are found by their module's name and imported only when a file is read.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path, PurePath

from ..errors import DefocusError, ErrorCode, InputError, MissingExtraError, first_line, shortage
from ..installation import install_command, is_installed

STORE = ".zarr"  # a folder that is one image, or several
READERS = {  # endings and the packages that read them, by their names on PyPI
    ".nd2": "bioio-nd2",
    ".czi": "bioio-czi",
    ".lif": "bioio-lif",
    ".dv": "bioio-dv",
    ".r3d": "bioio-dv",
    STORE: "zarr",
    # Not in the extra `formats`; they count as soon as somebody has them.
    ".sldy": "bioio-sldy",
    ".ims": "bioio-bioformats",
    ".oib": "bioio-bioformats",
    ".oir": "bioio-bioformats",
    ".zvi": "bioio-bioformats",
    ".png": "bioio-imageio",
    ".jpg": "bioio-imageio",
    ".jpeg": "bioio-imageio",
    ".bmp": "bioio-imageio",
}
IN_EXTRA = ("bioio-nd2", "bioio-czi", "bioio-lif", "bioio-dv", "zarr")
NAMED_ONLY = "bioio-imageio"  # whose pictures lie in any folder: thumbnails, screenshots, plots

_OUTPUT = ".ome.tif"
_installed = cache(is_installed)  # asked of each file of a folder


def is_other(path: PurePath) -> bool:
    """Whether a file is, by its name, of another format that can be read here, given its reader."""
    return path.suffix.lower() in READERS


def readable(name: str) -> bool:
    """Whether a folder is searched for files of such a name: of another format whose reader is installed.

    Not for PNG and the like, which are read where they are named.
    """
    reader = READERS.get(PurePath(name).suffix.lower())
    return reader is not None and reader != NAMED_ONLY and _installed(module_of(reader))


def module_of(reader: str) -> str:
    """The module of a reader's package."""
    return reader.replace("-", "_")


def install_line(reader: str) -> str:
    """The command that installs a reader."""
    return install_command("formats") if reader in IN_EXTRA else f"pip install {reader}"


def output_path(relative: Path) -> Path:
    """The path of an output, given that of its input: `a.nd2` becomes `a.nd2.ome.tif`; TIFF and Zarr keep their names.

    The whole name stays in it, so that `a.nd2` and `a.czi` of one folder never become one file.
    """
    other = is_other(relative) and not is_store(relative)
    return relative.with_name(f"{relative.name}{_OUTPUT}") if other else relative


def input_path(relative: Path) -> Path:
    """The path of an input, given that of its output: the reverse of `output_path`."""
    source = relative.with_name(relative.name.removesuffix(_OUTPUT) or relative.name)
    return source if output_path(source) == relative else relative


def is_store(path: PurePath) -> bool:
    """Whether a path is, by its name, a Zarr: a folder that counts as one file."""
    return path.suffix.lower() == STORE


def check_installed(path: PurePath) -> None:
    """Raise MissingExtraError unless the reader of a file is installed."""
    reader = READERS[path.suffix.lower()]
    if not _installed(module_of(reader)):
        raise MissingExtraError(
            reader, "formats" if reader in IN_EXTRA else "", f"{path.suffix.lower()} files ({path})"
        )


@contextmanager
def reader_errors(path: Path) -> Iterator[None]:
    """Turn what a reader raises, and is no fault of the disk or of ours, into an InputError that names the reader."""
    try:
        yield
    except (DefocusError, OSError, MemoryError):
        raise
    except Exception as error:
        if shortage(error):
            raise
        reader = READERS[path.suffix.lower()]
        cause = f"{reader} cannot read it ({type(error).__name__}: {first_line(error)})"
        raise InputError(path, cause, "export it as TIFF", ErrorCode.UNSUPPORTED) from error
