"""Images too large for their share of memory: they lie on disk meanwhile, and come out as the others do."""

from __future__ import annotations

import ctypes
import errno
import os
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import tifffile

from defocus import Engine
from defocus.engine.errors import ChangedError, InputError, OutputError, StoppedError
from defocus.engine.image import memmap
from defocus.engine.image.memmap import DiskAllocator, drop_resident_pages, is_disk_backed, on_disk
from defocus.engine.pipeline.jobs import Job
from defocus.engine.pipeline.run import pipeline
from defocus.engine.pipeline.steps import process

GREY: Any = {"photometric": "minisblack"}


@pytest.fixture(scope="module")
def engine(tiny_model):
    with Engine.load(tiny_model, backend="cpu", tile=64) as loaded:
        yield loaded


@pytest.fixture
def image() -> np.ndarray:
    """Planes of several tiles; one is flat, one has a hot pixel."""
    image = np.random.default_rng(0).integers(100, 4000, (4, 150, 210), dtype=np.uint16)
    image[1] = 500
    image[2, 70, 80] = 65535
    return image


@pytest.mark.parametrize("ahead", [0, 2])
@pytest.mark.parametrize("keep_sharp", [False, True])
def test_the_output_is_that_of_an_image_in_memory(tmp_path, engine, image, ahead, keep_sharp, monkeypatch):
    made = []
    monkeypatch.setattr(memmap, "is_local", lambda _: True)
    monkeypatch.setattr(memmap, "on_disk", lambda *given: made.append(given) or on_disk(*given))
    tifffile.imwrite(tmp_path / "a.tif", image, compression="lzw", metadata={"axes": "ZYX"}, **GREY)
    for name, memory in (("usual", 0), ("large", 1)):
        job = Job(tmp_path / "a.tif", tmp_path / name / "a.tif")
        (outcome,) = pipeline([job], engine, keep_sharp, ahead, memory)
        assert outcome.error is None
        assert len(outcome.reports) == 4
        assert [path.name for path in (tmp_path / name).iterdir()] == ["a.tif"]
    assert len(made) == 2  # of the large one: pixels and result, since they are compressed in the files
    assert (tmp_path / "usual" / "a.tif").read_bytes() == (tmp_path / "large" / "a.tif").read_bytes()


@pytest.mark.skipif(os.name != "posix", reason="Windows renames no file that is mapped")
@pytest.mark.parametrize("ahead", [0, 2])
@pytest.mark.parametrize("shared", [False, True])
def test_uncompressed_pixels_go_from_a_map_of_the_input_into_one_of_the_output(
    tmp_path, engine, image, ahead, shared, monkeypatch
):
    made = []
    monkeypatch.setattr(memmap, "is_local", lambda _: True)
    monkeypatch.setattr(memmap, "on_disk", lambda *given: made.append(given) or on_disk(*given))
    tifffile.imwrite(tmp_path / "a.tif", image, metadata={"axes": "ZYX"}, **GREY)
    if shared:  # a page without pixels of its own: the last plane's strip may not be written over
        with tifffile.TiffFile(tmp_path / "a.tif") as tif:
            offset = tif.pages[2].dataoffsets[0]
            place = tif.pages[3].aspage().tags[273].valueoffset
        with open(tmp_path / "a.tif", "r+b") as file:
            file.seek(place)
            file.write(offset.to_bytes(4, "little"))
    for name, memory in (("usual", 0), ("large", 1)):
        job = Job(tmp_path / "a.tif", tmp_path / name / "a.tif")
        (outcome,) = pipeline([job], engine, False, ahead, memory)
        assert outcome.error is None
        assert [path.name for path in (tmp_path / name).iterdir()] == ["a.tif"]
    assert bool(made) == shared
    assert (tmp_path / "usual" / "a.tif").read_bytes() == (tmp_path / "large" / "a.tif").read_bytes()


