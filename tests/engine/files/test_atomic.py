"""Commit: on shares that cannot flush a folder, and on Windows where another program has the file open."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from defocus.engine.errors import InputError, OutputError
from defocus.engine.files import atomic
from defocus.engine.files.atomic import commit, sweep


def write(target: Path) -> None:
    with commit(target) as temporary:
        temporary.write_bytes(b"whole")


@pytest.mark.skipif(os.name == "nt", reason="Windows flushes no folders")
@pytest.mark.parametrize(("number", "fine"), [(errno.EINVAL, True), (errno.ENOTSUP, True), (errno.EIO, False)])
def test_a_folder_that_cannot_be_flushed(tmp_path, monkeypatch, number, fine):
    whole = os.fsync

    def fsync(handle):
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            raise OSError(number, os.strerror(number))
        whole(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    if fine:
        write(tmp_path / "a.tif")
        assert (tmp_path / "a.tif").read_bytes() == b"whole"
    else:
        with pytest.raises(OutputError):
            write(tmp_path / "a.tif")


@pytest.mark.parametrize("system", ["nt", "posix"])
def test_a_file_that_another_program_holds_for_a_while(tmp_path, monkeypatch, system):
    tries, whole = [], os.replace

    def held(source, target):
        tries.append(source)
        if len(tries) < 4:
            raise PermissionError(errno.EACCES, "in use", str(target))
        whole(source, target)

    monkeypatch.setattr(atomic, "_SYSTEM", system)
    monkeypatch.setattr(os, "replace", held)
    if system == "nt":
        write(tmp_path / "a.tif")
        assert len(tries) == 4
        assert [path.name for path in tmp_path.iterdir()] == ["a.tif"]
    else:
        with pytest.raises(OutputError, match="no permission"):
            write(tmp_path / "a.tif")
        assert list(tmp_path.iterdir()) == []


def test_what_a_killed_run_left_is_swept_and_what_others_write_is_not(tmp_path):
    code = """
import os, sys
from pathlib import Path
from defocus.engine.files.atomic import commit
with commit(Path(sys.argv[1]), sys.argv[2]) as temporary:
    temporary.write_bytes(b"half")
    os._exit(9)
"""
    for target, run in ((tmp_path / "a.tif", "0f"), (tmp_path / "a.tif", "ab"), (tmp_path / "sub" / "b.tif", "0f")):
        assert subprocess.run([sys.executable, "-c", code, target, run]).returncode == 9
    (swept,) = sweep(tmp_path, "0f", deep=False)
    assert swept.parent == tmp_path
    assert [path.name[:11] for path in tmp_path.glob(".defocus-*")] == [".defocus-ab"]
    assert [path.parent.name for path in sweep(tmp_path, "0f")] == ["sub"]
    assert len(sweep(tmp_path)) == 1
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_temporaries_of_a_process_that_lives_stay(tmp_path):
    """A daemon that starts sweeps the folder that a batch is writing into."""
    with commit(tmp_path / "ours.tif") as ours:
        ours.write_bytes(b"half")
        pid = os.getppid()  # somebody else who lives
        theirs = ours.with_name(ours.name.replace(f"-{os.getpid()}-", f"-{pid}-"))
        before = ours.with_name(f"{ours.name[:-26]}ffffffff-0123456789ab.part")  # this number, in an earlier container
        elsewhere, old = (ours.with_name(f".defocus-{host}{ours.name[17:]}") for host in ("00000000", "11111111"))
        for path in (theirs, before, elsewhere, old):
            path.write_bytes(b"half")
        os.utime(old, (1e9, 1e9))
        assert set(sweep(tmp_path)) == {before, old}
        assert set(tmp_path.iterdir()) == {ours, theirs, elsewhere}


def test_a_tree_deeper_than_pythons_recursion_is_swept(tmp_path):
    handles = [os.open(tmp_path, os.O_RDONLY)]
    for _ in range(1200):
        os.mkdir("d", dir_fd=handles[-1])
        handles.append(os.open("d", os.O_RDONLY, dir_fd=handles[-1]))
        os.close(handles.pop(0))
    try:
        with open(os.open(".defocus-1.part", os.O_CREAT | os.O_WRONLY, dir_fd=handles[-1]), "w") as file:
            file.write("half")
        assert len(sweep(tmp_path)) == 1
    finally:
        os.close(handles[-1])
        subprocess.run(["rm", "-rf", str(tmp_path / "d")])


def test_a_folder_is_committed_as_a_file_is(tmp_path):
    for content in ("old", "new"):  # the second takes the place of the first
        with commit(tmp_path / "a.zarr") as temporary:
            (temporary / "deep").mkdir(parents=True)
            (temporary / "deep" / content).write_text(content)
        assert [path.name for path in tmp_path.iterdir()] == ["a.zarr"]
        assert [path.name for path in (tmp_path / "a.zarr" / "deep").iterdir()] == [content]


def test_a_folder_that_is_not_finished_leaves_nothing(tmp_path):
    def fail() -> None:
        with commit(tmp_path / "a.zarr") as temporary:
            (temporary / "deep").mkdir(parents=True)
            raise ValueError("midway")

    with pytest.raises(ValueError, match="midway"):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_folders_that_a_killed_process_left_are_removed(tmp_path):
    code = f"""
import os, pathlib, sys
from defocus.engine.files.atomic import commit
with commit(pathlib.Path({str(tmp_path)!r}, "a.zarr")) as temporary:
    temporary.joinpath("deep").mkdir(parents=True)
    temporary.joinpath("deep", "chunk").write_text("half")
    os._exit(0)
"""
    subprocess.run([sys.executable, "-c", code], check=True)
    (left,) = tmp_path.iterdir()
    assert sweep(tmp_path) == [left]
    assert list(tmp_path.iterdir()) == []


def test_a_link_that_is_put_there_while_it_is_written_is_not_followed(tmp_path):
    out, elsewhere = tmp_path / "out", tmp_path / "elsewhere"
    for folder in (out / "a" / "b", elsewhere / "b"):
        folder.mkdir(parents=True)

    def write_while_linked() -> None:
        with commit(out / "a" / "b" / "x.tif", within=out) as temporary:
            temporary.write_bytes(b"whole")
            (out / "a").rename(out / "was")
            (out / "a").symlink_to(elsewhere)
            temporary.write_bytes(b"theirs")

    with pytest.raises(InputError, match="through a link"):
        write_while_linked()
    assert not list((elsewhere / "b").iterdir())
    with pytest.raises(InputError, match="through a link"), commit(out / "a" / "c" / "x.tif", within=out):
        pass
    assert not (elsewhere / "c").exists()
