"""TIFFs as microscopes and their programs write them: what goes in comes out, with our provenance added."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import tifffile

from defocus.engine import tiff
from defocus.engine.errors import InputError

RNG = np.random.default_rng(0)
MADE_BY = {"software": "defocus 0.0", "model": "tiny", "model_sha256": "ab" * 32, "settings": {"tile": 64}}
MICROMETRE = "\u00b5m"


def counts(*shape: int, dtype: str = "uint16") -> np.ndarray:
    return RNG.integers(0, 200 if np.dtype(dtype).itemsize == 1 else 4000, shape).astype(dtype)


OME = {
    "axes": "TCZYX",
    "PhysicalSizeX": 0.645,
    "PhysicalSizeXUnit": MICROMETRE,
    "PhysicalSizeY": 0.645,
    "PhysicalSizeYUnit": MICROMETRE,
    "PhysicalSizeZ": 2.0,
    "Channel": {"Name": ["Hoechst", "Phalloidin \u03b2"]},
    "Plane": {"DeltaT": [float(i) for i in range(12)]},
}
IMAGEJ = {
    "axes": "TZCYX",
    "unit": "um",
    "spacing": 2.0,
    "finterval": 1.5,
    "mode": "composite",
    "Labels": [f"plane {i}" for i in range(12)],
    "Ranges": (0.0, 4000.0, 10.0, 3000.0),
    "LUTs": [np.stack([np.arange(256, dtype=np.uint8) * (c == k) for k in range(3)]) for c in range(2)],
    "Info": "objective = 20x",
}
FLAVOURS = {  # name: (shape, dtype, arguments of TiffWriter, arguments of write)
    "plain": ((50, 70), "uint16", {}, {"metadata": None}),
    "plain_8bit": ((50, 70), "uint8", {}, {"metadata": None}),
    "float": ((50, 70), "float32", {}, {"metadata": None}),
    "lzw_strips": ((50, 70), "uint16", {}, {"compression": "lzw", "rowsperstrip": 11, "metadata": None}),
    "lzw_predictor": ((50, 70), "uint16", {}, {"compression": "lzw", "predictor": True}),
    "deflate_float": ((50, 70), "float32", {}, {"compression": "zlib", "predictor": True}),
    "zstd": ((5, 50, 70), "uint16", {}, {"compression": "zstd"}),
    "packbits": ((50, 70), "uint8", {}, {"compression": "packbits"}),
    "lzma": ((50, 70), "uint16", {}, {"compression": "lzma"}),
    "tiled": ((130, 90), "uint16", {}, {"tile": (32, 48)}),
    "tiled_lzw_big": ((2, 130, 90), "uint16", {"bigtiff": True}, {"tile": (64, 64), "compression": "lzw"}),
    "big_endian": ((50, 70), "uint16", {"byteorder": ">"}, {"metadata": None}),
    "big_endian_lzw": ((5, 50, 70), "uint16", {"byteorder": ">"}, {"compression": "lzw", "predictor": True}),
    "bigtiff": ((50, 70), "uint16", {"bigtiff": True}, {}),
    "big_endian_bigtiff": ((50, 70), "int16", {"bigtiff": True, "byteorder": ">"}, {}),
    "multi_page": ((5, 50, 70), "uint16", {}, {"metadata": None}),
    "shaped": ((2, 5, 50, 70), "uint16", {}, {"metadata": {"axes": "TZYX"}}),
    "rgb": ((50, 70, 3), "uint8", {}, {"photometric": "rgb"}),
    "rgb_planes": ((3, 50, 70), "uint8", {}, {"photometric": "rgb", "planarconfig": "separate"}),
    "rgba": ((50, 70, 4), "uint8", {}, {"photometric": "rgb", "extrasamples": ["unassalpha"]}),
    "min_is_white": ((50, 70), "uint8", {}, {"photometric": "miniswhite"}),
    "palette": (
        (50, 70),
        "uint8",
        {},
        {"photometric": "palette", "colormap": np.arange(768, dtype=np.uint16).reshape(3, 256)},
    ),
    "imagej": ((2, 3, 2, 50, 70), "uint16", {"imagej": True}, {"resolution": (1.55, 1.55), "metadata": IMAGEJ}),
    "imagej_plane": ((50, 70), "float32", {"imagej": True}, {"metadata": {"unit": "um"}}),
    "imagej_rgb": ((2, 50, 70, 3), "uint8", {"imagej": True}, {"photometric": "rgb", "metadata": {"axes": "ZYXS"}}),
    "ome": ((2, 2, 3, 50, 70), "uint16", {"ome": True}, {"metadata": OME, "photometric": "minisblack"}),
    "ome_lzw_tiled": (
        (2, 2, 3, 50, 70),
        "uint16",
        {"ome": True, "bigtiff": True},
        {"metadata": OME, "photometric": "minisblack", "compression": "lzw", "tile": (32, 32)},
    ),
    "ome_rgb": ((50, 70, 3), "uint8", {"ome": True}, {"photometric": "rgb", "metadata": {"axes": "YXS"}}),
    "one_pixel": ((1, 1), "uint16", {}, {"metadata": None}),
    "one_row": ((1, 300), "uint16", {}, {"metadata": None, "compression": "lzw"}),
}


@pytest.fixture(params=FLAVOURS)
def written(request, tmp_path) -> tuple[Path, np.ndarray]:
    shape, dtype, writer, arguments = FLAVOURS[request.param]
    data = counts(*shape, dtype=dtype)
    path = tmp_path / ("image.ome.tif" if writer.get("ome") else "image.tif")
    with tifffile.TiffWriter(path, **writer) as tif:
        tif.write(
            data,
            resolutionunit=3 if "resolution" not in arguments else 1,
            **({"resolution": (15503.9, 15503.9)} | arguments),
            software="AcquireMaster 3.1",
            datetime="2026:11:23 10:00:00",
            extratags=[(65001, "s", 0, "stage at 12.5", True), (285, "s", 0, "page name", True)],
        )
    return path, data


def facts(path: Path) -> dict[str, object]:
    """All that must be kept, as tifffile sees it."""
    with tifffile.TiffFile(path) as tif:
        page = tif.pages.first
        tags = {tag.code: tag.value for tag in page.tags}
        series = tif.series[0]
        return {
            "kind": (tif.is_ome, tif.is_imagej, tif.is_shaped, tif.is_bigtiff, tif.byteorder),
            "series": (len(tif.series), series.axes, series.shape, series.dtype),
            "pages": len(tif.pages),
            "storage": (page.compression, page.predictor, page.is_tiled, page.tile, page.rowsperstrip),
            "colour": (page.photometric, page.planarconfig, page.samplesperpixel, page.extrasamples),
            "resolution": [Fraction(*tags[code]) if code in tags else None for code in (282, 283)] + [tags.get(296)],
            "descriptions": [p.aspage().tags.valueof(270) for p in tif.pages],
            "imagej": repr(tif.imagej_metadata),
            "ome": tif.ome_metadata,
            "others": {code: repr(tags.get(code)) for code in (285, 306, 320, 50838, 50839, 65001)},
        }


def test_read_gives_data_and_axes(written):
    path, data = written
    stack = tiff.read(path)
    with tifffile.TiffFile(path) as tif:
        expected = tif.series[0]
        assert (stack.axes, stack.data.shape) == (expected.axes, expected.shape)
    np.testing.assert_array_equal(stack.data, data.reshape(stack.data.shape))
    assert stack.data.dtype == data.dtype
    assert stack.data.dtype.isnative


def test_what_was_read_is_written_as_it_was(written, tmp_path):
    path, _ = written
    stack = tiff.read(path)
    out = tmp_path / "out" / path.name
    out.parent.mkdir()
    restored = stack.data[..., ::-1, :].copy() if "S" not in stack.axes else stack.data // 2
    tiff.write(replace(stack, data=restored), out, MADE_BY)
    again = tiff.read(out)
    np.testing.assert_array_equal(again.data, restored)
    assert again.axes == stack.axes
    assert facts(out) == facts(path)
    assert tiff.provenance(out) == MADE_BY
    assert tiff.provenance(path) is None
    with tifffile.TiffFile(out) as tif:
        assert tif.pages.first.software == "AcquireMaster 3.1; defocus 0.0 (model tiny)"
    tiff.check_whole(out)


def test_descriptions_are_kept_to_the_byte(tmp_path):
    shape, _, writer, arguments = FLAVOURS["ome"]
    path, out = tmp_path / "a.ome.tif", tmp_path / "b.ome.tif"
    with tifffile.TiffWriter(path, **writer) as tif:
        tif.write(counts(*shape), **arguments)
    tiff.write(tiff.read(path), out, MADE_BY)
    with tifffile.TiffFile(path) as first, tifffile.TiffFile(out) as second:
        raw = []
        for tif in (first, second):
            tag = tif.pages.first.tags[270]
            tif.filehandle.seek(tag.valueoffset)
            raw.append(tif.filehandle.read(tag.valuebytecount).rstrip(b"\0"))
    assert raw[0] == raw[1]
    assert MICROMETRE.encode() in raw[0]


def test_pages_keep_the_order_that_the_ome_xml_gives_them(tmp_path):
    """A file whose pages lie in another order than its axes: each plane must come back to its own page."""
    planes = counts(2, 3, 20, 24)  # T, Z
    xml = """<?xml version="1.0" encoding="UTF-8"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06">
    <Image ID="Image:0"><Pixels ID="Pixels:0" DimensionOrder="XYZCT" Type="uint16" SizeX="24" SizeY="20" SizeZ="3"
    SizeC="1" SizeT="2"><Channel ID="Channel:0:0" SamplesPerPixel="1"/>{}</Pixels></Image></OME>"""
    where = [(t, z) for z in (2, 0, 1) for t in (1, 0)]
    data = "".join(f'<TiffData FirstT="{t}" FirstZ="{z}" IFD="{i}" PlaneCount="1"/>' for i, (t, z) in enumerate(where))
    path, out = tmp_path / "a.ome.tif", tmp_path / "b.ome.tif"
    with tifffile.TiffWriter(path, ome=False, shaped=False) as tif:
        for index, (t, z) in enumerate(where):
            tif.write(planes[t, z], description=xml.format(data) if index == 0 else None, metadata=None)
    stack = tiff.read(path)
    assert stack.axes == "TZYX"
    np.testing.assert_array_equal(stack.data, planes)
    tiff.write(stack, out, MADE_BY)
    np.testing.assert_array_equal(tifffile.imread(out), planes)
    for index, (t, z) in enumerate(where):
        np.testing.assert_array_equal(tifffile.TiffFile(out).pages[index].asarray(), planes[t, z])


def test_other_files_of_an_ome_set_are_not_read(tmp_path):
    """The XML of a set names planes in another file: only this file's own are taken, and none is invented."""
    planes = counts(2, 20, 24)
    xml = """<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" UUID="urn:uuid:{0}">
    <Image ID="Image:0"><Pixels ID="Pixels:0" DimensionOrder="XYZCT" Type="uint16" SizeX="24" SizeY="20" SizeZ="2"
    SizeC="1" SizeT="1"><Channel ID="Channel:0:0" SamplesPerPixel="1"/>
    <TiffData FirstZ="0" IFD="0" PlaneCount="1"><UUID FileName="a.ome.tif">urn:uuid:1</UUID></TiffData>
    <TiffData FirstZ="1" IFD="0" PlaneCount="1"><UUID FileName="b.ome.tif">urn:uuid:2</UUID></TiffData>
    </Pixels></Image></OME>"""
    for index, name in enumerate("ab"):
        with tifffile.TiffWriter(tmp_path / f"{name}.ome.tif", ome=False, shaped=False) as tif:
            tif.write(planes[index], description=xml.format(index + 1), metadata=None)
    stack = tiff.read(tmp_path / "a.ome.tif")
    np.testing.assert_array_equal(np.squeeze(stack.data), planes[0])
    (tmp_path / "out").mkdir()
    tiff.write(stack, tmp_path / "out" / "a.ome.tif", MADE_BY)
    with tifffile.TiffFile(tmp_path / "out" / "a.ome.tif", _multifile=False) as tif:
        assert tif.pages.first.description.strip() == xml.format(1).strip()
        np.testing.assert_array_equal(tif.pages.first.asarray(), planes[0])