@pytest.mark.skipif(os.name != "posix", reason="Windows renames no file that is mapped")
@pytest.mark.parametrize("ahead", [0, 2])
@pytest.mark.parametrize("change", ["written", "shortened"])
def test_an_input_that_changes_while_it_is_mapped_gives_no_output(tmp_path, engine, image, ahead, change, monkeypatch):
    monkeypatch.setattr(memmap, "is_local", lambda _: True)
    path, target = tmp_path / "a.tif", tmp_path / "out" / "a.tif"
    tifffile.imwrite(path, image, **GREY)
    seen = []

    def stop() -> bool:
        if not seen and target.parent.exists() and any(target.parent.iterdir()):
            seen.append([one.stat().st_size for one in target.parent.iterdir()])
            with open(path, "r+b") as file:
                file.truncate(1000) if change == "shortened" else file.write(b"II")
                os.utime(file.fileno(), ns=(1, 1))
        return False

    (outcome,) = pipeline([Job(path, target)], engine, False, ahead, 1, stop)
    assert isinstance(outcome.error, ChangedError)
    assert len(seen[0]) == 1
    assert list(target.parent.iterdir()) == []


def test_what_lies_on_a_share_or_is_small_is_not_mapped(tmp_path, image, monkeypatch):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, image, **GREY)
    device = os.stat(path).st_dev
    mounts = tmp_path / "mounts"
    monkeypatch.setattr(memmap, "_MOUNTS", mounts)
    with open(path, "rb") as file:
        for kind, local in (("ext4", True), ("cifs", False), ("fuse.sshfs", False)):
            where = f"{os.major(device)}:{os.minor(device)}"
            mounts.write_text(f"1 0 0:1 / / rw - tmpfs x rw\n2 1 {where} / /d rw shared:1 - {kind} //server/share rw\n")
            assert DiskAllocator(tmp_path, 1000).maps(file, 2000) is local
            assert not DiskAllocator(tmp_path, 1000).maps(file, 1000)
            assert not DiskAllocator(tmp_path, 0).maps(file, 10**9)
        mounts.unlink()
        assert not DiskAllocator(tmp_path, 1000).maps(file, 2000)


@pytest.mark.parametrize("dtype", ["float32", "int32", "uint8"])
def test_every_type_of_pixel(tmp_path, tiny_model, image, dtype):
    tifffile.imwrite(tmp_path / "a.tif", (image % 200).astype(dtype), **GREY)
    with Engine.load(tiny_model, backend="cpu", tile=64, per="stack") as engine:
        outcomes = [
            process(Job(tmp_path / "a.tif", tmp_path / f"{memory}.tif"), engine, keep_sharp=False, memory=memory)
            for memory in (0, 1)
        ]
    assert [outcome.error for outcome in outcomes] == [None, None]
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "0.tif"), tifffile.imread(tmp_path / "1.tif"))


def test_a_stop_leaves_a_large_file_between_two_tiles(tmp_path, engine, image):
    tifffile.imwrite(tmp_path / "a.tif", image, **GREY)
    asked = []

    def stop() -> bool:
        asked.append(None)
        return len(asked) > 5

    outcome = process(
        Job(tmp_path / "a.tif", tmp_path / "out" / "a.tif"), engine, keep_sharp=False, memory=1, stop=stop
    )
    assert isinstance(outcome.error, StoppedError)
    assert list((tmp_path / "out").iterdir()) == []
    asked.clear()  # a file in memory is soon done
    assert (
        process(Job(tmp_path / "a.tif", tmp_path / "out" / "a.tif"), engine, keep_sharp=False, stop=stop).error is None
    )


def test_no_room_on_the_disk_is_told_before_it_is_used(tmp_path, engine, image, monkeypatch):
    tifffile.imwrite(tmp_path / "a.tif", image, **GREY)

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(memmap, "_reserve", full)
    outcome = process(Job(tmp_path / "a.tif", tmp_path / "out" / "a.tif"), engine, keep_sharp=False, memory=1)
    assert isinstance(outcome.error, OutputError)
    assert "the disk is full" in str(outcome.error)
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="this system reserves in another way")
@pytest.mark.parametrize("code", [errno.EOPNOTSUPP, errno.EINVAL])
def test_file_systems_that_cannot_reserve_are_written_to(tmp_path, monkeypatch, code):
    def refuse(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "posix_fallocate", refuse)
    monkeypatch.setattr(memmap, "_CHUNK", 1000)
    array = on_disk(tmp_path, (60, 71), np.dtype(np.uint16))
    assert not array.any()
    array[:] = 7
    assert array.sum() == 7 * 60 * 71


