"""Other pixels in a copy of a TIFF: every byte that is no pixel, and no number about pixels, stays as it is.

New pixels go into the place of the old ones if they fit, else into places that other ones left, else behind the end.
Nothing is written over where it is not surely ours: a strip that two pages share, or that overlaps something else, is
appended. Directories stay where they are; one that must change gets a changed copy, and its pointer leads there.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import islice
from typing import Any, BinaryIO

import numpy as np

from ..errors import ErrorCode, InputError
from ..image.bands import same
from ..image.memmap import drop_resident_pages, is_disk_backed
from .decode import WORKERS, ArrayFile
from .directories import Directory, TagEntry, changed_copy, exclusive, holds, patch, values
from .encode import Encode, encoder, means, picked
from .pages import LOSSLESS, ImagePage, contiguous
from .places import Places
from .provenance import PROCESSING_SOFTWARE, PROVENANCE_TAG, lines, trailer
from .quiet import quiet_tifffile
from .read import TiffFile, TiffImage

_BLOCK = 1 << 24  # bytes written at once
_DEFLATE = 8
_LSM = 34412
_LONG, _LONG8, _ASCII = 4, 16, 2
_EXTREMES = ((280, np.min), (281, np.max), (340, np.min), (341, np.max))

Tags = dict[int, tuple[int, int, bytes]]


def replace_pixels(
    source: TiffFile, restored: Sequence[np.ndarray], path: str | os.PathLike[str], provenance: Mapping[str, object]
) -> None:
    """Write a file again with other pixels in its images, and how they were made. Neither syncs nor renames.

    Parameters
    ----------
    restored : sequence of array
        One for each of `source.images`, of the same shape and dtype.

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
    flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | getattr(os, "O_BINARY", 0)
    with open(os.open(path, flags, 0o666 & source.mode), "w+b") as file, quiet_tifffile():
        copy = _Copy(source, file)
        at = 0
        for begin, stop in [*sorted(copy.overwritten()), (len(source.bytes), len(source.bytes))]:
            file.seek(at)
            for start in range(at, begin, _BLOCK):
                part: Any = source.bytes[start : min(start + _BLOCK, begin)]
                file.write(part)
                drop_resident_pages(source.bytes)
            at = stop
        for image, data in zip(source.images, restored, strict=True):
            copy.replace(image, data)
        copy.finish(provenance)


