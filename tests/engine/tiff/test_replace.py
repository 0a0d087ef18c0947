"""The output is the input with other pixels: compared byte by byte, for TIFFs of every layout."""

from __future__ import annotations

import shutil
import struct
import subprocess
from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from defocus.engine.errors import InputError
from defocus.engine.tiff.directories import SIZES, chain, read_header
from defocus.engine.tiff.read import TiffFile, read_provenance, read_tiff, write_tiff

MADE_BY = {"software": "defocus 0.0", "model": "tiny", "model_sha256": "ab" * 32}
MAY_CHANGE = {259, 262, 273, 279, 280, 281, 324, 325, 340, 341, 530}
GREY = {"photometric": "minisblack", "metadata": None}


def changed(source: TiffFile) -> list[np.ndarray]:
    """Every pixel another one, within what it may be."""
    return [np.ascontiguousarray(image.data[..., ::-1, :] // 2 + 1) for image in source.images]


def rewrite(path: Path, out: Path) -> tuple[TiffFile, list[np.ndarray]]:
    source = read_tiff(path)
    restored = changed(source)
    write_tiff(source, restored, out, MADE_BY)
    again = read_tiff(out)
    for image, data in zip(again.images, restored, strict=True):
        np.testing.assert_array_equal(image.data.reshape(data.shape), data)
    assert read_provenance(out) == MADE_BY
    return source, restored


def check_bytes(source: TiffFile, path: Path, out: Path) -> None:
    """Of the output's bytes as far as the input reached, none differs but those that may."""
    before, after = (np.frombuffer(file.read_bytes(), np.uint8) for file in (path, out))
    assert len(after) >= len(before)
    allowed = np.zeros(len(before), bool)
    big = source.structure.form.big
    allowed[8 if big else 4 : 16 if big else 8] = True
    for page in source.structure.every:
        allowed[page.directory.link : page.directory.link + (8 if big else 4)] = True
        for entry in page.directory.entries:
            if entry.code in MAY_CHANGE:
                allowed[entry.start : entry.start + entry.nbytes] = True
    taken = [image for image in source.images if len(image.pages) == 1 and len(image.planes(image.data)) > 1]
    for image in source.images:
        for page in image.pages:
            for offset, count in zip(page.offsets, page.counts, strict=True):
                allowed[offset : offset + (image.data.nbytes if image in taken else count)] = True
    for small, _ in source.levels:
        for offset, count in zip(small.offsets, small.counts, strict=True):
            allowed[offset : offset + count] = True
    differs = np.flatnonzero((before != after[: len(before)]) & ~allowed)
    assert not len(differs), f"bytes {differs[:8]} differ"


NUMBERS = {3: "H", 4: "I", 16: "Q"}
TYPES = sorted(set(SIZES) - {13, 18})


@st.composite
def tiffs(draw: st.DrawFn) -> tuple[bytes, bool]:
    """A TIFF by hand: any order of its parts, duplicate and unsorted tags, shared and overlapping strips."""
    order, big = draw(st.sampled_from("<>")), draw(st.booleans())
    count_, link, entry_ = ("Q", "Q", "HHQ") if big else ("H", "I", "HHI")
    room = 8 if big else 4
    bits = draw(st.sampled_from([8, 16, 32, 10, 12, 14]))
    compression = draw(st.sampled_from([1, 5, 8, 32773, 50000] if bits in (8, 16, 32) else [1, 8]))
    predictor = draw(st.sampled_from([1, 2])) if compression in (5, 8, 50000) and bits in (8, 16, 32) else 1
    width, length, rows = draw(st.integers(3, 20)), draw(st.integers(1, 14)), draw(st.integers(1, 14))
    compress = tifffile.TIFF.COMPRESSORS[compression] if compression not in (1, 32773) else bytes
    out = bytearray((b"II" if order == "<" else b"MM") + struct.pack(f"{order}H", 43 if big else 42))
    out += struct.pack(f"{order}HHQ", 8, 0, 0) if big else bytes(4)
    shared: list[int] = []
    pointer = 8 if big else 4
    pages = draw(st.integers(1, 4))
    overlap = False

    def put(data: bytes) -> int:
        out.extend(draw(st.binary(max_size=5)))
        out.extend(b"\0" * (-len(out) % 2))
        at = len(out)
        out.extend(data)
        return at

    rng = np.random.default_rng(draw(st.integers(0, 99)))
    for _ in range(pages):
        tags: list[tuple[int, int, int, bytes]] = []
        for _ in range(draw(st.integers(0, 4))):
            kind, number = draw(st.sampled_from(TYPES)), draw(st.integers(0, 9))
            code = draw(st.sampled_from([269, 270, 271, 305, 315, 700, 34675, 40000, 65000, 65001]))
            tags.append(
                (code, kind, number, draw(st.binary(min_size=number * SIZES[kind], max_size=number * SIZES[kind])))
            )
        strips = -(-length // min(rows, length))
        offsets, counts = [], []
        for strip in range(strips):
            lines = min(rows, length - strip * min(rows, length))
            if bits in (8, 16, 32):
                dtype = np.dtype(f"{order}u{bits // 8}")
                pixels = rng.integers(0, 200, (lines, width)).astype(dtype)
                if predictor == 2:
                    pixels = np.diff(pixels.astype(f"u{bits // 8}"), prepend=pixels.dtype.type(0), axis=1).astype(dtype)
                raw = pixels.tobytes()
            else:
                raw = rng.integers(0, 256, lines * -(-width * bits // 8), np.uint8).tobytes()
            if compression == 32773:
                raw = b"".join(bytes([0, byte]) for byte in raw)
            data = bytes(compress(raw)) if compression != 1 else raw
            if shared and draw(st.booleans()) and draw(st.booleans()) and compression == 1:
                at, overlap = draw(st.sampled_from(shared)), True
                out.extend(bytes(max(0, at + len(data) - len(out))))
            else:
                at = put(data)
            shared.append(at)
            offsets.append(at)
            counts.append(len(data))
        wide = 16 if big and draw(st.booleans()) else 4
        narrow = 3 if max(counts) < 2**15 and draw(st.booleans()) else wide

        def many(code: int, kind: int, numbers: list[int]) -> tuple[int, int, int, bytes]:
            return code, kind, len(numbers), struct.pack(f"{order}{len(numbers)}{NUMBERS[kind]}", *numbers)

        tags += [many(256, 3, [width]), many(257, 4, [length]), many(258, 3, [bits]), many(259, 3, [compression])]
        tags += [many(273, wide, offsets), many(278, 4, [rows]), many(279, narrow, counts)]
        tags += [many(262, 3, [draw(st.sampled_from([0, 1]))])] if draw(st.booleans()) else []
        tags += [many(317, 3, [predictor])] if predictor > 1 else []
        if draw(st.booleans()):
            tags.sort(key=lambda tag: tag[0])
        entries = b""
        for code, kind, total, value in tags:
            stored = value.ljust(room, b"\0") if len(value) <= room else struct.pack(order + link, put(value))
            entries += struct.pack(order + entry_, code, kind, total) + stored
        at = put(struct.pack(order + count_, len(tags)) + entries + bytes(room))
        struct.pack_into(order + link, out, pointer, at)
        pointer = at + struct.calcsize(order + count_) + len(entries)
    out.extend(draw(st.binary(max_size=9)))
    return bytes(out), overlap


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(made=tiffs())
def test_every_byte_that_is_no_pixel_is_the_inputs(made, tmp_path_factory):
    content, _ = made
    folder = tmp_path_factory.mktemp("tiff")
    path, out = folder / "a.tif", folder / "b.tif"
    path.write_bytes(content)
    source, _ = rewrite(path, out)
    check_bytes(source, path, out)
    with open(out, "rb") as file:
        form, pointer = read_header(file)
        after = chain(file, form, out.stat().st_size, pointer)
    assert len(after) == len(source.structure.pages)
    assert {65270, *source.structure.pages[0].directory.tags} <= set(after[0].tags)
    shutil.rmtree(folder)


def image(height: int = 96, width: int = 128, dtype: str = "uint16") -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    return ((np.sin(y / 9) * np.cos(x / 7) + 1) * 90 + (x * 7 + y * 3) % 11).astype(dtype)


RGB = {"photometric": "rgb", "metadata": None}
RGBA = {"extrasamples": ["unassalpha"], **RGB}
PLANES = {"planarconfig": "separate"}
COLOUR = np.dstack([image(dtype="uint8"), image(dtype="uint8")[::-1], image(dtype="uint8")[:, ::-1]])
ALPHA = np.dstack([COLOUR, image(dtype="uint8")])
LOSSY = {  # name: (pixels, arguments)
    "jpeg": (image(dtype="uint8"), {"compression": "jpeg", **GREY}),
    "jpeg_colour_tiles": (COLOUR, {"compression": "jpeg", "photometric": "rgb", "tile": (32, 32), "metadata": None}),
    "jpeg_strips": (image(dtype="uint8"), {"compression": "jpeg", "rowsperstrip": 16, **GREY}),
    "jpeg2000": (image(), {"compression": "jpeg2000", **GREY}),
    "webp": (COLOUR, {"compression": "webp", "photometric": "rgb", "metadata": None}),
    "jpegxr": (image(dtype="uint8"), {"compression": "jpegxr", **GREY}),
}
STORED = {
    "lerc": (image(), {"compression": "lerc", **GREY}),
    "float_predictor_tiles": (
        image(dtype="float32"),
        {"compression": "zlib", "predictor": True, "tile": (32, 48), **GREY},
    ),
    "odd_tiles": (image(100, 130), {"tile": (32, 48), **GREY}),
    "odd_tiles_lzw": (image(100, 130), {"tile": (32, 48), "compression": "lzw", "predictor": True, **GREY}),
    "planes_lzw": (
        np.moveaxis(COLOUR, -1, 0),
        {"photometric": "rgb", "planarconfig": "separate", "compression": "lzw"},
    ),
    "alpha_tiles": (
        ALPHA,
        {"photometric": "rgb", "extrasamples": ["unassalpha"], "compression": "lzw", "tile": (48, 48)},
    ),
    "alpha_planes": (np.moveaxis(ALPHA, -1, 0), {"compression": "zlib", **PLANES, **RGBA}),
    "channels_of_a_pixel": (np.dstack([image()] * 5), {"planarconfig": "contig", "extrasamples": [0] * 4, **GREY}),
}


@pytest.mark.parametrize("byteorder", "<>")
@pytest.mark.parametrize("name", STORED)
def test_what_is_no_pixel_stays_in_every_storage(name, byteorder, tmp_path):
    data, arguments = STORED[name]
    if name == "lerc" and byteorder == ">":
        pytest.skip("tifffile writes no big-endian LERC")
    path, out = tmp_path / "a.tif", tmp_path / "b.tif"
    with tifffile.TiffWriter(path, byteorder=byteorder) as tif:
        tif.write(data, **arguments)
    source, _ = rewrite(path, out)
    check_bytes(source, path, out)
    with tifffile.TiffFile(path) as one, tifffile.TiffFile(out) as other:
        assert one.pages.first.hash == other.pages.first.hash
        assert one.pages.first.compression == other.pages.first.compression
    if "alpha" in name:
        planes = [np.moveaxis(tifffile.imread(each), 0 if "planes" in name else -1, 0)[3] for each in (path, out)]
        np.testing.assert_array_equal(*planes)


@pytest.mark.parametrize("name", LOSSY)
def test_lossy_pages_become_deflate_with_a_line(name, tmp_path):
    data, arguments = LOSSY[name]
    path, out = tmp_path / "a.tif", tmp_path / "b.tif"
    tifffile.imwrite(path, data, **arguments)
    source, restored = rewrite(path, out)
    assert "are written as deflate" in source.notes[0]
    with tifffile.TiffFile(out) as tif:
        assert tif.pages.first.compression == 8
        np.testing.assert_array_equal(tif.asarray(), restored[0].reshape(data.shape))


def test_a_plane_that_did_not_change_keeps_its_bytes(tmp_path):
    path, out = tmp_path / "a.tif", tmp_path / "b.tif"
    tifffile.imwrite(path, image(dtype="uint8"), compression="jpeg", **GREY)
    source = read_tiff(path)
    write_tiff(source, [source.data], out, MADE_BY)
    before, after = path.read_bytes(), out.read_bytes()
    assert after[8 : len(before)] == before[8:]


def test_reduced_copies_are_made_from_the_corrected_plane(tmp_path):
    path, out = tmp_path / "a.tif", tmp_path / "b.tif"
    full = image(128, 160)
    means = np.rint(full.reshape(32, 4, 40, 4).mean(axis=(1, 3))).astype("uint16")
    with tifffile.TiffWriter(path) as tif:
        tif.write(full, subifds=2, tile=(64, 64), **GREY)
        tif.write(full[::2, ::2], subfiletype=1, tile=(64, 64), **GREY)
        tif.write(means, subfiletype=1, tile=(64, 64), **GREY)
    source, (restored,) = rewrite(path, out)
    check_bytes(source, path, out)
    with tifffile.TiffFile(out) as tif:
        assert tif.pages.first.pages is not None
        (one, other) = tif.pages.first.pages
        np.testing.assert_array_equal(one.asarray(), restored[::2, ::2])
        expected = np.rint(restored.reshape(32, 4, 40, 4).mean(axis=(1, 3)))
        np.testing.assert_array_equal(other.asarray(), expected)


def test_sparse_tiles_are_zeros_and_stay_sparse_where_they_are(tmp_path):
    path, out = tmp_path / "a.tif", tmp_path / "b.tif"
    data = np.zeros((64, 96), "uint16")
    data[:32, :32] = image(32, 32)
    tifffile.imwrite(path, data, tile=(32, 32), compression="lzw", **GREY)
    with tifffile.TiffFile(path, mode="r+") as tif:
        for name in ("TileOffsets", "TileByteCounts"):
            tag = tif.pages.first.tags[name]
            tag.overwrite([tag.value[0], *[0] * 5])
    source = read_tiff(path)
    np.testing.assert_array_equal(source.data, data)
    restored = data.copy()
    restored[10, 40] = 7
    write_tiff(source, [restored], out, MADE_BY)
    np.testing.assert_array_equal(tifffile.imread(out), restored)
    with tifffile.TiffFile(out) as tif:
        assert [count > 0 for count in tif.pages.first.databytecounts] == [True, True, False, False, False, False]


def test_packed_pixels_stay_within_their_bits(tmp_path):
    path, out = tmp_path / "a.tif", tmp_path / "b.tif"
    with tifffile.TiffWriter(path) as tif:
        tif.write(image(20, 31) * 20, bitspersample=12, **GREY)
    source = read_tiff(path)
    assert source.images[0].limit == 4095
    rewrite(path, out)
    with tifffile.TiffFile(out) as tif:
        assert tif.pages.first.bitspersample == 12


def test_smallest_and_largest_value_follow_where_they_were_true(tmp_path):
    path, out = tmp_path / "a.tif", tmp_path / "b.tif"
    data = image()
    tags = [(280, 3, 1, int(data.min()), True), (281, 3, 1, 65535, True)]
    tifffile.imwrite(path, data, extratags=tags, **GREY)
    source, (restored,) = rewrite(path, out)
    check_bytes(source, path, out)
    with tifffile.TiffFile(out) as tif:
        assert tif.pages.first.tags[280].value == restored.min()
        assert tif.pages.first.tags[281].value == 65535


def test_a_classic_tiff_does_not_pass_its_limit(tmp_path, monkeypatch):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, np.zeros((300, 300), "uint16") + np.arange(300, dtype="uint16"), compression="zlib", **GREY)
    source = read_tiff(path)
    noise = np.random.default_rng(0).integers(0, 65536, source.data.shape).astype("uint16")
    monkeypatch.setattr("defocus.engine.tiff.directories.Form.limit", property(lambda form: 10_000))
    with pytest.raises(InputError, match="would pass the 4 GB"):
        write_tiff(source, [noise], tmp_path / "b.tif", MADE_BY)


def test_where_no_directory_fits_the_record_stands_at_the_end(tmp_path, monkeypatch):
    path, out = tmp_path / "a.tif", tmp_path / "b.tif"
    tifffile.imwrite(path, image(), **GREY)
    source = read_tiff(path)
    monkeypatch.setattr("defocus.engine.tiff.directories.Form.limit", property(lambda form: len(source.bytes)))
    write_tiff(source, changed(source), out, MADE_BY)
    assert read_provenance(out) == MADE_BY


@pytest.mark.parametrize("foreign", [b"somebody else's", b'{"software": "theirs"}', b'{"gain": 2}'])
def test_a_foreign_value_of_our_tag_stays_and_is_no_record_of_ours(foreign, tmp_path):
    path, out = tmp_path / "a.tif", tmp_path / "b.tif"
    tifffile.imwrite(path, image(), extratags=[(65270, 2, 0, foreign, True)], **GREY)
    assert read_provenance(path) is None
    source, _ = rewrite(path, out)
    check_bytes(source, path, out)
    with tifffile.TiffFile(out) as tif:
        assert tif.pages.first.tags[65270].value == foreign.decode()


def test_a_tag_of_a_type_that_nobody_knows_is_kept(tmp_path):
    path, out = tmp_path / "a.tif", tmp_path / "b.tif"
    tifffile.imwrite(path, image(), extratags=[(65001, 4, 1, 7, True)], **GREY)
    with tifffile.TiffFile(path) as tif:
        entry = tif.pages.first.tags[65001].offset
    data = bytearray(path.read_bytes())
    struct.pack_into("<HII", data, entry + 2, 99, 2**32 - 1, 2**32 - 1)
    path.write_bytes(data)
    source, _ = rewrite(path, out)
    check_bytes(source, path, out)


def test_outputs_of_version_0_1_0_are_known(tmp_path):
    path = tmp_path / "a.tif"
    record = b'{"software": "defocus 0.1.0", "model_sha256": "ab"}'
    tifffile.imwrite(path, image(), extratags=[(65333, 2, 0, record, True)], **GREY)
    assert read_provenance(path) == {"software": "defocus 0.1.0", "model_sha256": "ab"}


@pytest.mark.skipif(shutil.which("tiffinfo") is None, reason="needs tiffinfo: apt-get install libtiff-tools")
@pytest.mark.parametrize("name", [*STORED, *LOSSY])
def test_libtiff_reads_it_without_a_word_more(name, tmp_path):
    data, arguments = (STORED | LOSSY)[name]
    path, out = tmp_path / "a.tif", tmp_path / "b.tif"
    tifffile.imwrite(path, data, **arguments)
    rewrite(path, out)
    words = []
    for each in (path, out):
        done = subprocess.run(["tiffinfo", "-D", each], capture_output=True, text=True, check=False)
        words.append([line for line in done.stderr.splitlines() if "Unknown field with tag" not in line])
    assert len(words[1]) <= len(words[0]), words[1]
