"""Other pixels in a copy of a TIFF: every byte that is no pixel, and no number about pixels, stays as it is.

New pixels go into the place of the old ones if they fit, else into places that other ones left, else behind the end.
Nothing is written over where it is not surely ours: a strip that two pages share, or that overlaps something else, is
appended. Directories stay where they are; one that must change gets a changed copy, and its pointer leads there.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ..errors import ErrorCode, InputError
from ..files.atomic import rights_at_the_end, rights_to_write
from ..image.bands import same
from ..image.memmap import drop_resident_pages, is_disk_backed, lies_in, may_shrink, reserve
from ..threads import spread
from .decode import DROP, ArrayFile, is_small
from .directories import Directory, TagEntry, changed_copy, holds, patch, values
from .encode import Encode, encoder, put_back, reduced
from .pages import LOSSLESS, ImagePage
from .places import Places, Survey
from .provenance import PROCESSING_SOFTWARE, PROVENANCE_TAG, lines, trailer
from .quiet import quiet_tifffile
from .read import TiffFile, TiffImage

_BLOCK = 1 << 24  # bytes written at once
_DEFLATE = 8
_LSM = 34412
_LONG, _LONG8, _ASCII = 4, 16, 2
_EXTREMES = ((280, np.min), (281, np.max), (340, np.min), (341, np.max))
_TELLS_EXTREMES = {code for code, _ in _EXTREMES}

Tags = dict[int, tuple[int, int, bytes]]


def replace_pixels(
    source: TiffFile, restored: Sequence[np.ndarray], path: str | os.PathLike[str], provenance: Mapping[str, object]
) -> None:
    """Write a file again with other pixels in its images, and how they were made. Neither syncs nor renames.

    Parameters
    ----------
    restored : sequence of array
        One for each of `source.images`, of the same shape and dtype. Those that lie in the file already, as
        `output_map` allots them, are not written again.

    Raises
    ------
    InputError
        It would pass the 4 GB of a classic TIFF.
    OSError
        The file cannot be written; see `atomic.output_error`.
    ValueError
        The data have another shape or dtype than was read.
    """
    for image, data in zip(source.images, restored, strict=True):
        if data.shape != image.data.shape or data.dtype != image.data.dtype:
            have, need = f"{data.dtype} {data.shape}", f"{image.data.dtype} {image.data.shape}"
            raise ValueError(f"{have} cannot take the place of {need}")
    anew = 0 if any(lies_in(data, Path(path)) for data in restored) else os.O_TRUNC
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0) | anew
    with open(os.open(path, flags, rights_to_write(source.mode)), "r+b") as file, quiet_tifffile():
        copy = _Copy(source, file, path)
        copy.copy()
        for image, data in zip(source.images, restored, strict=True):
            copy.replace(image, data)
        copy.finish(provenance)
    rights_at_the_end(path, source.mode)


class _Copy:
    """A copy of a file while its pixels are replaced."""

    def __init__(self, source: TiffFile, file: BinaryIO, path: str | os.PathLike[str]) -> None:
        self._source, self._file, self._survey = source, file, Survey(source)
        self._form, self._decoders = source.structure.form, source.decoders
        self._places = Places(file, len(source.bytes), self._form.limit, source.path)
        self._changes: dict[Directory, Tags] = {}
        self._path = Path(os.fsdecode(path))

    def copy(self) -> None:
        """Write all bytes but those that `replace` writes whether they change or not."""
        size = len(self._source.bytes)
        reserve(self._file, size)
        places = [place for image in self._source.images for place in self._survey.overwritten(image)]
        at = 0
        for begin, stop in [*sorted(places), (size, size)]:
            self._file.seek(at)
            for start in range(at, begin, _BLOCK):
                part: Any = self._source.bytes[start : min(start + _BLOCK, begin)]
                self._file.write(part)
                drop_resident_pages(self._source.bytes)
            at = stop

    def replace(self, image: TiffImage, restored: np.ndarray) -> None:
        """Put other pixels in the place of an image's, and of its reduced copies."""
        before, after = image.planes(image.data), image.planes(restored)
        if image.blank is not None:
            self._put_back(image, image.planes(image.blank), before, after)
        if len(image.pages) < len(before):
            page = image.pages[0]
            if not self._survey.alone[page].all():
                cause = "its planes overlap other parts of the file"
                raise InputError(self._source.path, cause, "save it again", ErrorCode.UNSUPPORTED)
            for number, new in enumerate(after):
                self._pixels(int(page.offsets[0]) + number * page.nbytes, new)
            self._extremes(page, image.data, restored)
            return
        shown = {full for _, full in self._source.levels}
        work = list(zip(image.pages, before, after, strict=True))

        def encoded(page: ImagePage, old: np.ndarray, new: np.ndarray) -> Iterable[bytes | None] | None:
            """The strips or tiles of a page that `_page` is to write; None if there is nothing to do but its pixels."""
            described = page in shown or _TELLS_EXTREMES & page.directory.tags.keys()
            if (self._survey.in_place(page, new.nbytes) and not described) or same(old, new):
                return None  # to write is cheaper than to compare
            with quiet_tifffile():  # which is of this thread
                return self._encoded(page, old, new)

        at_once = all(map(is_small, image.pages)) and not may_shrink(self._source.bytes)
        ahead = (spread if at_once else map)(lambda planes: encoded(*planes), work)
        for (page, old, new), segments in zip(work, ahead, strict=True):
            if segments is None:
                if self._survey.in_place(page, new.nbytes):
                    self._pixels(int(page.offsets[0]), new)
                continue
            self._page(page, old, new, segments)
            for small, full in self._source.levels:
                if full is page and image.blank is None:
                    self._level(small, old, new)

    def _put_back(self, image: TiffImage, blank: np.ndarray, before: np.ndarray, after: np.ndarray) -> None:
        """Give the pixels that have no value theirs again, once the reduced copies have been made without them."""
        for number, (mask, old, new) in enumerate(zip(blank, before, after, strict=True)):
            for small, full in self._source.levels:
                if full in image.pages[number : number + 1]:
                    self._level(small, old, new, image.no_value)
            put_back(mask, image.no_value, old, new)

    def finish(self, provenance: Mapping[str, object]) -> None:
        """Append what must be said elsewhere: how the file was made, and copies of directories that have changed."""
        layout = self._source.structure
        first = layout.pages[0].directory
        if layout.stopped:  # what is appended would come to lie where a page is named that was never written
            self._file.seek(layout.pages[-1].directory.link)
            self._file.write(self._form.link.pack(0))
        line, record = lines(provenance)
        tags = self._changes.setdefault(first, {})
        ours = {PROVENANCE_TAG: (_ASCII, len(record), record)}
        if PROCESSING_SOFTWARE not in first.tags:
            ours[PROCESSING_SOFTWARE] = (_ASCII, len(line), line)
        room = self._places.end + len(first.raw) + 2 * len(record) + 1024 < self._form.limit
        hidden = PROVENANCE_TAG in first.tags or not (room or tags)
        if not hidden:
            tags |= ours
        # From the last one on, what is below a page before the page: a copy has the pointers as they are by then.
        for page in reversed(list(layout.every)):
            tags = self._changes.get(page.directory, {})
            if tags:
                self._append(page.directory, tags)
        if hidden:
            self._file.seek(0, os.SEEK_END)
            self._file.write(trailer(record))

    def _append(self, directory: Directory, tags: Tags) -> None:
        offset = self._places.end + -self._places.end % 8
        data = changed_copy(self._file, self._form, directory, tags, offset)
        self._places.check_end(offset + len(data))
        self._places.put(offset, data)
        self._file.seek(directory.pointer)
        self._file.write(self._form.link.pack(offset))

    def _encoded(self, page: ImagePage, before: np.ndarray, after: np.ndarray) -> Iterable[bytes | None]:
        """The strips or tiles of a page with other pixels, in order; None for one that stays as it is.

        Of a small page they are all made now, of a large one when they are asked for.
        """
        if self._survey.in_place(page, after.nbytes):
            return ()
        convert = page.compression not in LOSSLESS
        compression = _DEFLATE if convert else page.compression
        encode = encoder(page, compression, self._form.order)

        def made(number: int) -> bytes | None:
            return self._segment(page, number, before, after, encode, convert)

        if is_small(page):
            return [made(number) for number in range(page.segments)]
        return (map if compression == 1 or may_shrink(self._source.bytes) else spread)(made, range(page.segments))

    def _page(self, page: ImagePage, before: np.ndarray, after: np.ndarray, segments: Iterable[bytes | None]) -> None:
        """Other pixels of a page, both arrays (separate samples, Z, Y, X, samples); `segments` as `_encoded`."""
        self._extremes(page, before, after)
        if self._survey.in_place(page, after.nbytes):
            self._pixels(int(page.offsets[0]), after)
            return
        offsets, counts = page.offsets.copy(), page.counts.copy()
        for number, data in enumerate(segments):
            if data is not None:
                place = (int(offsets[number]), int(counts[number]), bool(self._survey.alone[page][number]))
                offsets[number] = self._places.place(*place, data)
                if page.compression != 1 or len(data) > counts[number]:
                    counts[number] = len(data)
            if number % DROP == 0 or number == page.segments - 1:
                drop_resident_pages(before, after)
        self._numbers(page, (324, 273), page.offsets, offsets)
        if _LSM not in self._source.structure.pages[0].directory.tags or page.compression == 1:
            self._numbers(page, (325, 279), page.counts, counts)
        if page.compression not in LOSSLESS:
            self._replace_numbers(page, 259, _DEFLATE)
            if page.photometric == 6:
                self._replace_numbers(page, 262, 2)
                self._replace_numbers(page, 530, 1, 1)  # colours are no longer stored at half their size

    def _segment(
        self, page: ImagePage, number: int, before: np.ndarray, after: np.ndarray, encode: Encode, convert: bool
    ) -> bytes | None:
        """A strip or tile with other pixels, encoded; None if it stays as it is."""
        depth, length, width = page.segment
        area = -(-page.length // length) * -(-page.width // width)
        slab = area * -(-page.depth // depth)
        sample, inside = divmod(number, slab)
        z, y = inside // area * depth, inside % area // -(-page.width // width) * length
        x = number % -(-page.width // width) * width
        if sample >= after.shape[0] and not convert:
            return None  # alpha of its own
        if sample >= after.shape[0]:
            decoded, _, _ = self._decoders.segment(page, number)
            return encode(decoded) if decoded is not None else None
        part = np.s_[sample, z : z + depth, y : y + length, x : x + width]
        new = after[part]
        if not convert and np.array_equal(before[part], new):
            return None
        if (not page.tiled and new.shape[3] == page.samples) or (page.planar and not page.tiled):
            return encode(new)
        shape = (depth, length, width, new.shape[3] if page.planar else page.samples)
        if new.shape == shape:
            return encode(new)
        decoded, _, _ = self._decoders.segment(page, number)  # what lies beyond the edges, and alpha
        block = np.zeros(shape if page.tiled else (*new.shape[:3], shape[3]), new.dtype)
        if decoded is not None:
            old = decoded[tuple(map(slice, block.shape))]
            block[tuple(map(slice, old.shape))] = old
        block[tuple(map(slice, new.shape))] = new
        return encode(block)

    def _level(self, small: ImagePage, before: np.ndarray, after: np.ndarray, no_value: float | None = None) -> None:
        """A reduced copy made anew."""
        old = np.empty((*after.shape[:2], small.length, small.width, after.shape[4]), after.dtype)
        self._decoders.read(small, old)
        new = reduced(before, after, small, old, no_value)
        self._page(small, old, new, self._encoded(small, old, new))

    def _extremes(self, page: ImagePage, before: np.ndarray, after: np.ndarray) -> None:
        """Smallest and largest value, where the correction makes them untrue."""
        for code, extreme in _EXTREMES:
            entry = page.directory.tags.get(code)
            if entry is None or not entry.count:
                continue
            with suppress(ValueError):  # a type that holds no numbers
                stated = values(ArrayFile(self._source.bytes), self._form, entry)  # type: ignore[arg-type]
                was, now = float(extreme(before)), float(extreme(after))
                beyond = stated > now if extreme is np.min else stated < now
                new = np.where((stated == was) | beyond, now, stated)
                if stated.dtype.kind in "iu":
                    limits = np.iinfo(stated.dtype)
                    new = np.clip(np.floor(new) if extreme is np.min else np.ceil(new), limits.min, limits.max)
                if not np.array_equal(new, stated):
                    self._tag(page, entry, new)

    def _numbers(self, page: ImagePage, codes: tuple[int, int], before: np.ndarray, after: np.ndarray) -> None:
        """Places or lengths of strips or tiles, where they have changed."""
        if np.array_equal(before, after):
            return
        code = codes[0] if page.tiled and codes[0] in page.directory.tags else codes[1]
        self._tag(page, page.directory.tags.get(code), after, code)

    def _replace_numbers(self, page: ImagePage, code: int, *numbers: int) -> None:
        entry = page.directory.tags.get(code)
        if entry is not None:
            self._tag(page, entry, np.array(numbers))

    def _tag(self, page: ImagePage, entry: TagEntry | None, numbers: np.ndarray, code: int = 0) -> None:
        """Other numbers of a tag: in their place, or in a copy of the directory if they do not fit there."""
        inside = page.directory.offset in self._survey.sure
        if (
            entry is not None
            and inside
            and (entry.inline or entry.position in self._survey.sure)
            and holds(entry, numbers)
        ):
            patch(self._file, self._form, entry, numbers)
            return
        kind = _LONG8 if self._form.big else _LONG
        if entry is not None and holds(entry, numbers):
            kind = entry.kind
        dtype = {3: "u2", 4: "u4", 16: "u8"}.get(kind, "u8")
        if entry is not None and kind == entry.kind and dtype == "u8" and kind != _LONG8:
            return  # a smallest or largest value of another type that others share: it stays
        data = np.asarray(numbers).astype(self._form.order + dtype).tobytes()
        self._changes.setdefault(page.directory, {})[entry.code if entry else code] = (kind, len(numbers), data)

    def _pixels(self, offset: int, pixels: np.ndarray) -> None:
        """Uncompressed pixels, one behind the other."""
        if lies_in(pixels, self._path):
            return
        stored = pixels.dtype.newbyteorder(self._form.order)
        flat = pixels.reshape(-1)
        self._file.seek(offset)
        step = _BLOCK // pixels.dtype.itemsize
        for start in range(0, flat.size, step):
            self._file.write(np.ascontiguousarray(flat[start : start + step], stored).view(np.uint8).data)
            if is_disk_backed(pixels):
                drop_resident_pages(pixels)