class _Copy:
    """A copy of a file while its pixels are replaced."""

    def __init__(self, source: TiffFile, file: BinaryIO) -> None:
        self._source, self._file = source, file
        self._form, self._decoders = source.structure.form, source.decoders
        self._places = Places(file, len(source.bytes), self._form.limit, source.path)
        self._changes: dict[Directory, Tags] = {}
        self._survey()

    def _survey(self) -> None:
        """Find out what of the file is surely ours: no other thing that we know of has a byte there."""
        found = self._source.structure
        starts: list[tuple[int, int]] = [(0, 16 if self._form.big else 8)]
        keys: list[object] = [None]
        for directory in [*(page.directory for page in found.every), *found.others]:
            starts.append((directory.offset, directory.link + self._form.link.size))
            keys.append(directory.offset)
            for entry in directory.entries:
                if not entry.inline:
                    starts.append((entry.start, entry.start + entry.nbytes))
                    keys.append(entry.position)
        whole = {image.pages[0]: image for image in self._source.images if len(image.planes(image.data)) > 1}
        parts = [np.asarray(starts, np.int64)]
        spans: list[ImagePage] = []
        for page in found.every:
            if page in whole and len(whole[page].pages) == 1:
                ends = page.offsets[:1] + whole[page].data.nbytes
                parts.append(np.stack([page.offsets[:1], ends], axis=1))
            else:
                count = min(len(page.offsets), len(page.counts))
                offsets = page.offsets[:count]
                parts.append(np.stack([offsets, offsets + np.where(offsets, page.counts[:count], 0)], axis=1))
            spans.append(page)
        alone = exclusive(np.concatenate(parts))
        self._sure = {key for key, good in zip(keys, alone, strict=False) if good}
        at, self._alone = len(keys), dict[ImagePage, np.ndarray]()
        for page, part in zip(spans, parts[1:], strict=True):
            self._alone[page] = alone[at : at + len(part)]
            at += len(part)

    def overwritten(self) -> list[tuple[int, int]]:
        """The bytes [start, stop) that `replace` writes whether they change or not: no need to copy them before."""
        found = []
        for image in self._source.images:
            planes = image.planes(image.data)
            if len(image.pages) < len(planes):
                start = int(image.pages[0].offsets[0])
                found.append((start, start + image.data.nbytes))
            else:
                pages = [page for page in image.pages if self._in_place(page, planes[0].nbytes)]
                found += [(int(page.offsets[0]), int(page.offsets[0]) + page.nbytes) for page in pages]
        return found

    def _in_place(self, page: ImagePage, nbytes: int) -> bool:
        """Whether the pixels of a plane are written over those of a page as they are."""
        return contiguous(page) and nbytes == page.nbytes and bool(self._alone[page].all())

    def replace(self, image: TiffImage, restored: np.ndarray) -> None:
        """Put other pixels in the place of an image's, and of its reduced copies."""
        before, after = image.planes(image.data), image.planes(restored)
        if len(image.pages) < len(before):
            page = image.pages[0]
            if not self._alone[page].all():
                cause = "its planes overlap other parts of the file"
                raise InputError(self._source.path, cause, "save it anew", ErrorCode.UNSUPPORTED)
            for number, new in enumerate(after):
                self._pixels(int(page.offsets[0]) + number * page.nbytes, new)
            self._extremes(page, image.data, restored)
            return
        for page, old, new in zip(image.pages, before, after, strict=True):
            if same(old, new):
                if self._in_place(page, new.nbytes):
                    self._pixels(int(page.offsets[0]), new)
                continue
            self._page(page, old, new)
            for small, full in self._source.levels:
                if full is page:
                    self._level(small, old, new)

    def finish(self, provenance: Mapping[str, object]) -> None:
        """Append what must be said elsewhere: how the file was made, and copies of directories that have changed."""
        found = self._source.structure
        first = found.pages[0].directory
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
        for page in reversed(list(found.every)):
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

    def _page(self, page: ImagePage, before: np.ndarray, after: np.ndarray) -> None:
        """Other pixels of a page, both arrays (separate samples, Z, Y, X, samples)."""
        self._extremes(page, before, after)
        if self._in_place(page, after.nbytes):
            self._pixels(int(page.offsets[0]), after)
            return
        convert = page.compression not in LOSSLESS
        compression = _DEFLATE if convert else page.compression
        encode = encoder(page, compression, self._form.order)
        offsets, counts = page.offsets.copy(), page.counts.copy()
        self._decoders.of(page).init_decode()

        def made(number: int) -> bytes | None:
            return self._segment(page, number, before, after, encode, convert)

        with ThreadPoolExecutor(WORKERS) as pool:
            spread = pool.map if WORKERS > 1 and compression != 1 and page.nbytes > 1 << 22 else map
            numbers = iter(range(page.segments))
            while some := list(islice(numbers, 4 * WORKERS)):
                for number, data in zip(some, spread(made, some), strict=True):
                    if data is not None:
                        place = (int(offsets[number]), int(counts[number]), bool(self._alone[page][number]))
                        offsets[number] = self._places.place(*place, data)
                        if page.compression != 1 or len(data) > counts[number]:
                            counts[number] = len(data)
                drop_resident_pages(before, after)
        self._numbers(page, (324, 273), page.offsets, offsets)
        if _LSM not in self._source.structure.pages[0].directory.tags or page.compression == 1:
            self._numbers(page, (325, 279), page.counts, counts)
        if convert:
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
            found, _, _ = self._decoders.segment(page, number)
            return encode(found) if found is not None else None
        part = np.s_[sample, z : z + depth, y : y + length, x : x + width]
        new = after[part]
        if not convert and np.array_equal(before[part], new):
            return None
        if (not page.tiled and new.shape[3] == page.samples) or (page.planar and not page.tiled):
            return encode(new)
        shape = (depth, length, width, new.shape[3] if page.planar else page.samples)
        if new.shape == shape:
            return encode(new)
        found, _, _ = self._decoders.segment(page, number)  # what lies beyond the edges, and alpha
        block = np.zeros(shape if page.tiled else (*new.shape[:3], shape[3]), new.dtype)
        if found is not None:
            old = found[tuple(map(slice, block.shape))]
            block[tuple(map(slice, old.shape))] = old
        block[tuple(map(slice, new.shape))] = new
        return encode(block)

    def _level(self, small: ImagePage, before: np.ndarray, after: np.ndarray) -> None:
        """A reduced copy made anew, in the way it was made: every n-th pixel, or means."""
        shape = (*after.shape[:2], small.length, small.width, after.shape[4])
        old = np.empty(shape, after.dtype)
        self._decoders.read(small, old)
        every_nth = np.array_equal(picked(before, small), old)
        self._page(small, old, picked(after, small) if every_nth else means(after, small))

    def _extremes(self, page: ImagePage, before: np.ndarray, after: np.ndarray) -> None:
        """Smallest and largest value, where the correction makes them untrue."""
        for code, extreme in _EXTREMES:
            entry = page.directory.tags.get(code)
            if entry is None or not entry.count:
                continue
            with suppress(ValueError):  # a type that holds no numbers
                said = values(ArrayFile(self._source.bytes), self._form, entry)  # type: ignore[arg-type]
                was, now = float(extreme(before)), float(extreme(after))
                beyond = said > now if extreme is np.min else said < now
                new = np.where((said == was) | beyond, now, said)
                if said.dtype.kind in "iu":
                    limits = np.iinfo(said.dtype)
                    new = np.clip(np.floor(new) if extreme is np.min else np.ceil(new), limits.min, limits.max)
                if not np.array_equal(new, said):
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
        inside = page.directory.offset in self._sure
        if entry is not None and inside and (entry.inline or entry.position in self._sure) and holds(entry, numbers):
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
        stored = pixels.dtype.newbyteorder(self._form.order)
        flat = pixels.reshape(-1)
        self._file.seek(offset)
        step = _BLOCK // pixels.dtype.itemsize
        for start in range(0, flat.size, step):
            self._file.write(np.ascontiguousarray(flat[start : start + step], stored).view(np.uint8).data)
            if is_disk_backed(pixels):
                drop_resident_pages(pixels)
