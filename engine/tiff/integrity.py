"""Whether a TIFF is whole: every directory, strip and tile lies inside the file. No pixel is decoded."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import tifffile

from ..errors import DefocusError, ErrorCode, InputError, shortage
from ..files.version import NotRegularError, open_regular
from .description import planes_below
from .pages import WAIT, ImagePage, Structure, structure

_NOT_TIFF = "give a TIFF file"
_TAIL = 1 << 16  # bytes
_DENSEST = {1: 1, 5: 2560, 8: 1032, 32946: 1032, 32773: 64}  # no compression makes pixels this many times smaller
_DENSEST_OTHER = 10**6  # so many times at most with any other compression
_CLAIM = 1 << 30  # bytes of pixels up to which strips may share their bytes, or have none, as they like
_SPARSEST = 256  # no file with more pixels than that has so many times fewer bytes because strips or tiles have none
_SINGLE = (256, 257, 259, 262, 277, 284, 317, 322, 323, 32997, 32998)


class UnfinishedError(InputError):
    """The file is whole, but says that there is more to come: it is taken as it is once its writer is surely gone."""

    default_code = ErrorCode.INCOMPLETE


def check_complete(path: str | os.PathLike[str], finished: bool = False) -> None:
    """Raise InputError unless the file is a TIFF and all of it is there (promise P5).

    Reads directories only, so it is cheap, and safe on a file that is still being written.

    Raises
    ------
    InputError
        Missing, unreadable, a folder, empty, not a TIFF, or truncated; the cause says which.
    UnfinishedError
        With `finished`: strips or tiles have no place yet, or the description names planes that are not there.
    """
    path = Path(path)
    with errors_as_input_error(path), open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        layout = structure(file, size, path)
        check_structure(layout, file, path)
        if finished:
            check_end(layout, path)
        if finished and (cause := unfinished(layout, file)):
            raise UnfinishedError(path, f"not complete: {cause}", WAIT)


def check_structure(layout: Structure, file: BinaryIO, path: Path) -> None:
    """Raise InputError unless all pages are there."""
    present, named = planes_below(layout.pages[0], file, layout.size)
    if len(layout.pages) == 1 and not present:
        cause = f"truncated: its description names {named} planes, not all are there"
        raise InputError(path, cause, WAIT, ErrorCode.TRUNCATED)
    for page in layout.every:
        _check_page(page, layout.size, path)
    stored = [page for page in layout.pages if len(page.offsets)]  # an old JPEG may lie elsewhere
    if stored and all(page.sparse.all() for page in stored):
        raise InputError(path, "not complete: its pixels are not written yet", WAIT, ErrorCode.INCOMPLETE)
    _check_claim(layout, path)


def _check_page(page: ImagePage, size: int, path: Path) -> None:
    """Raise InputError unless all strips or tiles that a page says it has lie in the file, and can hold its pixels."""
    offsets, counts, name = page.offsets, page.counts, page.name
    if page.width < 1 or page.length < 1:
        raise InputError(path, f"{name} has no pixels", WAIT, ErrorCode.DAMAGED)
    if any(len(page.numbers.get(code, ())) > 1 for code in _SINGLE):
        raise InputError(path, f"damaged: {name} has several widths, lengths or compressions", WAIT, ErrorCode.DAMAGED)
    if not page.compression == 6 and (len(offsets) != len(counts) or len(offsets) < page.segments):
        raise InputError(path, f"truncated: {name} lacks strips or tiles", WAIT, ErrorCode.TRUNCATED)
    if (offsets < 0).any() or (counts < 0).any():
        raise InputError(path, f"damaged: {name} has strips or tiles beyond all files", WAIT, ErrorCode.DAMAGED)
    if len(offsets) == len(counts):
        beyond = int(np.max(np.where((offsets > 0) & (counts > 0), offsets + counts - size, 0), initial=0))
        if beyond > 0:
            cause = f"truncated: {name} ends {beyond} bytes beyond the end of the file"
            raise InputError(path, cause, WAIT, ErrorCode.TRUNCATED)
    if page.compression == 6 or not len(counts):
        return
    share = 1 - page.sparse.mean()
    needed = page.nbytes * share / (3 if page.photometric == 6 else 1)
    if sum(counts.tolist()) * _DENSEST.get(page.compression, _DENSEST_OTHER) < int(needed):
        raise InputError(path, f"truncated: {name} has fewer bytes than pixels", WAIT, ErrorCode.TRUNCATED)


def _check_claim(layout: Structure, path: Path) -> None:
    """Raise InputError for pages that claim far more pixels than their bytes can hold, since many share the same ones.

    A file of some kilobytes could keep the engine busy for days.
    """
    if sum(page.nbytes for page in layout.every) <= _CLAIM:
        return
    needed = capacity = sparse = 0.0
    held: list[tuple[np.ndarray, np.ndarray]] = []
    for page in layout.every:
        if len(page.offsets) == len(page.counts):
            without = float(page.sparse.mean()) if len(page.sparse) else 1.0
            needed += page.nbytes * (1 - without)
            sparse += page.nbytes * without if len(page.sparse) else 0
            density = _DENSEST.get(page.compression, _DENSEST_OTHER)
            capacity = max(capacity, float(layout.size * density))
            held.append((page.offsets, page.counts * float(density)))
    if sparse > max(_CLAIM, _SPARSEST * layout.size):
        cause = f"damaged: it claims {sparse / 1e9:.1f} GB of pixels that it does not hold"
        raise InputError(path, cause, WAIT, ErrorCode.DAMAGED)
    if needed <= _CLAIM:
        return
    offsets, rooms = (np.concatenate(arrays) for arrays in zip(*held, strict=True))
    _, places = np.unique(offsets, return_inverse=True)
    largest = np.zeros(int(places.max(initial=-1)) + 1)
    np.maximum.at(largest, places, rooms)
    capacity = min(capacity, float(largest.sum()))
    if needed > 2 * capacity:
        cause = f"damaged: it claims {needed / 1e9:.1f} GB of pixels, its bytes hold {capacity / 1e9:.3f} GB at most"
        raise InputError(path, cause, WAIT, ErrorCode.DAMAGED)


def check_end(layout: Structure, path: Path) -> None:
    """Raise InputError for a file whose writer has not ended it: it may go on for days, or was stopped for good."""
    if layout.stopped:
        remedy = "wait until it is complete; if its acquisition was stopped, correct it with defocus-run"
        raise InputError(path, f"not complete: {layout.stopped}", remedy, ErrorCode.INCOMPLETE)


def unfinished(layout: Structure, file: BinaryIO) -> str:
    """What a whole file says is still to come; "" if nothing."""
    for page in layout.pages:
        if page.sparse.any():
            return f"{page.name} has strips or tiles not written yet"
    present, named = planes_below(layout.pages[0], file, layout.size)
    present = max(present, len(layout.pages))
    return f"its description names {named} planes, {present} are there" if present < named else ""


def ends_in_zeros(layout: Structure, file: BinaryIO) -> bool:
    """Whether the last strip or tile of a whole, uncompressed TIFF holds nothing but zeros.

    So does a file that was given its final size before its pixels came. Raises OSError.
    """
    page = layout.pages[-1]
    if page.compression != 1 or not len(page.offsets) or page.sparse[-1:].all():
        return False
    offset, count = int(page.offsets[-1]), int(page.counts[-1])
    file.seek(offset + max(0, count - _TAIL))
    return not any(file.read(min(count, _TAIL)))


def open_tiff(source: str | os.PathLike[str] | BinaryIO, omexml: str | None = None) -> tifffile.TiffFile:
    """Open a TIFF so that page n is page n of this very file, whatever lies beside it; `omexml` for its own, if given.

    tifffile would follow a Micro-Manager or NDTiff index to the planes of the whole dataset, in an order of its own,
    and an OME-XML to other files.
    """
    given: Any = source
    if hasattr(given, "seek"):
        given.seek(0)
    return tifffile.TiffFile(given, omexml=omexml, _multifile=False, is_mmstack=False, is_ndtiff=False)


@contextmanager
def errors_as_input_error(path: Path) -> Iterator[None]:
    """Turn whatever reading a TIFF may raise into an InputError that names the file."""
    try:
        yield
    except DefocusError:
        raise
    except FileNotFoundError as error:
        raise InputError(path, "no such file", "check the path", ErrorCode.MISSING) from error
    except NotRegularError as error:
        raise InputError(path, "not a regular file", _NOT_TIFF, ErrorCode.NOT_TIFF) from error
    except IsADirectoryError as error:
        raise InputError(path, "a folder, not a file", _NOT_TIFF, ErrorCode.NOT_TIFF) from error
    except PermissionError as error:
        if os.path.isdir(path):  # what Windows says of a folder
            raise InputError(path, "a folder, not a file", _NOT_TIFF, ErrorCode.NOT_TIFF) from error
        remedy = "give this user read permission"
        raise InputError(path, "no permission to read", remedy, ErrorCode.PERMISSION) from error
    except MemoryError:
        raise
    except OSError as error:
        if shortage(error):
            raise
        cause = f"cannot be read ({error.strerror or error})"
        raise InputError(path, cause, "check the disk or the share", ErrorCode.UNREADABLE) from error
    except Exception as error:  # tifffile and imagecodecs raise many kinds on damaged files
        if shortage(error):
            raise
        cause = f"damaged ({type(error).__name__}: {error})"
        raise InputError(path, cause[:300], WAIT, ErrorCode.DAMAGED) from error
