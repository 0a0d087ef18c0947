"""TIFFs that are not whole or not fit: one line each, never another exception, never wrong pixels without a word."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile

from defocus.engine.errors import ErrorCode, InputError
from defocus.engine.tiff.read import check_complete, read_tiff, write_tiff

from .drawn import Drawn

RNG = np.random.default_rng(0)
KINDS = {  # name: (shape, dtype, arguments of TiffWriter, arguments of write)
    "plain": ((50, 70), "uint16", {}, {"metadata": None}),
    "lzw_strips": ((50, 70), "uint16", {}, {"compression": "lzw", "rowsperstrip": 11, "metadata": None}),
    "tiled_lzw_big": ((2, 130, 90), "uint16", {"bigtiff": True}, {"tile": (64, 64), "compression": "lzw"}),
    "big_endian_lzw": ((5, 50, 70), "uint16", {"byteorder": ">"}, {"compression": "lzw", "predictor": True}),
    "deflate_float": ((50, 70), "float32", {}, {"compression": "zlib", "predictor": True}),
    "multi_page": ((5, 50, 70), "uint16", {}, {"metadata": None}),
    "rgb_planes": ((3, 50, 70), "uint8", {}, {"photometric": "rgb", "planarconfig": "separate"}),
    "imagej": ((2, 3, 50, 70), "uint16", {"imagej": True}, {"metadata": {"axes": "TZYX", "Labels": list("abcdef")}}),
    "imagej_one_directory": ((4, 50, 70), "uint16", {"imagej": True}, {"truncate": True, "metadata": {"axes": "ZYX"}}),
    "ome": ((2, 3, 50, 70), "uint16", {"ome": True}, {"metadata": {"axes": "TZYX"}}),
}


def counts(*shape: int, dtype: str = "uint16") -> np.ndarray:
    return RNG.integers(0, 200 if np.dtype(dtype).itemsize == 1 else 4000, shape).astype(dtype)


def write_kind(name: str, path: Path) -> np.ndarray:
    shape, dtype, writer, arguments = KINDS[name]
    data = counts(*shape, dtype=dtype)
    with tifffile.TiffWriter(path, **writer) as tif:
        tif.write(data, **arguments)
    return data


@pytest.mark.parametrize("name", KINDS)
def test_a_truncated_file_never_passes_for_a_whole_one(name, tmp_path):
    """Cut at every sixtieth of its length and at each of the last bytes: an InputError each time, never wrong data."""
    path, cut = tmp_path / "whole.tif", tmp_path / "cut.tif"
    data = write_kind(name, path)
    whole = path.read_bytes()
    lengths = {*range(0, len(whole), max(1, len(whole) // 60)), *range(max(0, len(whole) - 40), len(whole)), 4, 8, 9}
    for length in sorted(lengths):
        cut.write_bytes(whole[:length])
        try:
            stack = read_tiff(cut)
        except InputError as error:
            line = str(error)
        else:  # only what nobody needs may be missing: values that no directory points at
            np.testing.assert_array_equal(stack.data, data.reshape(stack.data.shape))
            assert length >= len(whole) - 16
            continue
        assert line.startswith(f"{cut}: ")
        assert "\n" not in line


@pytest.mark.parametrize("name", KINDS)
def test_a_damaged_file_is_refused_or_written_as_it_was_read(name, tmp_path, capfd):
    """Flipped bits in headers and tags: InputError and nothing else; what is read can be written, pixel for pixel."""
    path, bad, out = tmp_path / "whole.tif", tmp_path / "bad.tif", tmp_path / "out.tif"
    write_kind(name, path)
    whole = path.read_bytes()
    with tifffile.TiffFile(path) as tif:
        pixels = [(p.dataoffsets[i], p.databytecounts[i]) for p in tif.pages for i in range(len(p.dataoffsets))]
    tags = np.ones(len(whole), bool)
    for offset, length in pixels:
        tags[offset : offset + length] = False
    rng = np.random.default_rng(len(whole))
    for _ in range(40):
        content = bytearray(whole)
        for position in rng.choice(np.flatnonzero(tags), rng.integers(1, 4)):
            content[position] ^= 1 << rng.integers(8)
        bad.write_bytes(content)
        try:
            stack = read_tiff(bad)
        except InputError:
            continue
        restored = [image.data[..., ::-1] for image in stack.images]
        write_tiff(stack, restored, out, {})
        for image, data in zip(read_tiff(out).images, restored, strict=True):
            np.testing.assert_array_equal(image.data.reshape(data.shape), data)
    assert capfd.readouterr().err == ""


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
    put("header", "ends inside its header", b"II*\0")
    put("no_page", "names no page", b"II*\0\0\0\0\0")
    put("beyond", "beyond the end", b"II*\0\xff\xff\0\0")
    put("circle", "circle", b"II*\0\x08\0\0\0" + b"\0\0" + b"\x08\0\0\0")
    put("png", "not a TIFF", b"\x89PNG\r\n\x1a\n" + b"\0" * 100)
    put("complex", "complex64", data=np.zeros((8, 8), np.complex64))
    put("int64", "int64", data=np.zeros((8, 8), np.int64))
    put("uint64", "uint64", data=np.zeros((8, 8), np.uint64))
    put("bilevel", "bool", data=np.zeros((8, 8), bool))
    put("no_yx", "no Y and X axes", data=counts(3, 8, 8), photometric="minisblack", metadata={"axes": "TCZ"})
    put("mixed_bits", "sample format", mixed_bits(folder))
    put("cielab", "CIELAB", data=counts(8, 8, 3, dtype="uint8"), photometric="cielab")
    put("no_codec", "compression 34661, which is not supported", with_tag(folder, "Compression", 34661))
    put("names", "names, not intensities", data=counts(8, 8, dtype="uint8"), photometric="palette", colormap=NAMES)
    (folder / "folder.tif").mkdir()
    made["folder"] = (folder / "folder.tif", "a folder")
    return made


def mixed_bits(folder: Path) -> bytes:
    """A colour file whose samples have 8, 8 and 16 bits."""
    return with_tag(folder, "BitsPerSample", (8, 8, 16))


def with_tag(folder: Path, name: str, value: int | tuple[int, ...]) -> bytes:
    """A colour file one of whose tags says something else."""
    path = folder / "rgb.tif"
    tifffile.imwrite(path, counts(20, 20, 3), photometric="rgb", metadata=None)
    with tifffile.TiffFile(path, mode="r+") as tif:
        tif.pages.first.tags[name].overwrite(value)
    return path.read_bytes()


BAD = ["missing", "zero", "text", "zeros", "header", "no_page", "beyond", "circle", "png", "complex", "int64", "uint64"]
BAD += ["bilevel", "no_yx", "mixed_bits", "cielab", "no_codec", "names", "folder"]
NAMES = RNG.integers(0, 65536, (3, 256)).astype(np.uint16)


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_is_one_line(name, tmp_path, capfd):
    path, expected = bad_files(tmp_path)[name]
    with pytest.raises(InputError) as error:
        read_tiff(path)
    text = str(error.value)
    assert text.startswith(f"{path}: ")
    assert expected in text
    assert "; " in text
    assert "\n" not in text
    assert capfd.readouterr() == ("", "")  # nor does tifffile's log reach the terminal


def test_an_old_jpeg_that_lies_elsewhere_is_no_file_in_the_making(tmp_path, recwarn):
    """Its bytes are where JPEGInterchangeFormat says; strips it has none."""
    drawn, jpeg = Drawn(), bytes(imagecodecs.jpeg_encode(counts(24, 40, dtype="uint8")))
    tags = [(513, 4, 1, drawn.longs(drawn.put(jpeg))), (514, 4, 1, drawn.longs(len(jpeg)))]
    plain = [(256, 4, 1, drawn.longs(40)), (257, 4, 1, drawn.longs(24)), (259, 3, 1, drawn.pack("H", 6))]
    struct.pack_into("<I", drawn.bytes, 4, drawn.directory([*plain, *tags]))
    drawn.save(tmp_path / "a.tif")
    with pytest.raises(InputError, match="no plane that can be corrected") as refused:
        read_tiff(tmp_path / "a.tif")
    assert refused.value.code is ErrorCode.UNSUPPORTED
    assert not recwarn.list


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.tif")
    with pytest.raises(InputError, match="not a regular file"):
        check_complete(tmp_path / "pipe.tif")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission(tmp_path):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, counts(8, 8))
    path.chmod(0)
    with pytest.raises(InputError, match="no permission to read"):
        read_tiff(path)


def spoil(path: Path, how: str) -> None:
    """Damage the third strip or tile, in its place."""
    with tifffile.TiffFile(path) as tif:
        page = tif.pages.first
        offset, length = page.dataoffsets[2], page.databytecounts[2]
    content = bytearray(path.read_bytes())
    if how == "zeroed":
        content[offset : offset + length] = bytes(length)
    elif how == "cut":
        content[offset + length // 2 : offset + length] = bytes(length - length // 2)
    else:
        content[offset : offset + length] = RNG.integers(0, 256, length, np.uint8).tobytes()
    path.write_bytes(content)


@pytest.mark.parametrize("how", ["zeroed", "cut", "garbled"])
@pytest.mark.parametrize(
    "storage",
    [{"compression": kind, "rowsperstrip": 10} for kind in ("lzw", "zlib", "zstd", "packbits", "lzma")]
    + [{"compression": "lzw", "tile": (32, 32)}],
    ids=lambda storage: "-".join(map(str, storage.values())),
)
def test_damaged_strips_are_an_error_not_zeros(storage, how, tmp_path):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, counts(60, 70), **storage)
    spoil(path, how)
    check_complete(path)  # its structure is whole
    with pytest.raises(InputError, match="damaged"):
        read_tiff(path)


@pytest.mark.parametrize("missing", ["cut", "next"])
def test_strips_shorter_than_their_pixels_are_an_error(missing, tmp_path):
    """The last one, with the end of the file in the middle of it; the one before it, with the last one there."""
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, counts(60, 70), rowsperstrip=10)
    with tifffile.TiffFile(path, mode="r+") as tif:
        offsets, sizes = (tif.pages.first.tags[name] for name in ("StripOffsets", "StripByteCounts"))
        half = sizes.value[5] // 2
        end = offsets.value[5] + half
        sizes.overwrite([*sizes.value[:4], *((half, half) if missing == "next" else (sizes.value[4], half))])
        if missing == "next":
            offsets.overwrite([*offsets.value[:5], offsets.value[4] + half])
    if missing == "cut":
        path.write_bytes(path.read_bytes()[:end])
    with pytest.raises(InputError, match="fewer bytes than pixels"):
        check_complete(path)


def test_a_width_beyond_reason_is_damage_not_a_lack_of_memory(tmp_path):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, counts(60, 70), compression="zlib", rowsperstrip=60)
    with tifffile.TiffFile(path, mode="r+") as tif:
        tif.pages.first.tags["ImageWidth"].overwrite(4_278_190_150)
    with pytest.raises(InputError, match="fewer bytes than pixels"):
        read_tiff(path)


@pytest.mark.parametrize("compression", [None, "lzw"])
def test_a_preallocated_file_is_not_complete(tmp_path, compression):
    """The writer made room and wrote the directory, but the strips' places are still 0."""
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, counts(60, 70), compression=compression, rowsperstrip=10)
    with tifffile.TiffFile(path, mode="r+") as tif:
        tag = tif.pages.first.tags["StripOffsets"]
        tag.overwrite([*tag.value[:3], 0, 0, 0])
    with pytest.raises(InputError, match="not written yet"):
        check_complete(path, finished=True)
    check_complete(path)  # once nobody writes any more, they are zeros


