"""Shares that go away and come back: a tmpfs in the place of each, really mounted and unmounted."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from defocus.engine.errors import OutputError
from defocus.watcher.output.disk_space import OutputGuard
from defocus.watcher.output.lock import FolderLock

from ..helpers.waiting import wait_for
from .conftest import Watching, free_port, outputs, states, write_tiff
from .status.test_status import ask
from .test_faults import HASTY as HASTY_CODE

HASTY = ("-c", HASTY_CODE)
QUICK = ("--settle", "0.1", "--rescan", "0.2", "--patience", "0.8")


class Share:
    """A file system of its own that can be mounted at a folder and taken away, its files kept."""

    def __init__(self, keeper: Path, at: Path) -> None:
        self.keeper, self.at = keeper, at

    def mount(self) -> None:
        self.at.mkdir(exist_ok=True)
        subprocess.run(["mount", "--bind", self.keeper, self.at], check=True)

    def cover_read_only(self) -> None:
        """The same files, but no write: as a disk on which the system has found a fault. Ended by `unmount`."""
        subprocess.run(["mount", "--bind", "-o", "ro", self.at, self.at], check=True)

    def unmount(self, *how: str) -> None:
        """`-l`: as a share that is gone while files of it are open; `-f` does not take a bind mount away."""
        subprocess.run(["umount", *how, self.at], check=True)


@pytest.fixture
def share(tmp_path) -> Iterator[Share]:
    keeper = tmp_path / "server"
    keeper.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", keeper], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip("needs the right to mount a tmpfs")
    one = Share(keeper, tmp_path / "share")
    yield one
    subprocess.run(["umount", "-l", one.at], capture_output=True)
    subprocess.run(["umount", "-l", keeper], check=True)


@pytest.mark.parametrize("polling", [(), ("--polling",)], ids=["events", "polling"])
@pytest.mark.parametrize("below", ["", "plate"], ids=["mount point", "below it"])
def test_an_acquisition_share_that_is_unmounted_and_returns(share, tmp_path, tiny_model, polling, below):
    share.mount()
    acquisition, out, port = share.at / below, tmp_path / "out", free_port()
    acquisition.mkdir(exist_ok=True)
    watching = Watching(acquisition, out, tiny_model, tmp_path / "log", *QUICK, *polling, "--status", str(port)).ready()
    try:
        write_tiff(acquisition / "a.tif", 1)
        wait_for(lambda: states(out) == {"a.tif": "done"})
        for name in ("b.tif", "c.tif"):
            share.unmount("-l")
            wait_for(lambda: ask(port, "/healthz")[0] == 503)
            write_tiff(share.keeper / below / name, 2)  # the microscope goes on writing to its server
            share.mount()
            wait_for(lambda: ask(port, "/healthz")[0] == 200)
            wait_for(lambda name=name: states(out).get(name) == "done")
        assert (watching.said().count("cannot be reached"), watching.said().count("is back")) == (2, 2)
        write_tiff(acquisition / "d.tif", 3)  # and the events of the new mount are heard
        wait_for(lambda: outputs(out) == ["a.tif", "b.tif", "c.tif", "d.tif"])
        assert watching.stop() == 0
        assert "Traceback" not in watching.said()
    finally:
        watching.kill()


def test_an_output_share_that_is_unmounted_is_not_filled_beneath(share, tmp_path, tiny_model):
    """Corrected files must not land in the empty folder that is left on the local disk."""
    share.mount()
    acquisition, out, port = tmp_path / "acq", share.at, free_port()
    acquisition.mkdir()
    watching = Watching(
        acquisition,
        out,
        tiny_model,
        tmp_path / "log",
        *QUICK,
        "--status",
        str(port),
        "--min-free-mb",
        "0",
        program=HASTY,
    ).ready()
    try:
        write_tiff(acquisition / "a.tif", 1)
        wait_for(lambda: states(out) == {"a.tif": "done"})
        share.unmount("-l")
        write_tiff(acquisition / "b.tif", 2)
        wait_for(lambda: ask(port, "/healthz")[0] == 503)
        assert "the output folder is gone" in ask(port, "/healthz")[2].decode()
        assert list(out.iterdir()) == []
        share.mount()
        wait_for(lambda: outputs(out) == ["a.tif", "b.tif"])
        wait_for(lambda: states(out) == {"a.tif": "done", "b.tif": "done"})
        assert ask(port, "/healthz")[0] == 200
        assert watching.stop() == 0
        assert watching.said().count("the output folder is gone") == 1
    finally:
        watching.kill()


def test_a_disk_that_becomes_read_only_is_waited_for(share, tmp_path, tiny_model):
    """Output and journal."""
    share.mount()
    acquisition, out, port = tmp_path / "acq", share.at / "out", free_port()
    acquisition.mkdir()
    arguments = (*QUICK, "--status", str(port), "--min-free-mb", "0", "--retries", "1")
    watching = Watching(acquisition, out, tiny_model, tmp_path / "log", *arguments, program=HASTY).ready()
    names = ["a.tif", "b.tif", "c.tif", "d.tif"]
    try:
        write_tiff(acquisition / "a.tif", 1)
        wait_for(lambda: states(out) == {"a.tif": "done"})
        share.cover_read_only()
        for name in names[1:]:
            write_tiff(acquisition / name, 2)
        wait_for(lambda: "paused: " in watching.said() and "journal.sqlite: " in watching.said())
        assert "the disk is read-only" in watching.said()
        assert ask(port, "/healthz")[0] == 503
        share.unmount("-l")
        wait_for(lambda: states(out) == dict.fromkeys(names, "done"))
        wait_for(lambda: ask(port, "/healthz")[0] == 200)
        assert outputs(out) == names
        assert watching.stop() == 0
        assert watching.said().count("paused: ") == 1
    finally:
        watching.kill()
        subprocess.run(["umount", "-l", share.at], capture_output=True)


def test_an_acquisition_disk_that_is_read_only_is_none_of_its_business(share, tmp_path, tiny_model):
    share.mount()
    out = tmp_path / "out"
    write_tiff(share.at / "a.tif", 1)
    share.cover_read_only()
    watching = Watching(share.at, out, tiny_model, tmp_path / "log", *QUICK).ready()
    try:
        wait_for(lambda: states(out) == {"a.tif": "done"})
        assert watching.stop() == 0
        assert len(watching.said().splitlines()) == 3  # watching, corrected, the end
    finally:
        watching.kill()
        subprocess.run(["umount", "-l", share.at], capture_output=True)


def test_a_folder_that_is_mounted_twice_is_watched_without_a_word_of_watchdogs(share, tmp_path, tiny_model):
    """It warns of the second watch of one inode, in some thousand characters."""
    acquisition, out = tmp_path / "share", tmp_path / "out"
    (share.keeper / "plate").mkdir()
    acquisition.mkdir()
    share.at = acquisition / "again"
    share.mount()
    (acquisition / "plate").mkdir()
    subprocess.run(["mount", "--bind", share.keeper, acquisition / "plate"], check=True)
    watching = Watching(acquisition, out, tiny_model, tmp_path / "log", *QUICK).ready()
    try:
        write_tiff(share.keeper / "a.tif", 1)
        wait_for(lambda: outputs(out) == ["again/a.tif", "plate/a.tif"])
        assert watching.stop() == 0
        assert max(map(len, watching.said().splitlines())) < 500
        assert "It will be Overwritten" not in watching.said()
    finally:
        watching.kill()
        subprocess.run(["umount", "-l", acquisition / "plate"], check=True)


def test_once_does_not_wait_for_an_output_that_has_gone(tmp_path):
    never_taken = FolderLock(tmp_path / "out")  # as if the folder that was taken had lain on another file system
    guard = OutputGuard(tmp_path / "out", once=True, lock=never_taken)
    with pytest.raises(OutputError, match="the output folder is gone; restore it"):
        guard.available()
