"""Blocks of vendors: nothing of them is understood, all of it is kept, and what reads them finds what it found."""

from __future__ import annotations

import struct
import tracemalloc
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from defocus.engine.errors import ErrorCode, InputError
from defocus.engine.pipeline.jobs import Job
from defocus.engine.pipeline.steps import read_stage
from defocus.engine.tiff.directories import chain, read_header
from defocus.engine.tiff.quiet import quiet_tifffile
from defocus.engine.tiff.read import check_complete, read_tiff

from ...helpers.micromanager import write_stack
from . import drawn
from .test_replace import check_bytes, rewrite

KINDS: dict[str, tuple[Callable[[Path], object], str | None, int]] = {  # how drawn, what reads it, planes
    "stk": (drawn.draw_stk, "stk_metadata", 3),
    "stk, tags before pixels": (partial(drawn.draw_stk, first=True), "stk_metadata", 3),
    "stk of several strips": (partial(drawn.draw_stk, strips=3), "stk_metadata", 3),
    "stk of one plane": (partial(drawn.draw_stk, planes=1), "stk_metadata", 1),
    "big-endian stk": (partial(drawn.draw_stk, order=">"), None, 3),
    "stk as BigTIFF": (partial(drawn.draw_stk, big=True), None, 3),
    "SIS": (drawn.draw_sis, "sis_metadata", 1),
    "SIS, a block a page": (partial(drawn.draw_sis, pages=3), "sis_metadata", 3),
    "SIS, four pages": (partial(drawn.draw_sis, pages=4), "sis_metadata", 4),
    "SIS, one block for all pages": (partial(drawn.draw_sis, pages=3, shared=True), "sis_metadata", 3),
    "SIS, ini": (partial(drawn.draw_sis, ini=True), None, 1),
    "Exif and GPS": (drawn.draw_exif, None, 1),
    "Exif and GPS, big-endian": (partial(drawn.draw_exif, order=">"), None, 1),
    "Exif and GPS, BigTIFF": (partial(drawn.draw_exif, big=True), None, 1),
    "GPS without values outside": (partial(drawn.draw_exif, inline=True), None, 1),
    "Exif of the second page": (partial(drawn.draw_exif, page=1), None, 2),
    "LSM": (drawn.draw_lsm, "lsm_metadata", 3),
    "LSM of two channels": (partial(drawn.draw_lsm, channels=2), "lsm_metadata", 6),
    "LSM of two channels, bits inline": (partial(drawn.draw_lsm, channels=2, inline=True), "lsm_metadata", 6),
    "LSM of four channels": (partial(drawn.draw_lsm, channels=4), "lsm_metadata", 12),
    "LSM, LZW": (partial(drawn.draw_lsm, lzw=True), "lsm_metadata", 3),
    "LSM, LZW, two channels": (partial(drawn.draw_lsm, lzw=True, channels=2), "lsm_metadata", 6),
    "ScanImage 4": (drawn.draw_scanimage, "scanimage_metadata", 3),
    "ScanImage 3 header, no ROI": (partial(drawn.draw_scanimage, version=3, roi=False), "scanimage_metadata", 3),
    "ScanImage, one frame": (partial(drawn.draw_scanimage, pages=1), "scanimage_metadata", 1),
    "ScanImage of before": (drawn.draw_old_scanimage, None, 3),
    "NDTiff": (drawn.draw_ndtiff, None, 4),
    "Micro-Manager": (lambda path: write_stack(path, drawn.counts(4)), "micromanager_metadata", 4),
    "Micro-Manager, planes in another order": (
        lambda path: write_stack(path, drawn.counts(4), [2, 0, 3, 1]),
        "micromanager_metadata",
        4,
    ),
}


def told(path: Path, attribute: str | None) -> list[object]:
    """What tifffile finds: the vendor's metadata, and the tags of every page that are no pixels' places."""
    ours = {11, 65270}
    with quiet_tifffile(), tifffile.TiffFile(path, is_mmstack=False, is_ndtiff=False) as tif:
        assert attribute is None or getattr(tif, attribute)
        found: list[object] = [repr(getattr(tif, attribute))] if attribute else []
        for page in tif.pages:
            tags = page.aspage().tags
            found.append({tag.code: repr(tag.value) for tag in tags if tag.code not in ours})
        return found


