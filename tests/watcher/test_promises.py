"""Promises that a real defocus-watch keeps: one daemon a folder, room on the disk, order, patterns, reload, service."""

from __future__ import annotations

import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import tifffile

from defocus.engine.errors import InputError, OutputError
from defocus.engine.tiff.read import read_tiff
from defocus.watcher import daemon
from defocus.watcher.alerts.health import FILE_STUCK, LOOP_STUCK, Health
from defocus.watcher.configuration.settings import DaemonSettings, FolderSettings
from defocus.watcher.discovery.scanner import ScanTiming
from defocus.watcher.journal import Journal
from defocus.watcher.journal_entry import FileState, JournalEntry
from defocus.watcher.output import disk_space
from defocus.watcher.output.lock import FolderLock
from defocus.watcher.service.systemd import notify_systemd, watchdog

from ..helpers.waiting import wait_for
from .conftest import Configured, needs_sighup, outputs, write_tiff

QUICK = ("--settle", "0.1", "--rescan", "0.2")


def test_p13_a_second_daemon_is_refused_and_named(folders, start, tiny_model):
    acquisition, out = folders
    first = start(*QUICK).ready()
    wait_for(lambda: (out / ".defocus" / "daemon.json").is_file())
    line = [sys.executable, "-m", "defocus.watcher.cli", str(acquisition), "-o", str(out), "--model", str(tiny_model)]
    second = subprocess.run([*line, "--backend", "cpu"], capture_output=True, text=True, timeout=300)
    assert second.returncode == 1
    assert f"another defocus-watch writes there (process {first.process.pid} on " in second.stderr
    assert second.stderr.count("\n") == 1
    first.kill()  # the system frees the lock of a process that was killed
    third = subprocess.run([*line, "--backend", "cpu", "--once"], capture_output=True, text=True, timeout=300)
    assert third.returncode == 0, third.stderr


def test_p13_holds_within_a_process_too(tmp_path):
    with FolderLock(tmp_path), pytest.raises(InputError, match="another defocus-watch"), FolderLock(tmp_path):
        pass
    with FolderLock(tmp_path):
        pass


def test_p9_without_room_it_waits_and_goes_on_by_itself(folders, tiny_model, monkeypatch):
    from defocus import Engine

    acquisition, out = folders
    write_tiff(acquisition / "a.tif")
    free = [10]
    usage = type("Usage", (), {"free": property(lambda self: free[0] * disk_space.MEGABYTE), "total": 10**12})
    monkeypatch.setattr(disk_space.shutil, "disk_usage", lambda path: usage())
    monkeypatch.setattr(disk_space, "PAUSE", 0.05)
    events, stop, health = [], threading.Event(), Health()
    folder = FolderSettings(acquisition, out, ScanTiming(0.05, 0.1), min_free_mb=100, keep_sharp=False)
    settings = DaemonSettings((folder,))
    with Engine.load(tiny_model, backend="cpu") as engine:
        thread = threading.Thread(target=daemon.watch, args=(settings, engine, stop, events.append, health))
        thread.start()
        wait_for(lambda: any(event.kind == "paused" for event in events))
        assert any("only 10 MB free, waiting for 100 MB" in problem for problem in health.problems())
        assert not health.stuck()
        assert outputs(out) == []
        free[0] = 5000
        wait_for(lambda: outputs(out) == ["a.tif"])
        assert health.problems() == []
        stop.set()
        thread.join(300)
        free[0] = 10
        write_tiff(acquisition / "b.tif")
        with pytest.raises(OutputError, match="only 10 MB free"):
            daemon.watch(
                DaemonSettings((folder,), once=True),
                engine,
                stop.__class__(),
            )


def test_a_file_preallocated_with_zeros_is_waited_for(folders, start):
    """Polling, so that nothing tells of the close: the whole file is there, its pixels come much later."""
    acquisition, out = folders
    image = np.random.default_rng(0).integers(100, 3000, (64, 64), dtype=np.uint16)
    path = acquisition / "slow.tif"
    tifffile.imwrite(path, image)
    whole = path.read_bytes()
    path.unlink()
    with tifffile.TiffFile(_memory(whole)) as tif:
        offset = tif.pages[0].dataoffsets[0]
    watching = start(*QUICK, "--polling", "--patience", "20").ready()
    path.write_bytes(whole[:offset] + b"\0" * (len(whole) - offset))
    write_tiff(acquisition / "other.tif")
    wait_for(lambda: outputs(out) == ["other.tif"])  # it has been looked at as often
    with open(path, "r+b") as file:
        file.seek(offset)
        file.write(whole[offset:])
    wait_for(lambda: outputs(out) == ["other.tif", "slow.tif"])
    assert json.loads((out / ".defocus" / "daemon.json").read_text())["pid"] == watching.process.pid


