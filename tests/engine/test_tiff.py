"""TIFFs as microscopes and their programs write them: what goes in comes out, with our provenance added."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import tifffile

from defocus.engine import tiff
from defocus.engine.scratch import Disk, on_a_disk

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
GREY = {"photometric": "minisblack"}
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
    "deflate_one_strip": ((400, 400), "uint16", {}, {"compression": "zlib", "rowsperstrip": 400}),
    "half_precision": ((50, 70), "float16", {}, {"compression": "lzw", "predictor": True}),
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
    "rgb_planes_pages": ((4, 3, 50, 70), "uint8", {}, {"photometric": "rgb", "planarconfig": "separate"}),
    "rgb_lzw_pages": ((4, 50, 70, 3), "uint8", {}, {"photometric": "rgb", "compression": "lzw", "predictor": True}),
    "cielab": ((50, 70, 3), "uint8", {}, {"photometric": "cielab", "compression": "zlib"}),
    "volume_tiles": ((4, 50, 70), "uint16", {}, {"volumetric": True, "tile": (16, 32, 32), **GREY}),
    "volume_strips": ((4, 50, 70), "uint16", {}, {"volumetric": True, **GREY}),
    "one_directory": ((4, 50, 70), "uint16", {}, {"truncate": True, "metadata": {"axes": "ZYX"}, **GREY}),
    "rgba": ((50, 70, 4), "uint8", {}, {"photometric": "rgb", "extrasamples": ["unassalpha"]}),
    "min_is_white": ((50, 70), "uint8", {}, {"photometric": "miniswhite"}),
    "palette": (
        (50, 70),
        "uint8",
        {},
        {"photometric": "palette", "colormap": np.arange(768, dtype=np.uint16).reshape(3, 256)},
    ),
    "imagej": ((2, 3, 2, 50, 70), "uint16", {"imagej": True}, {"resolution": (1.55, 1.55), "metadata": IMAGEJ}),
    "imagej_one_directory": (
        (4, 50, 70),
        "uint16",
        {"imagej": True, "byteorder": ">"},
        {"truncate": True, "metadata": {"axes": "ZYX"}},
    ),
    "imagej_plane": ((50, 70), "float32", {"imagej": True}, {"metadata": {"unit": "um"}}),
    "imagej_rgb": ((2, 50, 70, 3), "uint8", {"imagej": True}, {"photometric": "rgb", "metadata": {"axes": "ZYXS"}}),
    "ome": ((2, 2, 3, 50, 70), "uint16", {"ome": True}, {"metadata": OME, **GREY}),
    "ome_lzw_tiled": (
        (2, 2, 3, 50, 70),
        "uint16",
        {"ome": True, "bigtiff": True},
        {"metadata": OME, **GREY, "compression": "lzw", "tile": (32, 32)},
    ),
    "ome_rgb": ((50, 70, 3), "uint8", {"ome": True}, {"photometric": "rgb", "metadata": {"axes": "YXS"}}),
    "one_pixel": ((1, 1), "uint16", {}, {"metadata": None}),
    "one_row": ((1, 300), "uint16", {}, {"metadata": None, "compression": "lzw"}),
}
OTHER_TAGS = [
    (65001, "s", 0, "stage at 12.5", True),
    (285, "s", 0, "page name", True),
    (286, "2I", 1, (25, 2), True),  # XPosition
    (65002, "2i", 2, (-1, 3, 7, 1), True),
    (65003, "d", 3, (0.5, 1.5, -2.0), True),
    (65004, "B", 3, b"abc", True),
]


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
            extratags=OTHER_TAGS,
        )
    return path, data


KEPT_TAGS = (285, 286, 305, 306, 320, 50838, 50839, 65001, 65002, 65003, 65004)


def facts(path: Path) -> dict[str, object]:
    """All that must be kept, as tifffile sees it."""
    with tifffile.TiffFile(path) as tif:
        page = tif.pages.first
        tags = {tag.code: tag.value for tag in page.tags}
        series = tif.series[0]
        return {
            "kind": (tif.is_ome, tif.is_imagej, tif.is_shaped, tif.is_bigtiff, tif.byteorder),
            "series": (len(tif.series), series.axes, series.shape, series.dtype),
            "flags": tif.flags,
            "pages": len(tif.pages),
            "storage": (page.compression, page.predictor, page.is_tiled, page.tile, page.rowsperstrip),
            "colour": (page.photometric, page.planarconfig, page.samplesperpixel, page.extrasamples),
            "resolution": [Fraction(*tags[code]) if code in tags else None for code in (282, 283)] + [tags.get(296)],
            "descriptions": [p.aspage().tags.valueof(270) for p in tif.pages],
            "imagej": repr(tif.imagej_metadata),
            "ome": tif.ome_metadata,
            "others": {code: repr(tags.get(code)) for code in KEPT_TAGS},
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
        assert tif.pages.first.tags[tiff.PROCESSING_SOFTWARE].value == "defocus 0.0 (model tiny)"
    tiff.check_whole(out)


def test_what_is_read_onto_a_disk_is_the_same(written, tmp_path):
    """Every layout, by way of arrays on disk: the same pixels, the same file, nothing left over."""
    path, _ = written
    (tmp_path / "out").mkdir()
    usual, large = tiff.read(path), tiff.read(path, Disk(tmp_path / "out", 1))
    assert on_a_disk(large.data)
    assert not on_a_disk(usual.data)
    np.testing.assert_array_equal(large.data, usual.data)
    assert large.data.dtype == usual.data.dtype
    assert (large.axes, large.layout.shape) == (usual.axes, usual.layout.shape)
    for name, stack in (("usual", usual), ("large", large)):
        tiff.write(stack, tmp_path / "out" / f"{name}.tif", MADE_BY)
    assert (tmp_path / "out" / "usual.tif").read_bytes() == (tmp_path / "out" / "large.tif").read_bytes()
    assert len(list((tmp_path / "out").iterdir())) == 2


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


OME_XML = """<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06">
<Image ID="Image:0"><Pixels ID="Pixels:0" DimensionOrder="XYZCT" Type="uint16" SizeX="24" SizeY="20" SizeZ="{size}"
SizeC="1" SizeT="1"><Channel ID="Channel:0:0" SamplesPerPixel="1"/><TiffData IFD="0" PlaneCount="{size}"/>
</Pixels></Image></OME>"""


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


@pytest.mark.parametrize("declared", ["1", "3"])
def test_an_acquisition_that_was_stopped_keeps_all_its_pages(declared, tmp_path):
    """The XML tells of fewer or more planes than were written: the pages are taken as they lie."""
    planes = counts(2, 20, 24)
    xml = OME_XML.format(size=declared)
    path, out = tmp_path / "a.ome.tif", tmp_path / "b.ome.tif"
    with tifffile.TiffWriter(path, ome=False, shaped=False) as tif:
        for number, plane in enumerate(planes):
            tif.write(plane, description=xml if number == 0 else None, metadata=None)
    stack = tiff.read(path)
    np.testing.assert_array_equal(stack.data, planes)
    tiff.write(stack, out, MADE_BY)
    np.testing.assert_array_equal(tiff.read(out).data, planes)
    with tifffile.TiffFile(out, _multifile=False) as tif:
        assert tif.pages.first.description == xml


def test_both_descriptions_of_micro_manager_are_kept(tmp_path):
    """Micro-Manager writes two ImageDescription tags, OME-XML for one kind of reader and ImageJ's for the other."""
    planes = counts(2, 20, 24)
    descriptions = [OME_XML.format(size=2).encode(), b"ImageJ=1.53t\nimages=2\nslices=2\nhyperstack=true"]
    path, out = tmp_path / "a.ome.tif", tmp_path / "b.ome.tif"
    with tifffile.TiffWriter(path, ome=False, shaped=False) as tif:
        for number, plane in enumerate(planes):
            tags = [(270, 2, 0, text, True) for text in descriptions] if number == 0 else []
            tags.append((51123, 2, 0, b'{"Exposure": 10}', True))
            tif.write(plane, metadata=None, extratags=tags)
    stack = tiff.read(path)
    np.testing.assert_array_equal(stack.data, planes)
    tiff.write(stack, out, MADE_BY)
    assert facts(out) == facts(path)
    with tifffile.TiffFile(out) as tif:
        texts = [tif.pages.first.tags.valueof(270, index=index) for index in range(2)]
        assert [text.encode() for text in texts] == descriptions
        assert [p.aspage().tags[51123].value for p in tif.pages] == [{"Exposure": 10}] * 2