def test_of_a_pyramid_the_full_resolution_is_kept(tmp_path):
    path, out = tmp_path / "a.tif", tmp_path / "b.tif"
    full = counts(128, 160)
    with tifffile.TiffWriter(path) as tif:
        tif.write(full, subifds=1, tile=(64, 64))
        tif.write(full[::2, ::2], subfiletype=1, tile=(64, 64))
    stack = tiff.read(path)
    np.testing.assert_array_equal(stack.data, full)
    tiff.write(stack, out, MADE_BY)
    np.testing.assert_array_equal(tifffile.imread(out), full)


def test_a_second_reader_agrees(tmp_path):
    """Pillow, which shares no code with tifffile, reads what we wrote."""
    image_module = pytest.importorskip("PIL.Image")
    data = counts(52, 70)
    for name, arguments in {"lzw": {"compression": "lzw"}, "plain": {}, "deflate": {"compression": "zlib"}}.items():
        tifffile.imwrite(tmp_path / f"{name}.tif", data, **arguments)
        tiff.write(tiff.read(tmp_path / f"{name}.tif"), tmp_path / f"{name}_out.tif", MADE_BY)
        with image_module.open(tmp_path / f"{name}_out.tif") as image:
            np.testing.assert_array_equal(np.asarray(image), data)