def test_arrays_on_disk_are_known_and_keep_what_they_hold(tmp_path):
    array = on_disk(tmp_path, (100, 200), np.dtype(np.float32))
    array[:] = np.arange(200)
    drop_resident_pages(array, np.zeros(3))
    assert (array == np.arange(200)).all()
    assert is_disk_backed(array[3:, ::2].T)
    assert not is_disk_backed(np.zeros(3))
    assert list(tmp_path.iterdir()) == []  # it has no name
    assert not is_disk_backed(DiskAllocator(tmp_path, 0)((1000, 1000), np.dtype(np.uint16)))  # 0: all in memory


LIMITED = """
import resource, sys
from pathlib import Path
from defocus import Engine
from defocus.engine.pipeline.jobs import Job
from defocus.engine.pipeline.steps import process

source, target, model, memory, room = sys.argv[1:]
def held():
    return 1024 * int(next(line for line in open("/proc/self/status") if line.startswith("VmData")).split()[1])
with Engine.load(model, backend="cpu", threads=1, memory=100_000_000) as engine:  # of its tiles
    small = Path(source).with_name("small.tif")
    assert process(Job(small, Path(target).with_name("small.tif")), engine, keep_sharp=False).error is None
    resource.setrlimit(resource.RLIMIT_DATA, (held() + int(room), resource.RLIM_INFINITY))
    outcome = process(Job(Path(source), Path(target)), engine, keep_sharp=False, memory=int(memory))
print(outcome.error)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_DATA counts mappings on Linux only")
@pytest.mark.parametrize("compression", [None, "lzw"])
def test_memory_does_not_grow_with_the_image(tmp_path, tiny_model, compression):
    """With 150 MB beyond an idle engine, an image of 200 MB is restored by way of the disk; in memory it cannot be."""
    rows = np.random.default_rng(0).integers(100, 4000, (500, 10000), dtype=np.uint16)
    with tifffile.TiffWriter(tmp_path / "large.tif") as tif:
        tif.write(np.tile(rows, (20, 1)), compression=compression, rowsperstrip=64, metadata=None)
    tifffile.imwrite(tmp_path / "small.tif", rows[:, :2000])
    assert 10000 * 10000 * 2 == 200_000_000
    (tmp_path / "out").mkdir()
    said = {}
    for memory in (0, 300_000_000):
        command = [sys.executable, "-c", LIMITED, tmp_path / "large.tif", tmp_path / "out" / "large.tif"]
        done = subprocess.run(
            [*map(str, command), str(tiny_model), str(memory), "150000000"], capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, done.stderr
        said[memory] = done.stdout.strip()
    assert "not enough memory" in said[0]
    assert said[300_000_000] == "None"
    restored = (
        tifffile.memmap(tmp_path / "out" / "large.tif")
        if compression is None
        else tifffile.imread(tmp_path / "out" / "large.tif")
    )
    assert restored.shape == (10000, 10000)
    np.testing.assert_array_equal(restored[600:900], restored[1100:1400])  # what the rows repeat, so does the result


def test_a_private_map_of_the_caller_keeps_what_was_written(tmp_path, tiny_model):
    """Its pages are nowhere else: taking them out of memory would lose them."""
    image = np.random.default_rng(0).integers(100, 3000, (64, 80), dtype=np.uint16)
    np.save(tmp_path / "zeros.npy", np.zeros_like(image))
    private = np.load(tmp_path / "zeros.npy", mmap_mode="c")
    private[:] = image
    with Engine.load(tiny_model, backend="cpu") as engine:
        np.testing.assert_array_equal(engine(private), engine(image))
    np.testing.assert_array_equal(private, image)


KEEPING = """
import sys
from pathlib import Path
import numpy as np
from defocus.engine.image.memmap import drop_resident_pages, on_disk
from defocus.engine.quality.assess import keep_sharp_planes
from defocus.engine.quality.report import PlaneReport