def test_metaseries_files_are_known_by_their_software(tmp_path):
    path, out = tmp_path / "a.tif", tmp_path / "b.tif"
    text = '<MetaData><prop id="Description" type="string" value="20x"/></MetaData>'
    tifffile.imwrite(path, counts(20, 24), description=text, software="MetaSeries", metadata=None)
    tiff.write(tiff.read(path), out, MADE_BY)
    with tifffile.TiffFile(out) as tif:
        assert tif.is_metaseries
        assert tif.metaseries_metadata == {"Description": "20x"}


ODD_TAGS = {  # what programs write against the rules, and readers put up with
    "datetime": (306, b"20111103 12:32:33.484"),
    "latin1": (305, b"\xb5Manager \xe9t\xe9"),
    "empty": (315, b""),
}


@pytest.mark.parametrize("name", ODD_TAGS)
def test_odd_text_is_kept(name, tmp_path):
    code, text = ODD_TAGS[name]
    path, out = tmp_path / "a.tif", tmp_path / "b.tif"
    tifffile.imwrite(path, counts(20, 24), software=False, metadata=None, extratags=[(code, 2, 0, text, True)])
    tiff.write(tiff.read(path), out, MADE_BY)
    with tifffile.TiffFile(path) as first, tifffile.TiffFile(out) as second:
        assert second.pages.first.tags[code].value == first.pages.first.tags[code].value