def test_real_files_of_a_microscope(shared_data, tmp_path):
    paths = sorted((shared_data / "bbbc006" / "defocused_w1_z00").glob("*.tif"))
    assert len(paths) == 12
    for path in paths:
        stack = tiff.read(path)
        assert (stack.data.shape, stack.data.dtype, stack.axes) == ((520, 696), np.uint16, "YX")
        out = tmp_path / path.name
        tiff.write(stack, out, MADE_BY)
        assert facts(out) == facts(path)
        np.testing.assert_array_equal(tifffile.imread(out), stack.data)


CUTTABLE = ["plain", "lzw_strips", "tiled_lzw_big", "big_endian_lzw", "multi_page", "imagej", "ome", "rgb_planes"]


@pytest.mark.parametrize("name", CUTTABLE)
def test_a_truncated_file_never_passes_for_a_whole_one(name, tmp_path):
    """Cut at every hundredth byte and at each of the last ones: an InputError each time, never wrong data."""
    shape, dtype, writer, arguments = FLAVOURS[name]
    path, cut = tmp_path / "whole.tif", tmp_path / "cut.tif"
    data = counts(*shape, dtype=dtype)
    with tifffile.TiffWriter(path, **writer) as tif:
        tif.write(data, **arguments)
    whole = path.read_bytes()
    lengths = {*range(0, len(whole), max(1, len(whole) // 100)), *range(max(0, len(whole) - 40), len(whole)), 4, 8, 9}
    for length in sorted(lengths):
        cut.write_bytes(whole[:length])
        try:
            stack = tiff.read(cut)
        except InputError as error:
            line = str(error)
        else:  # only what nobody needs may be missing: values that no directory points at
            np.testing.assert_array_equal(stack.data, data.reshape(stack.data.shape))
            assert length >= len(whole) - 16
            continue
        assert line.startswith(f"{cut}: ")
        assert "\n" not in line


def bad_files(folder: Path) -> dict[str, tuple[Path, str]]:
    """Name: (file, what its error must say)."""
    made: dict[str, tuple[Path, str]] = {}

    def put(name: str, expected: str, content: bytes | None = None, **arguments) -> None:
        path = folder / f"{name}.tif"
        if content is not None:
            path.write_bytes(content)
        elif arguments:
            tifffile.imwrite(path, **arguments)
        made[name] = (path, expected)

    put("missing", "no such file")
    put("zero", "0 bytes", b"")
    put("text", "not a TIFF", b"Dear diary, today the microscope\n" * 40)
    put("zeros", "zeros", b"\0" * 4096)
    put("header", "", b"II*\0")
    put("no_page", "names no page", b"II*\0\0\0\0\0")
    put("beyond", "beyond the end", b"II*\0\xff\xff\0\0")
    put("circle", "circle", b"II*\0\x08\0\0\0" + b"\0\0" + b"\x08\0\0\0")
    put("png", "not a TIFF", b"\x89PNG\r\n\x1a\n" + b"\0" * 100)
    put("complex", "complex64", data=np.zeros((8, 8), np.complex64))
    put("int64", "int64", data=np.zeros((8, 8), np.int64))
    put("uint64", "uint64", data=np.zeros((8, 8), np.uint64))
    put("bilevel", "bool", data=np.zeros((8, 8), bool))
    several = folder / "several.tif"
    with tifffile.TiffWriter(several) as tif:
        tif.write(counts(20, 20), metadata=None)
        tif.write(counts(30, 34), metadata=None)
    made["several"] = (several, "2 images")
    (folder / "folder.tif").mkdir()
    made["folder"] = (folder / "folder.tif", "a folder")
    return made


BAD = ["missing", "zero", "text", "zeros", "header", "no_page", "beyond", "circle", "png", "complex", "int64", "uint64"]


@pytest.mark.parametrize("name", [*BAD, "bilevel", "several", "folder"])
def test_a_bad_file_is_one_line(name, tmp_path, capfd):
    path, expected = bad_files(tmp_path)[name]
    with pytest.raises(InputError) as error:
        tiff.read(path)
    text = str(error.value)
    assert text.startswith(f"{path}: ")
    assert expected in text
    assert "; " in text
    assert "\n" not in text
    assert capfd.readouterr() == ("", "")  # nor does tifffile's log reach the terminal


def test_damaged_strips_are_an_error_not_zeros(tmp_path):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, counts(60, 70), compression="zlib", rowsperstrip=10)
    with tifffile.TiffFile(path) as tif:
        offset, length = tif.pages.first.dataoffsets[2], tif.pages.first.databytecounts[2]
    content = bytearray(path.read_bytes())
    content[offset : offset + length] = bytes(length)
    path.write_bytes(content)
    with pytest.raises(InputError, match="damaged"):
        tiff.read(path)


@pytest.mark.parametrize("compression", [None, "lzw"])
def test_a_preallocated_file_is_not_complete(tmp_path, compression):
    """The writer made room and wrote the directory, but the strips' places are still 0."""
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, counts(60, 70), compression=compression, rowsperstrip=10)
    with tifffile.TiffFile(path, mode="r+") as tif:
        tag = tif.pages.first.tags["StripOffsets"]
        tag.overwrite([*tag.value[:3], 0, 0, 0])
    with pytest.raises(InputError, match="not written yet"):
        tiff.check_whole(path)


def test_two_pages_missing_from_an_imagej_stack_are_noticed(tmp_path):
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path, imagej=True) as tif:
        tif.write(counts(4, 30, 30), metadata={"axes": "ZYX"}, contiguous=True, truncate=True)
    assert tiff.read(path).data.shape == (4, 30, 30)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) - 2 * 30 * 30 * 2])
    with pytest.raises(InputError):
        tiff.read(path)


def test_one_directory_for_many_planes_is_written_plane_by_plane(tmp_path):
    path, out = tmp_path / "a.tif", tmp_path / "b.tif"
    data = counts(4, 30, 30)
    with tifffile.TiffWriter(path, imagej=True) as tif:
        tif.write(data, metadata={"axes": "ZYX"}, contiguous=True, truncate=True)
    stack = tiff.read(path)
    tiff.write(stack, out, MADE_BY)
    again = tiff.read(out)
    assert again.axes == "ZYX"
    np.testing.assert_array_equal(again.data, data)


def test_somebody_elses_tag_is_not_taken_for_our_provenance(tmp_path):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, counts(20, 20), extratags=[(tiff.PROVENANCE_TAG, "s", 0, "mine", True)])
    assert tiff.provenance(path) is None
