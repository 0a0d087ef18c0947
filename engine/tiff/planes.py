"""What of a file is corrected: its images with their axes, and the reduced copies of their planes.

Copied as they are: masks, palettes of names, previews, labels, alpha, and what the engine does not take.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import BinaryIO

import numpy as np
import tifffile

from ..errors import ErrorCode, InputError
from ..image.normalization import check_dtype
from .decode import Decoders
from .description import description, names_too_many, planes_below, significant_bits
from .directories import LSM
from .pages import LOSSLESS, ImagePage, Structure

_ALPHA = (1, 2)  # of ExtraSamples
_SLIDES = ("svs", "scn", "qpi", "bif", "philips", "avs")  # formats whose levels only tifffile's series tell
_DESCRIBED = ("ome", "imagej", "shaped", "lsm", "stk", "sis", "scanimage", "fluoview", "nih")
_BESIDE = {"label", "macro", "thumbnail", "map", "overview", "label image", "macro image", "preview"}
_TYPE = "convert it to 8 or 16 bits"


@dataclass(frozen=True)
class Plan:
    """An image before its pixels are read."""

    pages: tuple[ImagePage, ...]
    axes: str
    shape: tuple[int, ...]
    dtype: np.dtype
    limit: int | None = None


def page_shape(page: ImagePage, samples: int) -> tuple[int, int, int, int, int]:
    separate, joint = (samples, 1) if page.planar else (1, samples)
    return separate, page.depth, page.length, page.width, joint


def corrected_samples(page: ImagePage) -> int:
    """How many of a pixel's samples are grey values or colours; alpha comes after them."""
    if page.photometric in (2, 6):
        return min(3, page.samples)
    extra = page.numbers.get(338, ())
    alpha = next((number for number, kind in enumerate(extra) if kind in _ALPHA), None)
    return page.samples if alpha is None else max(1, page.samples - len(extra) + alpha)


def plan(
    found: Structure, file: BinaryIO, tif: tifffile.TiffFile, decoders: Decoders, path: Path
) -> tuple[list[Plan], tuple[tuple[ImagePage, ImagePage], ...], tuple[str, ...]]:
    """The images to correct, the reduced copies of their pages, and what is to be said. Raises InputError if none."""
    reasons: dict[tuple[object, ...], InputError | None] = {}
    every = [page for page in found.every if len(page.offsets)]
    grey = any(page.compression in LOSSLESS and page.samples == 1 and page.bits >= 8 for page in every)

    def reason(page: ImagePage) -> InputError | None:
        if page.storage not in reasons:
            lossy = page.compression not in LOSSLESS
            beside = InputError(path, f"{page.name} is a preview", "give the image itself", ErrorCode.UNSUPPORTED)
            preview = lossy and page.samples >= 3 and grey
            reasons[page.storage] = beside if preview else _why_not(page, decoders, path)
        return reasons[page.storage]

    slide = any(getattr(tif, f"is_{kind}") for kind in _SLIDES)
    series = _series(found, file, tif, slide)
    beside = {page for plan, name in series for page in plan.pages if name.strip().lower() in _BESIDE}
    levels = _levels(found, tif, every, slide)
    good = [page for page in every if page not in beside and page not in levels and not page.reduced]
    refused = [(page, error) for page in good if (error := reason(page)) is not None]
    wanted = {page for page in good if reason(page) is None}
    if not wanted:
        if refused:
            raise refused[0][1]
        raise InputError(
            path,
            "holds no plane that can be corrected (masks or previews only)",
            "give the image itself",
            ErrorCode.UNSUPPORTED,
        )
    groups: dict[tuple[object, ...], list[ImagePage]] = {}
    plans = []
    described = set[ImagePage]()
    significant = significant_bits((tif.ome_metadata or "").encode() or description(found, file))
    for number, (plan, _) in enumerate(series):
        if all(page in wanted for page in plan.pages):  # else its good pages are planes of no stated meaning
            described.update(plan.pages)
            if "Y" not in plan.axes or "X" not in plan.axes:
                cause = f"has no Y and X axes (its axes are {plan.axes})"
                raise InputError(path, cause, "save it with axes that name Y and X", ErrorCode.UNSUPPORTED)
            bits = significant[number] if len(significant) == len(series) else max(significant, default=0)
            plans.append(_limited(_without_alpha(plan, decoders), bits))
    for page in every:
        if page in wanted and page not in described:
            groups.setdefault(page.kind, []).append(page)
    for pages in groups.values():
        count, _ = planes_below(pages[0], file, found.size) if len(found.pages) == 1 else (1, 1)
        count = max(count, len(pages))
        axes, shape = _page_axes(pages[0])
        if count > 1:
            axes, shape = "I" + axes, (count, *shape)
        plan = _without_alpha(Plan(tuple(pages), axes, shape, np.dtype("u1")), decoders)
        plans.append(_limited(plan, max(significant, default=0)))
    kept = tuple((level, full) for level, full in levels.items() if full in wanted)
    return plans, kept, tuple(_notes(plans, refused, decoders))