@pytest.mark.parametrize("kind", KINDS)
def test_all_of_a_vendors_block_is_kept(kind, tmp_path):
    draw, attribute, planes = KINDS[kind]
    path, out = tmp_path / "a.tif", tmp_path / "b.tif"
    draw(path)
    source, restored = rewrite(path, out)
    assert sum(data.size for data in restored) == planes * drawn.WIDTH * drawn.LENGTH
    check_bytes(source, path, out)
    before, after = told(path, attribute), told(out, attribute)
    if "LZW" in kind:  # the strips moved, or have another length; what LSM says of it was never true
        for tags in (*before, *after):
            tags.pop(273, None) if isinstance(tags, dict) else None
    assert after == before


@pytest.mark.parametrize("kind", [kind for kind in KINDS if "SIS, " in kind or kind == "SIS"])
def test_what_a_sis_block_points_at_lies_where_it_did(kind, tmp_path):
    path, out = tmp_path / "a.tif", tmp_path / "b.tif"
    KINDS[kind][0](path)
    rewrite(path, out)
    before, after = path.read_bytes(), out.read_bytes()
    with tifffile.TiffFile(out) as tif:
        for page in tif.pages:
            tag = page.aspage().tags.get(33560)
            if tag is not None:
                (block,) = struct.unpack_from("<I", after, tag.offset + 8)
                assert after[block : block + 4] == b"SIS0"
                assert after[block : block + 84] == before[block : block + 84]


@pytest.mark.parametrize("kind", [kind for kind in KINDS if "Exif" in kind or "GPS" in kind])
def test_pillow_reads_the_same_exif_gps_and_interoperability(kind, tmp_path):
    path, out = tmp_path / "a.tif", tmp_path / "b.tif"
    KINDS[kind][0](path)
    rewrite(path, out)
    found = []
    for one in (path, out):
        with Image.open(one) as image:
            image.seek(getattr(image, "n_frames", 1) - 1)
            exif = image.getexif()
            parts = [dict(exif.get_ifd(code)) for code in (34665, 34853, 40965)]
            assert parts[0]
            assert parts[1]
            found.append(repr(parts))
    assert found[0] == found[1]


@pytest.mark.parametrize("planes", [1, 4])
def test_the_index_of_ndtiff_leads_to_the_corrected_planes(planes, tmp_path):
    path, out = tmp_path / "a_NDTiffStack.tif", tmp_path / "b.tif"
    index = drawn.draw_ndtiff(path, planes)
    _, (restored,) = rewrite(path, out)
    data, at = out.read_bytes(), 0
    for plane in restored.reshape(-1, drawn.LENGTH, drawn.WIDTH):
        for _ in range(2):
            at += 4 + struct.unpack_from("<I", index, at)[0]
        place, width, length = struct.unpack_from("<3I", index, at)
        at += 32
        there = np.frombuffer(data, "<u2", width * length, place).reshape(length, width)
        np.testing.assert_array_equal(there, plane)
    assert at == len(index)


def test_the_index_map_of_micromanager_leads_to_the_corrected_planes(tmp_path):
    path, out = tmp_path / "a.tif", tmp_path / "b.tif"
    order = [2, 0, 3, 1]
    write_stack(path, drawn.counts(4), order)
    _, (restored,) = rewrite(path, out)
    planes = restored.reshape(4, drawn.LENGTH, drawn.WIDTH)
    with tifffile.TiffFile(out, is_mmstack=False) as tif:
        index = (tif.micromanager_metadata or {})["IndexMap"]
        data = out.read_bytes()
        for _, _, frame, _, offset in np.asarray(index).tolist():
            tags = dict(struct.unpack_from("<HxxxxxxI", data, offset + 2 + 12 * n) for n in range(10))
            there = np.frombuffer(data, "<u2", drawn.LENGTH * drawn.WIDTH, tags[273])
            np.testing.assert_array_equal(there, planes[order[frame]].ravel())


@pytest.mark.parametrize("channels", [1, 3])
def test_thumbnails_of_lsm_are_copied_and_its_planes_corrected(channels, tmp_path):
    path, out = tmp_path / "a.lsm", tmp_path / "b.lsm"
    drawn.draw_lsm(path, channels=channels)
    source, _ = rewrite(path, out)
    assert len(source.images) == 1
    assert [page.width for page in source.images[0].pages] == [drawn.WIDTH] * 3
    with tifffile.TiffFile(path, is_lsm=False) as before, tifffile.TiffFile(out, is_lsm=False) as after:
        assert len(before.pages) == len(after.pages) == 6
        for number in (1, 3, 5):
            np.testing.assert_array_equal(before.pages[number].asarray(), after.pages[number].asarray())
        for number in (0, 2, 4):
            assert not np.array_equal(before.pages[number].asarray(), after.pages[number].asarray())


