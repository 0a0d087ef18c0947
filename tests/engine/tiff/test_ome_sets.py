"""OME-TIFF in several files: one OME-XML in each, which names the planes of all. Only the file itself is read."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from defocus.engine.tiff.read import axes_of, read_tiff

from .test_tiff import counts, rewrite

SIZES = {"C": 2, "Z": 3, "T": 4}
Plane = dict[str, int]


def write_set(
    folder: Path,
    order: str,
    file_of: Any,
    *,
    names: bool = True,
    root: bool = True,
    together: bool = False,
    samples: int = 1,
    images: int = 1,
    bits: bool = False,
) -> dict[str, list[tuple[int, Plane, np.ndarray]]]:
    """Write a set in which `file_of(image, plane)` names each plane's file; image, plane and pixels of each page.

    `names`, `root`: whether FileName and the file's own UUID are said; `together`: neighbouring planes in one TiffData.
    """
    shape = (20, 24, 3) if samples == 3 else (20, 24)
    files: dict[str, list[tuple[int, Plane, np.ndarray]]] = {}
    xml = ""
    for image in range(images):
        xml += f"""<Image ID="Image:{image}"><Pixels ID="Pixels:{image}" DimensionOrder="XY{order}" Type="uint16"
        {f'SignificantBits="{10 + 2 * image}"' if bits else ""} SizeX="24" SizeY="20" SizeZ="3" SizeT="4"
        SizeC="{2 * samples}"><Channel ID="Channel:{image}:0" SamplesPerPixel="{samples}"/>
        <Channel ID="Channel:{image}:1" SamplesPerPixel="{samples}"/>"""
        runs: list[list[Any]] = []
        for numbers in itertools.product(*(range(SIZES[axis]) for axis in order[::-1])):
            plane = dict(zip(order[::-1], numbers, strict=True))
            pages = files.setdefault(file_of(image, plane), [])
            if together and runs and runs[-1][0] == file_of(image, plane):
                runs[-1][3] += 1
            else:
                runs.append([file_of(image, plane), plane, len(pages), 1])
            pages.append((image, plane, counts(*shape) % 1000))
        for name, plane, page, count in runs:
            first = " ".join(f'First{axis}="{number}"' for axis, number in plane.items())
            said = f' FileName="{name}"' if names else ""
            xml += (
                f"""<TiffData {first} IFD="{page}" PlaneCount="{count}"><UUID{said}>urn:uuid:{name}</UUID></TiffData>"""
            )
        xml += "</Pixels></Image>"
    for name, pages in files.items():
        own = f' UUID="urn:uuid:{name}"' if root else ""
        text = f'<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"{own}>{xml}</OME>'
        with tifffile.TiffWriter(folder / name, ome=False, shaped=False) as tif:
            for number, (_, _, pixels) in enumerate(pages):
                tif.write(pixels, description=text if number == 0 else None, metadata=None)
    return files


def assert_axes(path: Path, order: str, pages: list[tuple[int, Plane, np.ndarray]]) -> None:
    """Each image of a file has the axes along which it has several planes, and each plane its place in them."""
    source = read_tiff(path)
    assert len(source.images) == len({image for image, _, _ in pages})
    assert (source.axes, source.data.shape) == axes_of(path)
    for number, found in zip(sorted({image for image, _, _ in pages}), source.images, strict=True):
        own = [(plane, pixels) for image, plane, pixels in pages if image == number]
        values = {axis: sorted({plane[axis] for plane, _ in own}) for axis in order[::-1]}
        axes = "".join(axis for axis in order[::-1] if len(values[axis]) > 1)
        assert found.axes == axes + ("YXS" if own[0][1].ndim == 3 else "YX")
        for plane, pixels in own:
            index = tuple(values[axis].index(plane[axis]) for axis in axes)
            np.testing.assert_array_equal(found.data[index], pixels)


SPREADS = {
    "a file a channel": lambda image, plane: f"c{plane['C']}.ome.tif",
    "a file a time": lambda image, plane: f"t{plane['T']}.ome.tif",
    "a file a depth of a channel": lambda image, plane: f"c{plane['C']}z{plane['Z']}.ome.tif",
    "two times a file": lambda image, plane: f"t{plane['T'] // 2}.ome.tif",
    "every other time": lambda image, plane: f"t{plane['T'] % 2}.ome.tif",
}


@pytest.mark.parametrize("order", ["CZT", "ZCT", "TZC"])
@pytest.mark.parametrize("spread", SPREADS)
def test_axes_are_those_of_the_planes_in_the_file(spread, order, tmp_path):
    for path, pages in write_set(tmp_path, order, SPREADS[spread]).items():
        assert_axes(tmp_path / path, order, pages)


@pytest.mark.parametrize(
    "said", [{"names": False}, {"root": False}, {"together": True}, {"samples": 3}], ids=lambda said: next(iter(said))
)
def test_files_are_told_by_uuid_or_by_name_and_planes_one_by_one_or_together(said, tmp_path):
    files = write_set(tmp_path, "ZTC", lambda image, plane: f"c{plane['C']}.ome.tif", **said)
    for path, pages in files.items():
        assert_axes(tmp_path / path, "ZTC", pages)


def test_each_position_in_a_file_of_its_own_has_its_own_significant_bits(tmp_path):
    files = write_set(tmp_path, "CZT", lambda image, plane: f"Pos{image}.ome.tif", images=3, bits=True)
    for number, (path, pages) in enumerate(files.items()):
        assert_axes(tmp_path / path, "CZT", pages)
        assert [image.limit for image in read_tiff(tmp_path / path).images] == [2 ** (10 + 2 * number) - 1]


def test_positions_that_share_files_are_images_of_each(tmp_path):
    files = write_set(tmp_path, "CZT", lambda image, plane: f"c{plane['C']}.ome.tif", images=2)
    for path, pages in files.items():
        assert_axes(tmp_path / path, "CZT", pages)


@pytest.mark.parametrize("kind", ["no grid", "renamed"])
def test_pages_have_no_stated_meaning_where_the_set_gives_them_none(kind, tmp_path):
    """A file that goes on in the middle of a time; one whose name says nothing any more."""
    if kind == "no grid":
        files = write_set(tmp_path, "CZT", lambda image, plane: f"{(6 * plane['T'] + 2 * plane['Z']) // 10}.ome.tif")
        path = tmp_path / "1.ome.tif"
        pages = files[path.name]
    else:
        files = write_set(tmp_path, "CZT", lambda image, plane: f"c{plane['C']}.ome.tif", root=False)
        path, pages = (tmp_path / "c0.ome.tif").rename(tmp_path / "other.ome.tif"), files["c0.ome.tif"]
    source = read_tiff(path)
    assert source.axes == "IYX"
    np.testing.assert_array_equal(source.data, [pixels for _, _, pixels in pages])
    (tmp_path / "out").mkdir()
    rewrite(source, tmp_path / "out" / path.name)
    assert read_tiff(tmp_path / "out" / path.name).axes == "IYX"