def test_a_black_image_is_taken_after_our_patience(folders, start):
    acquisition, out = folders
    tifffile.imwrite(acquisition / "black.tif", np.zeros((64, 64), np.uint16))
    start(*QUICK, "--polling", "--patience", "0.8").ready()
    wait_for(lambda: outputs(out) == ["black.tif"])
    assert not read_tiff(out / "black.tif").data.any()


def test_newest_first_patterns_and_age(folders, start):
    acquisition, out = folders
    (acquisition / "plate").mkdir()
    now = time.time()
    ages = {f"{index:02d}_w1.tif": (5 * index) % 12 for index in range(12)}  # s; found in the order of their names
    for index, (name, age) in enumerate(ages.items()):
        write_tiff(acquisition / name, index, (256, 256))
        os.utime(acquisition / name, (now - 60 - age, now - 60 - age))
    write_tiff(acquisition / "0_w2.tif")
    write_tiff(acquisition / "plate" / "thumb_w1.tif")
    write_tiff(acquisition / "old_w1.tif")
    os.utime(acquisition / "old_w1.tif", (now - 9999, now - 9999))
    patterns = ("--include", "*_w1*", "--exclude", "*thumb*", "--max-age", "600")
    # Nothing to settle: all are complete at the first look, and none comes a moment after the others.
    done = start(*QUICK, "--settle", "0", "--once", "--order", "newest", *patterns)
    assert done.process.wait(300) == 0, done.said()
    lines = [line.split(":")[0] for line in done.said().splitlines() if "corrected in" in line]
    assert outputs(out) == sorted(lines) == list(ages)
    # The engine takes what comes first while the others are still being found, and two are written side by side.
    done_in_order = [ages[one] <= ages[other] for one, other in itertools.combinations(lines, 2)]
    assert sum(done_in_order) > 0.75 * len(done_in_order), lines


def test_dry_run_tells_and_changes_nothing(folders, start):
    acquisition, out = folders
    write_tiff(acquisition / "a.tif")
    write_tiff(acquisition / "b_w2.tif")
    (acquisition / "bad.tif").write_bytes(b"II*\0broken")
    done = start("--dry-run", "--exclude", "*_w2*")
    assert done.process.wait(300) == 0
    said = done.said()
    assert "a.tif: correct" in said
    assert "b_w2.tif: ignored" in said
    assert "bad.tif: quarantined: " in said
    assert not out.exists() or list(out.iterdir()) == []