@pytest.mark.parametrize(("tag", "value"), [("XResolution", (1, 0)), ("YResolution", (0, 0)), ("ResolutionUnit", 0)])
def test_a_resolution_without_meaning_does_no_harm(tag, value, tmp_path):
    path, out = tmp_path / "a.tif", tmp_path / "b.tif"
    data = counts(20, 24)
    tifffile.imwrite(path, data, resolution=(2, 2), resolutionunit=3)
    with tifffile.TiffFile(path, mode="r+") as tif:
        tif.pages.first.tags[tag].overwrite(value)
    tiff.write(tiff.read(path), out, MADE_BY)
    with tifffile.TiffFile(out) as tif:
        np.testing.assert_array_equal(tif.asarray(), data)
        assert tif.pages.first.resolutionunit == 1


@pytest.mark.parametrize("wrong", [np.zeros((5, 6), np.uint8), np.zeros((6, 5), np.uint16)])
def test_only_data_like_those_read_are_written(wrong, tmp_path):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, np.ones((5, 6), np.uint16))
    with pytest.raises(ValueError, match="cannot take the place"):
        tiff.write(replace(tiff.read(path), data=wrong), tmp_path / "b.tif", MADE_BY)


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


def test_metaseries_files_of_a_microscope(shared_data, tmp_path):
    paths = sorted((shared_data / "beads").glob("*.tif"))[:4]
    assert paths
    for path in paths:
        stack, out = tiff.read(path), tmp_path / path.name
        tiff.write(stack, out, MADE_BY)
        assert facts(out) == facts(path)
        with tifffile.TiffFile(path) as first, tifffile.TiffFile(out) as second:
            assert second.metaseries_metadata == first.metaseries_metadata
            np.testing.assert_array_equal(second.asarray(), first.asarray())


def test_somebody_elses_tag_is_not_taken_for_our_provenance(tmp_path):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, counts(20, 20), extratags=[(tiff.PROVENANCE_TAG, "s", 0, "mine", True)])
    assert tiff.provenance(path) is None
