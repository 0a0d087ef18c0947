"""Damaged TIFFs of every codec through the pipeline: `python -m tests.engine.tiff.mutated CODEC FIRST COUNT FOLDER`.

Prints a line for each file that broke a rule, and at last how many were written and refused. A process of its own,
so that a decoder that crashes or hangs takes only this one with it; the last line says which file it was.
"""

from __future__ import annotations

import faulthandler
import io
import struct
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import tifffile

from defocus.engine.errors import DefocusError, ErrorCode, InputError
from defocus.engine.inference.engine import Engine
from defocus.engine.inference.tasks import ImageRequest
from defocus.engine.pipeline.jobs import Job
from defocus.engine.pipeline.steps import process
from defocus.engine.tiff.read import TiffImage, read_provenance, read_tiff

from .test_replace import check_bytes

CODECS = ("none", "lzw", "zlib", "packbits", "zstd", "lzma", "lerc", "jpeg", "webp", "jpeg2000", "jpegxr", "jpegxl")
CODECS = (*CODECS, "png", "group3", "group4")
COLOURS = {"webp"}
BYTES = {"jpeg", "webp", "jpegxr", "jpegxl", "png"}  # what the codec takes, or tifffile hands to it
NATIVE = {"lerc"}
SECONDS = 120  # that one file of a few kB may take, on any machine
MEMORY = 1 << 26
MADE_BY = {"software": "defocus 0.0", "model": "tiny", "model_sha256": "ab" * 32}
WORDS = (0, 1, 2, 8, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF)