def test_two_folders_in_one_daemon(tmp_path, tiny_model):
    folders = [(tmp_path / f"acq{index}", tmp_path / f"out{index}") for index in range(2)]
    text = f'model = "{tiny_model.as_posix()}"\nbackend = "cpu"\nsettle = 0.1\nrescan = 0.2\nlog_json = true\n'
    for index, (acquisition, out) in enumerate(folders):
        acquisition.mkdir()
        for number in range(3):
            write_tiff(acquisition / f"{number}.tif", 10 * index + number)
        text += f'[[folders]]\nacquisition = "{acquisition.as_posix()}"\noutput = "{out.as_posix()}"\n'
    (tmp_path / "defocus.toml").write_text(text)
    line = [sys.executable, "-m", "defocus.watcher.cli", "--config", str(tmp_path / "defocus.toml"), "--once"]
    done = subprocess.run(line, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    events = [json.loads(text) for text in done.stdout.splitlines()]
    finished = {(event["folder"], event["file"]) for event in events if event["event"] == "done"}
    assert finished == {(str(acquisition), f"{number}.tif") for acquisition, _ in folders for number in range(3)}
    for event in events:
        assert event["time"].endswith("+00:00")
        if event["event"] == "done":
            assert event["seconds"]["infer"] > 0
            assert event["planes"][0]["verdict"]
    for acquisition, out in folders:
        assert outputs(out) == outputs(acquisition)


@needs_sighup
def test_sighup_takes_new_settings_and_keeps_the_old_if_they_are_wrong(tmp_path, tiny_model):
    acquisition = tmp_path / "acq"
    acquisition.mkdir()
    daemon = Configured(tmp_path, tiny_model)
    out, log = daemon.out("acq"), "log_json = true\n"
    with daemon.settings("acq", more=log + 'exclude = ["*_w2*"]\n'):
        write_tiff(acquisition / "a_w1.tif")
        write_tiff(acquisition / "a_w2.tif")
        wait_for(lambda: outputs(out) == ["a_w1.tif"])
        daemon.config.write_text("nonsense = 1\n")
        daemon.reload()
        wait_for(lambda: "keeping the previous settings" in daemon.said())
        write_tiff(acquisition / "b_w1.tif")
        wait_for(lambda: "b_w1.tif" in outputs(out))
        daemon.settings("acq", more=log).reload()
        wait_for(lambda: outputs(out) == ["a_w1.tif", "a_w2.tif", "b_w1.tif"])
        daemon.ends()


@pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="no Unix sockets here")
def test_systemd_is_told_of_start_life_and_end(folders, tiny_model, tmp_path):
    acquisition, out = folders
    address = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as link:
        link.bind(address)
        link.settimeout(30)
        environment = os.environ | {"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "300000"}
        line = [
            sys.executable,
            "-m",
            "defocus.watcher.cli",
            str(acquisition),
            "-o",
            str(out),
            "--model",
            str(tiny_model),
        ]
        process = subprocess.Popen([*line, "--backend", "cpu"], env=environment, stdout=subprocess.DEVNULL)
        try:
            seen = {link.recv(100).decode()}
            while not {"READY=1", "WATCHDOG=1"} <= seen:
                seen.add(link.recv(100).decode())
            process.send_signal(signal.SIGTERM)
            while "STOPPING=1" not in seen:
                seen.add(link.recv(100).decode())
            assert process.wait(300) == 0
        finally:
            process.kill()
            process.wait()


def test_a_daemon_that_hangs_pings_no_more(monkeypatch, tmp_path):
    sent = []
    monkeypatch.setattr("defocus.watcher.service.systemd.notify_systemd", sent.append)
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "x"))
    monkeypatch.setenv("WATCHDOG_USEC", "20000")
    stop, hangs, asked = threading.Event(), threading.Event(), []
    thread = watchdog(lambda: bool(asked.append(hangs.is_set()) or asked[-1]), stop)
    assert thread is not None
    wait_for(lambda: len(sent) >= 3)
    hangs.set()
    wait_for(lambda: asked[-1])
    before = len(sent)
    wait_for(lambda: asked.count(True) > 5)
    assert len(sent) == before
    stop.set()
    thread.join(300)
    assert notify_systemd("READY=1", {}) is False


def test_health_tells_what_hangs():
    now = [0.0]
    health = Health(lambda: now[0])
    health.heartbeat("engine")
    health.heartbeat("finder")
    assert health.problems() == []
    now[0] = LOOP_STUCK + 1
    health.heartbeat("finder")
    assert health.problems() == [f"engine: no sign of life for {LOOP_STUCK + 1:.0f} s"]
    assert health.stuck()
    health.file_started("big.tif")
    assert health.problems() == []  # the engine's loop is busy with a file
    now[0] += FILE_STUCK + 1
    health.heartbeat("finder")
    assert health.problems() == [f"big.tif: in progress for {FILE_STUCK + 1:.0f} s"]
    health.file_finished("big.tif")
    health.heartbeat("engine")
    health.set_problem("share", "the share is gone")
    assert health.problems() == ["the share is gone"]
    assert not health.stuck()  # no restart brings it back
    health.set_problem("share", None)
    health.loop_finished("finder")
    assert health.problems() == []


def test_the_journal_forgets_what_is_gone_and_keeps_what_is_there(tmp_path):
    acquisition = tmp_path / "acq"
    acquisition.mkdir()
    (acquisition / "here.tif").write_bytes(b"x")
    with Journal(tmp_path / "out") as journal:
        for name in ("here.tif", "gone.tif"):
            journal.record(JournalEntry(name, (1, 1), "d", "m", FileState.DONE))
        assert journal.prune(acquisition, 1) == 0  # too young
        assert journal.prune(acquisition, -1) == 1
        assert journal.find(Path("here.tif")) is not None
        assert journal.find(Path("gone.tif")) is None


def _memory(content: bytes):  # type: ignore[no-untyped-def]
    import io

    return io.BytesIO(content)