def held():
    return 1024 * int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1])
before, after = (on_disk(Path(sys.argv[1]), (8000, 10000), np.dtype(np.uint16)) for _ in range(2))
for top in range(0, 8000, 100):
    before[top : top + 100] = top
    drop_resident_pages(before)
start = held()
(report,) = keep_sharp_planes(before, after, "YX", [PlaneReport(focus_in=1.0)])
print(held() - start, report.copied, int(after[7900, 0]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="VmHWM is Linux's")
def test_a_plane_is_kept_in_bands(tmp_path):
    """Two planes of 160 MB lie on disk; copying one to the other holds a few bands of 8 MB."""
    done = subprocess.run([sys.executable, "-c", KEEPING, str(tmp_path)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    more, copied, there = done.stdout.split()
    assert (copied, there) == ("True", "7900")
    assert int(more) < 80_000_000


def test_the_input_of_a_folder_that_others_write_to_is_copied_not_mapped(tmp_path, engine, monkeypatch):
    """A map of a file that is cut short ends the process."""
    source = tmp_path / "a.tif"
    tifffile.imwrite(source, np.random.default_rng(0).integers(100, 4000, (8, 100, 100), np.uint16), **GREY)
    mapped: list[object] = []

    def map_input(file, path, nbytes):
        mapped.append(path)
        return memmap.map_input(file, path, nbytes)

    monkeypatch.setattr("defocus.engine.tiff.read.map_input", map_input)
    for live in (True, False):
        outcome = process(Job(source, tmp_path / f"{live}.tif", live=live), engine, memory=60_000)
        assert outcome.error is None
        assert bool(mapped) is not live
    assert (tmp_path / "True.tif").read_bytes()[:80000] == (tmp_path / "False.tif").read_bytes()[:80000]


@pytest.mark.parametrize(("total", "free", "kind"), [(10_000, 5000, InputError), (10**9, 100_000, OutputError)])
def test_an_output_without_room_is_not_begun(tmp_path, engine, monkeypatch, total, free, kind):
    source = tmp_path / "a.tif"
    tifffile.imwrite(source, np.zeros((8, 100, 100), np.uint16), **GREY)
    monkeypatch.setattr(
        memmap.shutil, "disk_usage", lambda path: memmap.shutil._ntuple_diskusage(total, total - free, free)
    )
    outcome = process(Job(source, tmp_path / "out" / "a.tif"), engine)
    assert isinstance(outcome.error, kind)
    assert "the output takes 0.16" in str(outcome.error)
    assert "infer" not in outcome.seconds
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="fallocate is Linux's")
def test_room_is_set_aside_for_large_files_and_a_full_disk_says_so_at_once(small_disk):
    """A disk of some hundred kilobytes: a file that it does not hold is refused before a byte is written."""
    for size, named in ((memmap._LARGE, True), (memmap._LARGE - 1, False)):
        with open(small_disk / "a", "wb") as file:
            if named:
                with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
                    memmap.reserve(file, size)
            else:
                memmap.reserve(file, size)
            assert os.fstat(file.fileno()).st_blocks == 0


@pytest.mark.parametrize("answer", [None, errno.EOPNOTSUPP, errno.ENOSYS, errno.EFBIG])
def test_a_file_is_written_where_no_room_can_be_set_aside(answer, engine, tmp_path, monkeypatch):
    def refuses(*_: int) -> int:
        ctypes.set_errno(answer or 0)
        return -1

    monkeypatch.setattr(memmap, "_fallocate", lambda: None if answer is None else refuses)
    monkeypatch.setattr(memmap, "_LARGE", 1)
    tifffile.imwrite(tmp_path / "a.tif", np.arange(2500, dtype=np.uint16).reshape(50, 50))
    outcome = process(Job(tmp_path / "a.tif", tmp_path / "out" / "a.tif"), engine)
    assert outcome.error is None
    assert tifffile.imread(tmp_path / "out" / "a.tif").shape == (50, 50)
