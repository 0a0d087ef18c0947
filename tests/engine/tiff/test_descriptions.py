"""What a TIFF says of itself: descriptions of OME, Micro-Manager and MetaSeries, stopped acquisitions, odd tags."""

from __future__ import annotations

import numpy as np
import pytest
import tifffile

from defocus.engine.tiff.read import read_tiff, write_tiff

from ...helpers.micromanager import write_stack
from .test_tiff import FLAVOURS, MICROMETRE, counts, facts, rewrite


def test_descriptions_are_kept_to_the_byte(tmp_path):
    shape, _, writer, arguments = FLAVOURS["ome"]
    path, out = tmp_path / "a.ome.tif", tmp_path / "b.ome.tif"
    with tifffile.TiffWriter(path, **writer) as tif:
        tif.write(counts(*shape), **arguments)
    rewrite(read_tiff(path), out)
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
    stack = read_tiff(path)
    assert stack.axes == "TZYX"
    np.testing.assert_array_equal(stack.data, planes)
    rewrite(stack, out)
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
    stack = read_tiff(tmp_path / "a.ome.tif")
    np.testing.assert_array_equal(np.squeeze(stack.data), planes[0])
    (tmp_path / "out").mkdir()
    rewrite(stack, tmp_path / "out" / "a.ome.tif")
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
    stack = read_tiff(path)
    np.testing.assert_array_equal(stack.data, planes)
    rewrite(stack, out)
    np.testing.assert_array_equal(read_tiff(out).data, planes)
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
    stack = read_tiff(path)
    np.testing.assert_array_equal(stack.data, planes)
    rewrite(stack, out)
    assert facts(out) == facts(path)
    with tifffile.TiffFile(out) as tif:
        texts = [tif.pages.first.tags.valueof(270, index=index) for index in range(2)]
        assert [text.encode() for text in texts] == descriptions
        assert [p.aspage().tags[51123].value for p in tif.pages] == [{"Exposure": 10}] * 2


def test_metaseries_files_are_known_by_their_software(tmp_path):
    path, out = tmp_path / "a.tif", tmp_path / "b.tif"
    text = '<MetaData><prop id="Description" type="string" value="20x"/></MetaData>'
    tifffile.imwrite(path, counts(20, 24), description=text, software="MetaSeries", metadata=None)
    rewrite(read_tiff(path), out)
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
    rewrite(read_tiff(path), out)
    with tifffile.TiffFile(path) as first, tifffile.TiffFile(out) as second:
        assert second.pages.first.tags[code].value == first.pages.first.tags[code].value


@pytest.mark.parametrize(("tag", "value"), [("XResolution", (1, 0)), ("YResolution", (0, 0)), ("ResolutionUnit", 0)])
def test_a_resolution_without_meaning_does_no_harm(tag, value, tmp_path):
    path, out = tmp_path / "a.tif", tmp_path / "b.tif"
    data = counts(20, 24)
    tifffile.imwrite(path, data, resolution=(2, 2), resolutionunit=3)
    with tifffile.TiffFile(path, mode="r+") as tif:
        tif.pages.first.tags[tag].overwrite(value)
    rewrite(read_tiff(path), out)
    with tifffile.TiffFile(out) as tif:
        np.testing.assert_array_equal(tif.asarray(), data)
        with tifffile.TiffFile(path) as before:
            assert tif.pages.first.tags[tag].value == before.pages.first.tags[tag].value


def test_page_n_is_page_n_under_an_index_of_another_order(tmp_path):
    """tifffile follows Micro-Manager's index map, which may name the pages in another order than the file's."""
    planes = counts(3, 20, 24)
    path, out = tmp_path / "exp_MMStack_Pos0.tif", tmp_path / "out.tif"
    write_stack(path, planes, order=[2, 0, 1])
    with tifffile.TiffFile(path) as tif:
        assert not np.array_equal(tif.series[0].asarray().reshape(planes.shape), planes)
    stack = read_tiff(path)
    np.testing.assert_array_equal(stack.data, planes)
    rewrite(stack, out)
    with tifffile.TiffFile(out, is_mmstack=False) as tif:
        np.testing.assert_array_equal([page.asarray() for page in tif.pages], planes)


@pytest.mark.parametrize(("largest", "limit"), [(4095, 4095), (4096, None)])
def test_significant_bits_bound_the_output_unless_the_input_goes_beyond(largest, limit, tmp_path):
    xml = OME_XML.format(size=2).replace('Type="uint16"', 'Type="uint16" SignificantBits="12"')
    planes = counts(2, 20, 24) % 4000
    planes[0, 3, 4] = largest
    path = tmp_path / "a.ome.tif"
    with tifffile.TiffWriter(path, ome=False, shaped=False) as tif:
        for number, plane in enumerate(planes):
            tif.write(plane, description=xml if number == 0 else None, metadata=None)
    (image,) = read_tiff(path).images
    assert image.limit == limit
    np.testing.assert_array_equal(image.data, planes)