def test_a_chain_of_pages_that_ends_outside_is_noticed(tmp_path):
    """tifffile takes a broken link for the end, and would give fewer pages."""
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, counts(3, 20, 20), photometric="minisblack", metadata=None)
    with tifffile.TiffFile(path) as tif:
        page = tif.pages[1].aspage()
        link = page.offset + 2 + 12 * len(page.tags)
    content = bytearray(path.read_bytes())
    content[link : link + 4] = struct.pack("<I", len(content) + 1000)
    path.write_bytes(content)
    with pytest.raises(InputError, match="page 2 lies beyond the end"):
        check_complete(path)


def test_two_pages_missing_from_an_imagej_stack_are_noticed(tmp_path):
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path, imagej=True) as tif:
        tif.write(counts(4, 30, 30), metadata={"axes": "ZYX"}, truncate=True)
    assert read_tiff(path).data.shape == (4, 30, 30)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) - 2 * 30 * 30 * 2])
    with pytest.raises(InputError, match="4 planes, not all are there"):
        check_complete(path)


def test_planes_that_the_axes_do_not_reach_are_read(tmp_path):
    """ImageJ's description counts four planes, but names no slices: tifffile would give the first one only."""
    path = tmp_path / "a.tif"
    planes = counts(4, 30, 30)
    with tifffile.TiffWriter(path, imagej=True) as tif:
        tif.write(planes, metadata={"axes": "ZYX"}, truncate=True)
    path.write_bytes(path.read_bytes().replace(b"slices=4", b"slicks=4"))
    np.testing.assert_array_equal(read_tiff(path).data, planes)