def _notes(plans: list[Plan], refused: list[tuple[ImagePage, InputError]], decoders: Decoders) -> Iterator[str]:
    lossy = [page for plan in plans for page in plan.pages if page.compression not in LOSSLESS]
    if lossy:
        name = getattr(decoders.of(lossy[0]).compression, "name", lossy[0].compression)
        yield f"{lossy[0].name}: pixels stored as {name} are written as deflate, so that nothing is lost a second time"
    palettes = [page for page, _ in refused if page.photometric == 3]
    if palettes:
        yield f"{palettes[0].name}: a palette of colours or names, copied as it is"


def _why_not(page: ImagePage, decoders: Decoders, path: Path) -> InputError | None:
    """Why a page is copied as it is; None if it is to be corrected."""
    if page.number(254, 0) & 4 or page.photometric == 4:
        return InputError(path, f"{page.name} is a mask", "give the image itself", ErrorCode.UNSUPPORTED)
    if page.compression not in tifffile.TIFF.DECOMPRESSORS:
        cause = f"{page.name} has compression {page.compression}, which is not supported"
        return InputError(path, cause, "save it with LZW or deflate, or without compression", ErrorCode.UNSUPPORTED)
    decoder = decoders.of(page)
    if decoder.dtype is None or not page.bits:
        cause = f"pixels of {decoder.bitspersample} bits and sample format {decoder.sampleformat} are not supported"
        return InputError(path, cause, _TYPE, ErrorCode.UNSUPPORTED)
    try:
        check_dtype(decoder.dtype, path)
    except InputError as error:
        return error
    if page.bits < 8 or (page.bits not in (8, 16, 32, 64) and page.bits > 16):
        return InputError(path, f"pixels of {page.bits} bits are not supported", _TYPE, ErrorCode.UNSUPPORTED)
    if page.photometric == 3 and not page.number(320, 0):
        return InputError(
            path,
            "its palette gives colours or names, not intensities",
            "give the grey image itself",
            ErrorCode.UNSUPPORTED,
        )
    jpeg = page.compression not in LOSSLESS
    if (page.photometric not in (0, 1, 2, 3) and not (page.photometric == 6 and jpeg)) or page.number(28672, 0):
        kind = decoder.photometric
        name = getattr(kind, "name", kind)
        return InputError(
            path, f"colours stored as {name} are not supported", "save it as grey or RGB", ErrorCode.UNSUPPORTED
        )
    if page.number(317, 1) not in (1, 2, 3) or len(page.offsets) < page.segments or not _agree(page, decoder):
        return InputError(
            path,
            f"{page.name} is stored in a way that cannot be written back",
            "save it as plain TIFF",
            ErrorCode.UNSUPPORTED,
        )
    return None


def _agree(page: ImagePage, decoder: tifffile.TiffPage) -> bool:
    """Whether tifffile, which decodes a page, takes its tags as we do; it need not where they are damaged."""
    decoded = (decoder.imagedepth, decoder.imagelength, decoder.imagewidth, decoder.samplesperpixel)
    stored = (decoder.compression, decoder.predictor, decoder.fillorder, decoder.planarconfig != 1)
    ours = (page.compression, page.number(317, 1), page.number(266, 1), page.planar)
    return decoded == (page.depth, page.length, page.width, page.samples) and (
        stored[: 4 if page.samples > 1 else 3] == ours[: 4 if page.samples > 1 else 3]
    )