def test_significant_bits_bound_each_image_by_its_own(tmp_path):
    """In either kind of quotes; where the pages are planes of no stated meaning, by the most that is said."""
    xml = """<?xml version='1.0'?><OME xmlns='http://www.openmicroscopy.org/Schemas/OME/2016-06'>"""
    for number, bits in enumerate((10, 14)):
        xml += f"""<Image ID='Image:{number}'><Pixels ID='Pixels:{number}' DimensionOrder='XYZCT' Type='uint16'
        SignificantBits='{bits}' SizeX='24' SizeY='20' SizeZ='1' SizeC='1' SizeT='1'><Channel ID='Channel:{number}:0'
        SamplesPerPixel='1'/><TiffData IFD='{number}' PlaneCount='1'/></Pixels></Image>"""
    path = tmp_path / "a.ome.tif"
    for text, limits in ((xml + "</OME>", [1023, 16383]), (xml.replace("IFD='1'", "IFD='7'") + "</OME>", [16383])):
        with tifffile.TiffWriter(path, ome=False, shaped=False) as tif:
            for number, plane in enumerate(counts(2, 20, 24) % 1000):
                tif.write(plane, description=text if number == 0 else None, metadata=None)
        assert [image.limit for image in read_tiff(path).images] == limits


def test_masks_and_bilevel_pages_are_copied(tmp_path):
    grey, mask = counts(2, 20, 24), counts(20, 24) > 2000
    path, out = tmp_path / "a.tif", tmp_path / "b.tif"
    with tifffile.TiffWriter(path) as tif:
        tif.write(grey[0], photometric="minisblack", metadata=None)
        tif.write(mask, photometric="minisblack", subfiletype=1, metadata=None)
        tif.write(mask.astype(np.uint8) * 255, photometric="minisblack", subfiletype=1, metadata=None)
        tif.write(mask, photometric="minisblack", metadata=None)
        tif.write(grey[1], photometric="minisblack", metadata=None)
    with tifffile.TiffFile(path, mode="r+") as tif:
        for number in (1, 2):
            tif.pages[number].aspage().tags[254].overwrite(4)  # a transparency mask
        tif.pages[1].aspage().tags[262].overwrite(4)
    source = read_tiff(path)
    assert [page.name for image in source.images for page in image.pages] == ["page 0", "page 4"]
    write_tiff(source, [image.data // 2 for image in source.images], out, {"software": "defocus"})
    with tifffile.TiffFile(path) as before, tifffile.TiffFile(out) as after:
        assert len(after.pages) == 5
        for number in (1, 2, 3):
            np.testing.assert_array_equal(before.pages[number].asarray(), after.pages[number].asarray())
        for number, plane in ((0, grey[0]), (4, grey[1])):
            np.testing.assert_array_equal(after.pages[number].asarray(), plane // 2)


def test_positions_with_pyramids_keep_their_axes_and_labels_of_slides_are_copied(tmp_path):
    """SubIFDs have numbers of their own, which are not those of pages."""
    path, out = tmp_path / "a.ome.tif", tmp_path / "b.ome.tif"
    stacks, label = counts(2, 3, 2, 32, 48), counts(30, 20, 3).astype(np.uint8)
    with tifffile.TiffWriter(path, ome=True) as tif:
        for number, stack in enumerate(stacks):
            tif.write(stack, subifds=2, tile=(16, 16), metadata={"axes": "ZCYX", "Name": f"position {number}"})
            for step in (2, 4):
                tif.write(stack[..., ::step, ::step], subfiletype=1, tile=(16, 16))
        for name in ("label image", "macro image"):
            tif.write(label, photometric="rgb", metadata={"axes": "YXS", "Name": name})
    source = read_tiff(path)
    assert [(image.axes, image.data.shape) for image in source.images] == [("ZCYX", (3, 2, 32, 48))] * 2
    assert len(source.levels) == 2 * 6 * 2
    restored = [image.data // 2 for image in source.images]
    write_tiff(source, restored, out, {"software": "defocus"})
    with tifffile.TiffFile(out) as tif:
        for series, data in zip(tif.series, restored, strict=False):
            for level, step in zip(series.levels, (1, 2, 4), strict=True):
                np.testing.assert_array_equal(level.asarray(), data[..., ::step, ::step])
        assert [series.name for series in tif.series[2:]] == ["label image", "macro image"]
        for series in tif.series[2:]:
            np.testing.assert_array_equal(series.asarray(), label)