@pytest.mark.skipif(sys.platform == "win32", reason="needs limits of a process")
def test_a_file_that_cannot_be_opened_for_want_of_descriptors_is_not_called_bad(tmp_path):
    """Nor quarantined as damaged: it is read as soon as there are some again."""
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((32, 32), np.uint16))
    code = """
import os, resource, sys
from pathlib import Path
import imagecodecs, tifffile
from defocus.engine.errors import InputError
from defocus.engine.pipeline.jobs import Job
from defocus.engine.pipeline.steps import read_stage
source = Path(sys.argv[1])
first = read_stage(Job(source, source.with_name("out.tif")))
assert first.outcome.error is None, first.outcome.error
resource.setrlimit(resource.RLIMIT_NOFILE, (32, 32))
held = []
try:
    while True:
        held.append(os.open(os.devnull, os.O_RDONLY))
except OSError:
    pass
error = read_stage(Job(source, source.with_name("out.tif"))).outcome.error
for number in held:
    os.close(number)
print(isinstance(error, InputError), error)
"""
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "a.tif")], capture_output=True, text=True)
    assert done.stdout.startswith("False "), done.stdout + done.stderr
    assert "not enough file descriptors for reading it" in done.stdout


def overwrite_number(path: Path, page: int, code: int, number: int) -> None:
    with tifffile.TiffFile(path, mode="r+") as tif:
        tif.pages[page].aspage().tags[code].overwrite(number)


def test_the_good_pages_of_a_described_stack_are_corrected_beside_a_bad_one(tmp_path):
    path = tmp_path / "a.tif"
    data = counts(3, 20, 24)
    tifffile.imwrite(path, data, imagej=True, compression="lzw", predictor=True, metadata={"axes": "ZYX"})
    overwrite_number(path, 1, 317, 32767)
    (image,) = read_tiff(path).images
    assert image.axes == "IYX"
    np.testing.assert_array_equal(image.data, data[[0, 2]])


@pytest.mark.parametrize("number", [0, 2049])
def test_a_planar_configuration_of_no_meaning_is_refused(number, tmp_path):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, counts(20, 24, 3, dtype="uint8"), photometric="rgb", compression="zlib", metadata=None)
    overwrite_number(path, 0, 284, number)
    with pytest.raises(InputError, match="cannot be written back"):
        read_tiff(path)


def test_an_offset_beyond_all_files_is_no_fault_of_the_disk(tmp_path):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, counts(20, 24), bigtiff=True)
    with open(path, "r+b") as file:
        file.seek(8)
        file.write(b"\xff" * 8)
    with pytest.raises(InputError, match="page 0 lies beyond the end of the file"):
        read_tiff(path)