class HalvingEngine:
    """What the pipeline needs of an engine: every pixel becomes another one."""

    def restore_many(self, requests: Sequence[ImageRequest], stopped: Callable[[], bool]) -> list[Any]:
        return [self._restored(request) for request in requests]

    def _restored(self, request: ImageRequest) -> np.ndarray | DefocusError:
        data = request.data
        if data.dtype.kind == "f" and not (np.abs(data) < 1e30).all():
            return InputError(request.name, "holds NaN or infinity", "mask them", ErrorCode.NOT_FINITE)
        return np.ascontiguousarray(data[..., ::-1, :] // 2 + 1)

    def provenance(self) -> dict[str, Any]:
        return dict(MADE_BY)


def whole(codec: str, rng: np.random.Generator) -> bytes:
    """A TIFF of a codec; strips or tiles, byte order, size of offsets, type, pages and description by chance."""
    height, width = (int(number) for number in rng.integers(17, 60, 2))
    y, x = np.mgrid[:height, :width]
    plane = ((np.sin(y / 5) * np.cos(x / 4) + 1) * 90 + rng.integers(0, 9, (height, width))).astype("uint8")
    file = io.BytesIO()
    if codec in ("group3", "group4"):
        from PIL import Image

        Image.fromarray(plane > 90).save(file, "TIFF", compression=codec)
        return file.getvalue()
    colour = codec in COLOURS or rng.random() < 0.2
    dtype = "uint8"
    if codec not in BYTES and not colour:
        dtype = str(rng.choice(["uint8", "uint16", "uint8" if codec == "jpeg2000" else "float32"]))
    pages = int(rng.integers(1, 4))
    data = np.stack([np.roll(plane, 3 * page, 1) for page in range(pages)]).astype(dtype)
    arguments: dict[str, Any] = {"photometric": "minisblack", "compression": None if codec == "none" else codec}
    if colour:
        data, arguments["photometric"] = np.stack([data, data[:, ::-1], data[:, :, ::-1]], axis=-1), "rgb"
    if codec in ("lzw", "zlib", "zstd") and rng.random() < 0.5:
        arguments["predictor"] = True
    if rng.random() < 0.5:
        arguments["tile"] = (16, 32)
    else:
        arguments["rowsperstrip"] = int(rng.integers(1, height + 1))
    kind = str(rng.choice(["plain", "imagej", "ome"]))
    big = rng.random() < 0.5 and kind != "imagej"
    if kind == "plain":
        arguments["metadata"] = None
    order: Literal["<", ">"] = "<" if codec in NATIVE or rng.random() < 0.5 else ">"
    with tifffile.TiffWriter(file, byteorder=order, bigtiff=big, imagej=kind == "imagej", ome=kind == "ome") as tif:
        tif.write(data, **arguments)
    return file.getvalue()


def mutated(content: bytes, rng: np.random.Generator) -> bytes:
    """With flipped bytes, words of nonsense, offsets that have changed places, or an end that is missing."""
    out = bytearray(content)
    with tifffile.TiffFile(io.BytesIO(content)) as tif:
        structure = np.ones(len(out), bool)
        for page in tif.pages:
            for offset, count in zip(page.dataoffsets, page.databytecounts, strict=True):
                structure[offset : offset + count] = False
        tags = [tag for page in tif.pages for tag in page.aspage().tags if tag.code in (273, 279, 324, 325)]
        order, size = tif.byteorder, 8 if tif.is_bigtiff else 4
    everywhere = rng.random() < 0.3
    places = np.arange(len(out)) if everywhere else np.flatnonzero(structure)
    for _ in range(int(rng.integers(1, 3))):
        match rng.integers(5):
            case 0:
                for place in rng.choice(places, rng.integers(1, 4)):
                    out[place] ^= 1 << rng.integers(8)
            case 1:
                for place in rng.choice(places, rng.integers(1, 4)):
                    out[place] = rng.integers(256)
            case 2:
                place = min(int(rng.choice(places)) & ~1, len(out) - 4)
                words = (*WORDS, len(out), len(out) - 1, int(rng.integers(len(out))))
                struct.pack_into(f"{order}I", out, place, int(rng.choice(words)))
            case 3:  # values of two tags, or within one, change places
                one, other = (tags[number] for number in rng.integers(len(tags), size=2))
                a, b = (tag.valueoffset + size * int(rng.integers(tag.count)) for tag in (one, other))
                if max(a, b) + size <= len(out):
                    out[a : a + size], out[b : b + size] = out[b : b + size], out[a : a + size]
            case _ if rng.random() < 0.3:
                del out[int(rng.integers(len(out) // 2, len(out))) :]
                break
            case _:
                start, to, length = (int(number) for number in rng.integers(len(out) - 16, size=3))
                length = 1 + length % 16
                out[to : to + length] = out[start : start + length]
    return bytes(out)


def broken_rule(path: Path, out: Path) -> str:
    """What is wrong with how a file was treated; "" if nothing: written with other pixels, or refused in a line."""
    outcome = process(Job(path, out), cast(Engine, HalvingEngine()), keep_sharp=False, memory=MEMORY)
    if outcome.error is not None:
        line = str(outcome.error)
        if "\n" in line or not line.startswith(str(path)) or outcome.error.code is ErrorCode.INTERNAL:
            return f"refused with {line!r}"
        return "an output in spite of an error" if out.exists() else ""
    if not out.exists():
        return "neither an output nor an error"
    source = read_tiff(path)
    try:
        check_bytes(source, path, out)
        record = read_provenance(out)
        assert record is not None
        assert record["model"] == "tiny"
        expected = []
        for image in source.images:
            restored = image.data[..., ::-1, :] // 2 + 1
            expected += _pages(image, restored if image.limit is None else np.minimum(restored, image.limit))
        written = [page for image in read_tiff(out).images for page in _pages(image, image.data)]
        assert sorted(written) == sorted(expected)  # pages may make other images once all are stored alike
    except (AssertionError, DefocusError, ValueError) as error:
        return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
    return ""


def _pages(image: TiffImage, data: np.ndarray) -> list[bytes]:
    return [page.tobytes() for page in data.reshape(len(image.pages), -1)]


def main() -> None:
    codec, first, count, folder = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4])
    warnings.simplefilter("ignore")
    path, out = folder / "in" / "a.tif", folder / "out" / "a.tif"
    path.parent.mkdir(parents=True, exist_ok=True)
    written = refused = 0
    for seed in range(first, first + count):
        rng = np.random.default_rng([CODECS.index(codec), seed])
        path.write_bytes(mutated(whole(codec, rng), rng))
        out.unlink(missing_ok=True)
        (folder / "last").write_text(f"{codec} {seed}", encoding="utf-8")
        faulthandler.dump_traceback_later(SECONDS, exit=True)
        problem = broken_rule(path, out)
        faulthandler.cancel_dump_traceback_later()
        if problem:
            print(f"{codec} {seed}: {problem}", flush=True)
        written += out.exists()
        refused += not out.exists()
    print(f"written {written}, refused {refused}")


if __name__ == "__main__":
    main()
