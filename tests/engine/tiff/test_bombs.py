"""Small files that claim what no computer holds: refused by what they claim, before it is reserved or gone through."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import imagecodecs
import numpy as np
import pytest

from defocus.engine.errors import ErrorCode, InputError
from defocus.engine.tiff.read import check_complete, read_tiff

Tag = tuple[int, int, int, int]


def _directory(tags: list[Tag], following: int = 0) -> bytes:
    entries = b"".join(struct.pack("<HHII", *tag) for tag in sorted(tags))
    return struct.pack("<H", len(tags)) + entries + struct.pack("<I", following)


def _page(length: int, width: int, compression: int, places: list[Tag], rows: int) -> list[Tag]:
    plain = [(256, 4, 1, width), (257, 4, 1, length), (258, 3, 1, 8), (259, 3, 1, compression), (262, 3, 1, 1)]
    return [*plain, (277, 3, 1, 1), (278, 4, 1, rows), *places]


def _file(parts: list[bytes], tags: Callable[[list[int]], list[Tag]]) -> bytes:
    """A TIFF of one page, behind `parts`, whose places `tags` is given."""
    starts, at = [], 8
    for part in parts:
        starts.append(at)
        at += len(part)
    return b"II*\0" + struct.pack("<I", at) + b"".join(parts) + _directory(tags(starts))


def _strips(data: bytes, count: int, length: int, width: int, compression: int) -> bytes:
    """A page of many strips that all lie in the same place."""
    parts = [data, struct.pack("<I", 8) * count, struct.pack("<I", len(data)) * count]
    rows = length // count

    def tags(at: list[int]) -> list[Tag]:
        return _page(length, width, compression, [(273, 4, count, at[1]), (279, 4, count, at[2])], rows)

    return _file(parts, tags)


def _tiles_without_bytes() -> bytes:
    """100,000 x 100,000 px, of which the first tile is there."""
    parts = [zlib.compress(bytes(8192 * 8192)), *(bytes(4 * 168) for _ in range(2))]
    parts = [parts[0], struct.pack("<I", 8) + parts[1], struct.pack("<I", len(parts[0])) + parts[2]]

    def tags(at: list[int]) -> list[Tag]:
        kept = [tag for tag in _page(100_000, 100_000, 8, [], 1) if tag[0] != 278]
        return [*kept, (322, 3, 1, 8192), (323, 3, 1, 8192), (324, 4, 169, at[1]), (325, 4, 169, at[2])]

    return _file(parts, tags)


def _one_strip(data: bytes | bytearray, compression: int, description: bytes = b"") -> bytes:
    """64 x 64 px in one strip."""
    parts = [data, description]

    def tags(at: list[int]) -> list[Tag]:
        said = [(270, 2, len(description), at[1])] if description else []
        return _page(64, 64, compression, [(273, 4, 1, at[0]), (279, 4, 1, len(data)), *said], 64)

    return _file(parts, tags)


def _pages_without_tags() -> bytes:
    following = range(14, 14 + 6 * 500_000, 6)
    return b"II*\0\x08\0\0\0" + b"".join(struct.pack("<HI", 0, at) for at in following) + bytes(6)


def _pages_that_share_a_tag(code: int, kind: int, nbytes: int) -> bytes:
    """A thousand pages that name the same megabytes."""
    data = b"II*\0" + struct.pack("<I", 8 + nbytes) + bytes(nbytes)
    count = nbytes // (4 if kind == 4 else 2)
    tags = _page(16, 16, 1, [(273, 4, 1, 8), (279, 4, 1, 256)], 16)
    tags = [*(tag for tag in tags if tag[0] != code), (code, kind, count, 8)]
    size = len(_directory(tags))
    starts = [len(data) + size * (number + 1) for number in range(1000)]
    return data + b"".join(_directory(tags, start) for start in [*starts[:-1], 0])


def _jpeg() -> bytes:
    data = bytearray(imagecodecs.jpeg_encode(np.zeros((64, 64), np.uint8)))
    at = data.find(b"\xff\xc0")
    data[at + 5 : at + 9] = struct.pack(">HH", 65500, 65500)
    return bytes(data)


def _jpeg2000() -> bytes:
    data = bytearray(imagecodecs.jpeg2k_encode(np.zeros((64, 64), np.uint8), codecformat="J2K"))
    at = data.find(b"\xff\x51")
    data[at + 6 : at + 14] = data[at + 22 : at + 30] = struct.pack(">II", 60000, 60000)
    return bytes(data)


_BLANK = np.zeros((4096, 4096), np.uint8)
_OVERLAP = "damaged: the tags of its pages overlap"
_LARGER = r"a strip or tile of 64 x 64 px holds \d+ x \d+ px"
BOMBS: dict[str, tuple[Callable[[], bytes], str]] = {
    "pages without tags": (_pages_without_tags, "page 0 has no tags"),
    "pages that share offsets": (lambda: _pages_that_share_a_tag(273, 4, 8_000_000), _OVERLAP),
    "pages that share a palette": (lambda: _pages_that_share_a_tag(320, 3, 131_070), _OVERLAP),
    "strips that share a place": (
        lambda: _strips(zlib.compress(bytes(10_000_000)), 1000, 100_000, 100_000, 8),
        "claims 10.0 GB of pixels, its bytes hold",
    ),
    "tiles without bytes": (_tiles_without_bytes, r"claims 9\.9 GB of pixels that it does not hold"),
    "JPEG": (lambda: _one_strip(_jpeg(), 7), _LARGER),
    "JPEG 2000": (lambda: _one_strip(_jpeg2000(), 34712), _LARGER),
    "PNG": (lambda: _one_strip(imagecodecs.png_encode(_BLANK), 34933), _LARGER),
    "WebP": (lambda: _one_strip(imagecodecs.webp_encode(np.dstack([_BLANK] * 3)), 50001), _LARGER),
    "JPEG XL": (lambda: _one_strip(imagecodecs.jpegxl_encode(_BLANK), 50002), _LARGER),
    "JPEG XR": (lambda: _one_strip(imagecodecs.jpegxr_encode(_BLANK), 22610), _LARGER),
    "LERC": (lambda: _one_strip(imagecodecs.lerc_encode(np.zeros((40_000, 4000), np.uint8)), 34887), _LARGER),
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_refused_by_what_it_claims(name, tmp_path):
    make, cause = BOMBS[name]
    path = tmp_path / "bomb.tif"
    path.write_bytes(make())
    with pytest.raises(InputError, match=cause) as caught:
        read_tiff(path)
    assert caught.value.code is ErrorCode.DAMAGED


def test_a_million_strips_of_unknown_length_are_gone_through_once(tmp_path):
    count = 400_000
    places = np.arange(8, 8 + count, dtype="<u4").tobytes()
    path = tmp_path / "bomb.tif"
    path.write_bytes(_file([places], lambda at: _page(count, 16, 8, [(273, 4, count, at[0])], 1)))
    check_complete(path)
    with pytest.raises(InputError, match="damaged"):
        read_tiff(path)


@pytest.mark.parametrize(
    "sizes", ['SizeZ="30000" SizeT="20000"', 'SizeZ="99999999999999999999" SizeT="9"', 'SizeZ="1" SizeT="1"']
)
def test_a_description_of_more_planes_than_any_dataset_has_says_nothing(sizes: str, tmp_path: Path, monkeypatch):
    planes = 600_000_000
    xml = (
        '<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"><Image ID="Image:0">'
        f'<Pixels ID="Pixels:0" DimensionOrder="XYCZT" Type="uint8" SizeX="64" SizeY="64" SizeC="1" {sizes}>'
        f'<TiffData IFD="0" PlaneCount="{planes}"/></Pixels></Image></OME>\0'
    ).encode()
    path = tmp_path / "planes.tif"
    path.write_bytes(_one_strip(bytes(4096), 1, xml))

    asked: list[object] = []
    monkeypatch.setattr("tifffile.TiffFile._series_ome", asked.append)
    assert read_tiff(path).axes == "YX"
    assert not asked  # it would make a list of all planes


def test_an_image_of_its_own_in_a_strip_may_be_a_little_larger(tmp_path):
    data = imagecodecs.png_encode(np.full((80, 64), 7, np.uint8))
    path = tmp_path / "rows.tif"
    path.write_bytes(_one_strip(data, 34933))
    assert (read_tiff(path).data == 7).all()