def test_a_stack_of_metamorph_is_one_image(tmp_path):
    for name, draw in (
        ("a", drawn.draw_stk),
        ("b", partial(drawn.draw_stk, strips=3)),
        ("c", KINDS["big-endian stk"][0]),
    ):
        draw(tmp_path / f"{name}.stk")
        found = read_tiff(tmp_path / f"{name}.stk")
        assert found.data.shape == (3, drawn.LENGTH, drawn.WIDTH)
        np.testing.assert_array_equal(found.data, drawn.counts(3))


def draw_stopped(path: Path, kind: str, zeros: int) -> None:
    """Three pages, the last of which names a fourth that was never written: behind the end, or in a room of zeros."""
    KINDS[kind][0](path)
    with open(path, "rb") as file:
        form, pointer = read_header(file)
        last = chain(file, form, path.stat().st_size, pointer)[3]
    path.write_bytes(path.read_bytes()[: last.offset] + bytes(zeros))


@pytest.mark.parametrize("kind", ["Micro-Manager", "NDTiff"])
@pytest.mark.parametrize("zeros", [0, 5000])
def test_an_acquisition_that_was_killed_keeps_the_pages_that_it_wrote(kind, zeros, tmp_path):
    path, out = tmp_path / "a.tif", tmp_path / "b.tif"
    draw_stopped(path, kind, zeros)
    source, (restored,) = rewrite(path, out)
    assert len(restored) == 3
    assert any("page 3 is not written" in note for note in source.notes)
    check_bytes(source, path, out)
    with tifffile.TiffFile(out, is_mmstack=False, is_ndtiff=False) as tif:
        np.testing.assert_array_equal([page.asarray() for page in tif.pages], restored)
    check_complete(path)
    with pytest.raises(InputError, match="correct it with defocus-run") as refused:
        check_complete(path, finished=True)
    assert refused.value.code is ErrorCode.INCOMPLETE
    check_complete(out, finished=True)


def test_other_files_whose_last_page_names_one_that_is_not_there_are_truncated(tmp_path):
    path = tmp_path / "a.tif"
    draw_stopped(path, "SIS, four pages", 0)
    with pytest.raises(InputError, match="truncated: page 3 lies beyond the end"):
        read_tiff(path)


def draw_ndpi(path: Path) -> None:
    make = b"Hamamatsu\0"
    made = drawn.Drawn()
    tags = [(271, drawn.ASCII, len(make), make), (65420, drawn.LONG, 1, made.longs(1))]
    made.page(drawn.counts(1)[0], tags)
    made.save(path)


def draw_large_ndpi(path: Path) -> None:
    """Its first directory lies beyond 4 GB, at an offset of 64 bits in the header of a classic TIFF."""
    draw_ndpi(path)
    data = bytearray(path.read_bytes())
    (first,) = struct.unpack_from("<I", data, 4)
    struct.pack_into("<Q", data, 4, 2**32 + first)
    with open(path, "wb") as file:
        file.write(data[:12])
        file.seek(2**32 + first)
        file.write(data[first:])


def draw_large_lsm(path: Path) -> None:
    """The link to its second page is where offsets have wrapped around: among the pixels."""
    drawn.draw_lsm(path)
    with open(path, "r+b") as file:
        data = file.read()
        (first,) = struct.unpack_from("<I", data, 4)
        file.seek(first + 2 + 12 * struct.unpack_from("<H", data, first)[0])
        file.write(struct.pack("<I", 9))
        file.truncate(2**32 + 5000)


@pytest.mark.parametrize("draw", [draw_ndpi, draw_large_ndpi, draw_large_lsm])
def test_formats_whose_offsets_are_not_tiffs_are_refused_before_anything_is_reserved(draw, tmp_path):
    path, target = tmp_path / "a.tif", tmp_path / "out" / "a.tif"
    draw(path)
    tracemalloc.start()
    error = read_stage(Job(path, target), memory=1000).outcome.error
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert isinstance(error, InputError)
    assert error.code is ErrorCode.UNSUPPORTED
    assert str(error).endswith("export it as OME-TIFF")
    assert "\n" not in str(error)
    assert not target.parent.exists()
    assert peak < 1 << 22
    with pytest.raises(InputError, match="export it as OME-TIFF"):
        check_complete(path)