def _series(found: Structure, file: BinaryIO, tif: tifffile.TiffFile, slide: bool) -> list[tuple[Plan, str]]:
    """The images that the description tells of, with their names; [] unless it tells of exactly this file's pages."""
    try:
        if not (slide or any(getattr(tif, f"is_{kind}") for kind in _DESCRIBED)) or names_too_many(
            description(found, file)
        ):
            return []
        series = list(tif.series)
    except Exception:  # a description that is damaged says nothing
        return []
    plans, seen = [], set[int]()
    places = {page.directory.offset: number for number, page in enumerate(found.pages)}
    for one in series:
        pages = [page for page in one.pages if page is not None]
        numbers = [page.index for page in pages]
        if len(pages) != len(one.pages) or not all(isinstance(number, int) for number in numbers):
            return []
        if seen & set(numbers) or len(set(numbers)) != len(numbers):
            return []
        seen |= set(numbers)
        smaller = [page.offset for level in one.levels[1:] for page in level.pages if page]  # pages, or SubIFDs
        seen |= {places[offset] for offset in smaller if offset in places}
        own = tuple(found.pages[number] for number in numbers)
        planes = prod(one.shape) // max(1, prod(page_shape(own[0], own[0].samples)))
        if len({page.kind for page in own}) > 1 or len(own) not in (1, planes):
            return []
        if len(own) == 1 and planes > 1 and not _holds(own[0], planes, found.size):
            return []
        if len(own) == 1 and planes != max(planes, planes_below(own[0], file, found.size)[0]):
            return []
        plans.append((Plan(own, one.axes, tuple(one.shape), np.dtype("u1")), one.name))
    return plans if len(seen) == len(found.pages) else []


def _holds(page: ImagePage, planes: int, size: int) -> bool:
    return page.contiguous and int(page.offsets[0]) + planes * page.nbytes <= size


def _levels(
    found: Structure, tif: tifffile.TiffFile, every: list[ImagePage], slide: bool
) -> dict[ImagePage, ImagePage]:
    """Reduced copies, each with the page in full that it shows."""
    levels: dict[ImagePage, ImagePage] = {}
    if LSM in found.pages[0].directory.tags:
        return levels  # its reduced pages are thumbnails in colours of their own
    if slide:
        places = {page.directory.offset: page for page in every}
        for series in tif.series:
            for level in series.levels[1:]:
                for small, large in zip(level.pages, series.pages, strict=False):
                    if small and large and small.offset in places and large.offset in places:
                        levels[places[small.offset]] = places[large.offset]
    full: ImagePage | None = None
    for page in every:
        if page in levels:
            continue
        if not page.reduced:
            full = page if page.parent is None else full
        elif (shown := page.parent or full) is not None and _reduces(page, shown):
            levels[page] = shown
    return levels


def _reduces(small: ImagePage, full: ImagePage) -> bool:
    """Whether a page can be a smaller copy of another one."""
    alike = all(small.numbers.get(code) == full.numbers.get(code) for code in (258, 277, 339))
    across, down = full.width / small.width, full.length / small.length
    near = abs(across - down) <= 0.05 * across or abs(full.length / across - small.length) <= 1
    return alike and small.photometric == full.photometric and across >= 1 and down >= 1 and near


def _page_axes(page: ImagePage) -> tuple[str, tuple[int, ...]]:
    axes, shape = "YX", (page.length, page.width)
    if page.depth > 1:
        axes, shape = "Z" + axes, (page.depth, *shape)
    if page.samples > 1 or page.photometric == 2:
        return ("S" + axes, (page.samples, *shape)) if page.planar else (axes + "S", (*shape, page.samples))
    return axes, shape


def _without_alpha(plan: Plan, decoders: Decoders) -> Plan:
    """An image's axes and shape without the samples that stay as they are."""
    page, dtype = plan.pages[0], decoders.of(plan.pages[0]).dtype
    assert dtype is not None
    samples, axes, shape = corrected_samples(page), plan.axes, plan.shape
    if samples < page.samples:
        at = axes.find("S")
        if at < 0 or shape[at] != page.samples:
            axes, shape = _page_axes(page)
            axes, shape = ("I" + axes, (len(plan.pages), *shape)) if len(plan.pages) > 1 else (axes, shape)
            at = axes.index("S")
        if samples == 1:
            axes, shape = axes[:at] + axes[at + 1 :], (*shape[:at], *shape[at + 1 :])
        else:
            shape = (*shape[:at], samples, *shape[at + 1 :])
    return Plan(plan.pages, axes, shape, np.dtype(dtype.newbyteorder("=")))


def _limited(plan: Plan, significant: int) -> Plan:
    """With the largest value that its stored and its significant bits (0: not known) allow."""
    stored = plan.pages[0].bits
    bits = min(stored, significant) if significant > 0 else stored
    if plan.dtype.kind != "u" or bits >= 8 * plan.dtype.itemsize:
        return plan
    return Plan(plan.pages, plan.axes, plan.shape, plan.dtype, 2**bits - 1)
