"""Commit: on shares that cannot flush a folder, and on Windows where another program has the file open."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from defocus.engine.errors import OutputError
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
