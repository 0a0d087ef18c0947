"""Channel files with the real process and a real model of two channels: partners that come, come late, or never."""

from __future__ import annotations

import json
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import tifffile

from defocus import Engine
from defocus.engine import tiff
from defocus.engine.commit import PREFIX, SUFFIX

from .conftest import Watching, listing, outputs, wait_for, write_tiff
from .test_soak import SUICIDE, _without_times
from .test_status import ask, free_port, state

QUICK = ("--settle", "0.1", "--rescan", "0.2", "--patience", "0.5")
PATTERN = "*_w{channel}*"
UUIDS = ("2703a47b-7574-461a-85e2-afc38bc0adae", "9f0a1b2c-0000-4444-8888-00005eadbeef")


@pytest.fixture
def pairs(start, tiny_model_2c) -> Callable[..., Watching]:
    """Start defocus-watch with the model of two channels."""

    def begin(*arguments: str, pattern: str = PATTERN, wait: float = 30.0) -> Watching:
        given = ("--channels", pattern, "--partner-wait", str(wait)) if pattern else ()
        return start("--model", str(tiny_model_2c), *given, *QUICK, *arguments)

    return begin


@pytest.fixture(scope="module")
def expected(tiny_model_2c):
    """What a pair of files must become."""
    with Engine.load(tiny_model_2c, backend="cpu") as engine:
        yield lambda *files: engine(np.stack([tifffile.imread(file) for file in files]), "CYX")


def journal(out: Path) -> dict[str, tuple[str, str]]:
    """State and reason of each path; empty as long as the journal is not there."""
    where = f"file:{out / '.defocus' / 'journal.sqlite'}?mode=ro"
    try:
        with closing(sqlite3.connect(where, uri=True, timeout=10)) as connection:
            rows = connection.execute("SELECT relative, state, reason FROM files").fetchall()
    except sqlite3.OperationalError:
        return {}
    return {name: (state, why) for name, state, why in rows}


def states(out: Path) -> dict[str, str]:
    return {name: state for name, (state, _) in journal(out).items()}


def check(folders, expected, *names: str) -> None:
    """A pair of files was corrected together."""
    acquisition, out = folders
    images = expected(*(acquisition / name for name in names))
    for name, image in zip(names, images, strict=True):
        np.testing.assert_array_equal(tiff.read(out / name).data, image)


def test_both_come(folders, pairs, expected):
    acquisition, out = folders
    (acquisition / "sub").mkdir()
    watching = pairs().ready()
    for name in ("a_w2.tif", "a_w1.tif", "sub/a_w1.tif", "sub/a_w2.tif"):  # in either order
        write_tiff(acquisition / name, len(name) + int(name[-5]))
    wait_for(lambda: len(outputs(out)) == 4)
    assert watching.stop() == 0
    check(folders, expected, "a_w1.tif", "a_w2.tif")
    check(folders, expected, "sub/a_w1.tif", "sub/a_w2.tif")
    assert states(out) == dict.fromkeys(outputs(acquisition), "done")
    for name in outputs(out):
        assert watching.said().count(f"{name}: corrected") >= 1
    account = tiff.provenance(out / "a_w2.tif")
    assert account is not None
    assert [one["name"] for one in account["channels"]] == ["a_w1.tif", "a_w2.tif"]


def test_one_that_comes_late_is_waited_for(folders, pairs, expected):
    acquisition, out = folders
    watching = pairs().ready()
    write_tiff(acquisition / "a_w1.tif", 1)
    time.sleep(1.5)
    assert outputs(out) == []
    write_tiff(acquisition / "a_w2.tif", 2)
    wait_for(lambda: outputs(out) == ["a_w1.tif", "a_w2.tif"])
    assert watching.stop() == 0
    check(folders, expected, "a_w1.tif", "a_w2.tif")
    assert "set aside" not in watching.said()


def test_one_that_never_comes_is_named_and_when_it_comes_both_are_done(folders, pairs, expected):
    acquisition, out = folders
    watching = pairs(wait=1).ready()
    write_tiff(acquisition / "a_w1.tif", 1)
    write_tiff(acquisition / "b_w1.tif", 3)
    write_tiff(acquisition / "b_w2.tif", 4)
    before = time.monotonic()
    wait_for(lambda: "set aside" in watching.said())
    assert time.monotonic() - before > 0.9
    reason = f"{acquisition / 'a_w1.tif'}: waited 1 s in vain for channel 2 (a_w2.tif); it is corrected when that file"
    assert reason in watching.said()
    wait_for(lambda: states(out) == {"a_w1.tif": "quarantined", "b_w1.tif": "done", "b_w2.tif": "done"})
    write_tiff(acquisition / "a_w2.tif", 2)
    wait_for(lambda: states(out) == dict.fromkeys(["a_w1.tif", "a_w2.tif", "b_w1.tif", "b_w2.tif"], "done"))
    assert watching.stop() == 0
    check(folders, expected, "a_w1.tif", "a_w2.tif")


def test_also_after_a_restart(folders, pairs, expected):
    acquisition, out = folders
    write_tiff(acquisition / "a_w2.tif", 2)
    before = listing(acquisition)
    first = pairs("--once")
    begun = time.monotonic()
    assert first.process.wait(60) == 1
    assert time.monotonic() - begun < 20  # with --once nobody waits
    assert "a_w2.tif: cannot be corrected without 1 more channel (a_w*.tif)" in first.said()
    assert listing(acquisition) == before
    assert outputs(out) == []
    write_tiff(acquisition / "a_w1.tif", 1)
    second = pairs("--once")
    assert second.process.wait(60) == 0, second.said()
    check(folders, expected, "a_w1.tif", "a_w2.tif")
    assert states(out) == {"a_w1.tif": "done", "a_w2.tif": "done"}


def test_one_written_again_does_both_again(folders, pairs, expected):
    acquisition, out = folders
    write_tiff(acquisition / "a_w1.tif", 1)
    write_tiff(acquisition / "a_w2.tif", 2)
    watching = pairs().ready()
    wait_for(lambda: states(out) == {"a_w1.tif": "done", "a_w2.tif": "done"})
    first = tiff.read(out / "a_w1.tif").data
    write_tiff(acquisition / "a_w2.tif", 5)
    wait_for(lambda: not np.array_equal(tiff.read(out / "a_w1.tif").data, first))
    wait_for(lambda: watching.said().count("a_w2.tif: corrected") == 2)
    assert watching.stop() == 0
    check(folders, expected, "a_w1.tif", "a_w2.tif")


@pytest.mark.parametrize("bad", ["a_w1.tif", "a_w2.tif"])
@pytest.mark.parametrize("bad_first", [True, False])
def test_a_bad_one_sets_the_other_aside_until_it_is_repaired(folders, pairs, expected, bad, bad_first):
    acquisition, out = folders
    (good,) = {"a_w1.tif", "a_w2.tif"} - {bad}
    watching = pairs().ready()
    for name in (bad, good) if bad_first else (good, bad):
        if name == bad:
            (acquisition / bad).write_bytes(b"II*\0 no image")
        else:
            write_tiff(acquisition / good, 1)
        time.sleep(1.2)  # longer than a bad file is given
    wait_for(lambda: set(states(out)) == {bad, good})
    assert set(states(out).values()) == {"quarantined"}
    reason = journal(out)[good][1]
    assert reason.startswith(f"{acquisition / good}: cannot be corrected without its partner ({acquisition / bad}: ")
    write_tiff(acquisition / bad, 2)
    wait_for(lambda: states(out) == {"a_w1.tif": "done", "a_w2.tif": "done"})
    assert watching.stop() == 0
    check(folders, expected, "a_w1.tif", "a_w2.tif")


def test_channels_that_do_not_fit_are_set_aside_with_both_names(folders, pairs):
    acquisition, out = folders
    write_tiff(acquisition / "a_w1.tif", 1)
    write_tiff(acquisition / "a_w2.tif", 2, (64, 80))
    watching = pairs("--once")
    assert watching.process.wait(60) == 1
    for _, reason in journal(out).values():
        assert "a_w1.tif and " in reason
        assert "belong together, but differ in shape ((64, 64) and (64, 80))" in reason
    assert states(out) == dict.fromkeys(["a_w1.tif", "a_w2.tif"], "quarantined")
    assert outputs(out) == []


@pytest.mark.parametrize(
    ("step", "call"),
    [("replace", 0), ("fsync_folder", 0), ("replace", 1), ("fsync_folder", 1), ("record", 0), ("record", 1)],
)
def test_killed_between_the_two_outputs_the_next_start_completes_the_pair(
    folders, pairs, tiny_model_2c, tmp_path, step, call
):
    """The process kills itself with SIGKILL at the n-th call of a step of the commit."""
    acquisition, out = folders
    write_tiff(acquisition / "a_w1.tif", 1)
    write_tiff(acquisition / "a_w2.tif", 2)
    (tmp_path / "suicide.py").write_text(SUICIDE)
    line = [sys.executable, str(tmp_path / "suicide.py"), step, str(call), str(acquisition), "-o", str(out)]
    line += ["--model", str(tiny_model_2c), "--backend", "cpu", "--channels", PATTERN, "--once", *QUICK]
    assert subprocess.run(line, capture_output=True, timeout=60).returncode == -signal.SIGKILL
    committed = {("replace", 0): 0, ("fsync_folder", 0): 1, ("replace", 1): 1}.get((step, call), 2)
    assert len(outputs(out)) == committed
    write_tiff(acquisition / "b_w1.tif", 3)
    write_tiff(acquisition / "b_w2.tif", 4)
    last = pairs("--once")
    assert last.process.wait(60) == 0, last.said()
    said = last.said()
    assert outputs(out) == outputs(acquisition)
    assert states(out) == dict.fromkeys(outputs(acquisition), "done")
    assert list(out.rglob(f"{PREFIX}*{SUFFIX}")) == []
    clean = pairs("-o", str(tmp_path / "clean"), "--once")
    assert clean.process.wait(60) == 0
    for name in outputs(out):
        assert _without_times(out / name) == _without_times(tmp_path / "clean" / name)
    # None is told of twice, and what was committed whole is not made again.
    assert said.count("a_w1.tif: corrected") == (0 if committed == 2 else 1)
    assert said.count("b_w2.tif: corrected") == 1


def test_killed_at_random_moments_pairs_end_as_in_a_clean_run(folders, pairs, expected):
    acquisition, out = folders
    names = [(f"{n}_w1.tif", f"{n}_w2.tif") for n in range(12)]
    for number, pair in enumerate(names):
        for channel, name in enumerate(pair):
            write_tiff(acquisition / name, 2 * number + channel, (96, 96))
    for kill in range(4):
        watching = pairs()
        wait_for(lambda kill=kill: len(outputs(out)) > 5 * kill, 30)
        watching.kill()
    last = pairs("--once")
    assert last.process.wait(60) == 0, last.said()
    assert states(out) == dict.fromkeys(outputs(acquisition), "done")
    for pair in names:
        check(folders, expected, *pair)


def test_names_of_bbbc006_over_two_folders_newest_first(tmp_path, tiny_model_2c, expected):
    """Each file has an identifier of its own behind its channel."""
    text = f'model = "{tiny_model_2c.as_posix()}"\nbackend = "cpu"\nsettle = 0.1\nrescan = 0.2\nlog_json = true\n'
    text += 'order = "newest"\nchannels = "*_w{channel=1,2}{ignore}.tif"\npartner_wait = 1\n'
    folders = [(tmp_path / f"acq{n}", tmp_path / f"out{n}") for n in range(2)]
    fields = []
    for acquisition, out in folders:
        acquisition.mkdir()
        for well in ("a19", "b01", "c06"):
            pair = [
                f"mcf-z-stacks-03212011_{well}_s2_w{channel}{uuid}.tif"
                for channel, uuid in zip((1, 2), UUIDS, strict=True)
            ]
            for channel, name in enumerate(pair):
                write_tiff(acquisition / name, len(fields) * 2 + channel)
            fields.append(((acquisition, out), pair))
        text += f'[[folders]]\nacquisition = "{acquisition.as_posix()}"\noutput = "{out.as_posix()}"\n'
    alone = f"mcf-z-stacks-03212011_d02_s2_w2{UUIDS[0]}.tif"
    write_tiff(folders[0][0] / alone, 99)
    (tmp_path / "defocus.toml").write_text(text)
    line = [sys.executable, "-m", "defocus.watcher.cli", "--config", str(tmp_path / "defocus.toml")]
    plan = subprocess.run([*line, "--dry-run"], capture_output=True, text=True, timeout=60)
    assert plan.returncode == 0, plan.stderr
    assert len(plan.stdout.splitlines()) == 13
    pair = fields[0][1]
    assert f"{folders[0][0] / pair[0]}: correct, together with {pair[1]}" in plan.stdout
    lack = "cannot be corrected without channel 1 (mcf-z-stacks-03212011_d02_s2_w1*.tif)"
    assert f"{folders[0][0] / alone}: set aside: {folders[0][0] / alone}: {lack}" in plan.stdout
    assert not folders[0][1].exists()
    done = subprocess.run([*line, "--once"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1, done.stderr
    events = [json.loads(text) for text in done.stdout.splitlines()]
    assert sorted(event["file"] for event in events if event["event"] == "done") == sorted(
        name for _, pair in fields for name in pair
    )
    for where, pair in fields:
        check(where, expected, *pair)
    (aside,) = [event for event in events if event["event"] == "quarantined"]
    assert aside["file"] == alone
    assert lack in aside["text"]


def test_files_that_go_alone(folders, pairs, expected):
    """What has both channels itself goes as before; what has one and no channel in its name cannot be corrected."""
    acquisition, out = folders
    both = np.random.default_rng(0).integers(100, 3000, (2, 64, 64), np.uint16)
    for name in ("both.tif", "both_w1.tif"):
        tifffile.imwrite(acquisition / name, both, imagej=True, metadata={"axes": "CYX"})
    write_tiff(acquisition / "overview.tif", 3)
    write_tiff(acquisition / "a_w1.tif", 1)
    write_tiff(acquisition / "a_w2.tif", 2)
    write_tiff(acquisition / "both_w2.tif", 2)  # its partner needs none
    watching = pairs("--once")
    assert watching.process.wait(60) == 1
    assert outputs(out) == ["a_w1.tif", "a_w2.tif", "both.tif", "both_w1.tif"]
    check(folders, expected, "a_w1.tif", "a_w2.tif")
    np.testing.assert_array_equal(tiff.read(out / "both.tif").data, tiff.read(out / "both_w1.tif").data)
    found = journal(out)
    assert "takes 2 channels, and neither has this file so many nor does its name fit" in found["overview.tif"][1]
    assert "cannot be corrected without channel 1 (both_w1.tif)" in found["both_w2.tif"][1]


def test_the_partner_may_be_left_out_by_mistake(folders, pairs):
    acquisition, out = folders
    write_tiff(acquisition / "a_w1.tif", 1)
    write_tiff(acquisition / "a_w2.tif", 2)
    write_tiff(acquisition / "x_w1.tif", 2)
    watching = pairs("--once", "--exclude", "*_w2*", "--exclude", "x*", pattern="*_w{channel=1,2}*")
    assert watching.process.wait(60) == 1
    assert set(journal(out)) == {"a_w1.tif"}
    assert "without channel 2 (a_w2.tif), left out by --include, --exclude" in journal(out)["a_w1.tif"][1]


def test_three_channels_for_a_model_of_two_must_be_named_and_a_new_pattern_takes_them_up(folders, pairs, expected):
    acquisition, out = folders
    watching = pairs().ready()
    for n in (1, 2, 3):
        write_tiff(acquisition / f"a_w{n}.tif", n)
        time.sleep(0.5)
    wait_for(lambda: states(out) == {"a_w1.tif": "done", "a_w2.tif": "done", "a_w3.tif": "quarantined"})
    assert "channels 1, 2, 3 belong together, the model takes 2; name them in the pattern" in watching.said()
    assert watching.stop() == 0
    # A file that is there twice: by the pattern the two are the same channel of the same field.
    write_tiff(acquisition / "a_w3 (copy).tif", 3)
    again = pairs("--once", "--exclude", "*_w2*", pattern="*_w{channel=3,1}{ignore}")
    assert again.process.wait(60) == 1
    assert "channel 3 is there twice" in again.said()
    (acquisition / "a_w3 (copy).tif").unlink()
    last = pairs("--once", "--exclude", "*_w2*", pattern="*_w{channel=3,1}*")
    assert last.process.wait(60) == 1  # the copy's entry stays
    check(folders, expected, "a_w3.tif", "a_w1.tif")
    assert states(out)["a_w3.tif"] == "done"


def test_a_retry_on_the_page_takes_the_pair_again(folders, pairs, expected):
    """Somebody else's file is in the place of one output: both are set aside, and both are done at the retry of one."""
    acquisition, out = folders
    port = free_port()
    pairs("--status", str(port)).ready()
    out.mkdir(exist_ok=True)
    (out / "a_w2.tif").write_bytes(b"not ours")
    write_tiff(acquisition / "a_w1.tif", 1)
    write_tiff(acquisition / "a_w2.tif", 2)
    wait_for(lambda: state(port)["failed"] == 2)
    (out / "a_w2.tif").unlink()
    answer = ask(port, "/api/retry", {"folder": 0, "file": "a_w1.tif"}, X_Defocus=state(port)["csrf"])
    assert json.loads(answer[2]) == {"retried": True}
    wait_for(lambda: state(port)["failed"] == 0)
    wait_for(lambda: state(port)["done"] == 2)
    check(folders, expected, "a_w1.tif", "a_w2.tif")


def test_the_page_tells_what_is_missing(folders, pairs):
    acquisition, _ = folders
    port = free_port()
    pairs("--status", str(port), wait=0.5).ready()
    write_tiff(acquisition / "b_w1.tif", 1)
    wait_for(lambda: state(port)["failed"] == 1)
    (failure,) = state(port)["failures"]
    assert "in vain for 1 more channel (b_w*.tif)" in failure["reason"]
    assert 'defocus_failed_files_total{reason="no_partner"} 1' in ask(port, "/metrics")[2].decode()
    # Try again: it waits once more, and is set aside once more.
    ask(port, "/api/retry", {"folder": 0, "file": "b_w1.tif"}, X_Defocus=state(port)["csrf"])
    wait_for(lambda: state(port)["failed"] == 0)
    wait_for(lambda: state(port)["failed"] == 1)


@pytest.mark.parametrize(
    ("pattern", "channels", "says"),
    [
        ("*_w{channel}*", 1, 'the model "tiny" takes one channel, so every file goes alone; leave --channels out'),
        ("*_w{channel=1,2,3}*", 2, "names 3 channels"),
        ("*_w1*", 2, "has no {channel}"),
    ],
)
@pytest.mark.parametrize("how", ["--once", "--dry-run"])
def test_a_pattern_that_cannot_work_is_one_line(folders, tiny_model, tiny_model_2c, pattern, channels, says, how):
    acquisition, out = folders
    write_tiff(acquisition / "a_w1.tif", 1)
    line = [sys.executable, "-m", "defocus.watcher.cli", str(acquisition), "-o", str(out), how, "--backend", "cpu"]
    line += ["--model", str(tiny_model if channels == 1 else tiny_model_2c), "--channels", pattern]
    done = subprocess.run(line, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert says in done.stderr
    assert done.stderr.count("\n") == 1
    assert outputs(out) == []


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="no SIGHUP here")
def test_sighup_takes_a_new_pattern_and_keeps_the_old_if_the_model_cannot(tmp_path, tiny_model_2c, expected):
    acquisition, out, path = tmp_path / "acq", tmp_path / "out", tmp_path / "defocus.toml"
    acquisition.mkdir()
    base = f'model = "{tiny_model_2c.as_posix()}"\nbackend = "cpu"\nsettle = 0.1\nrescan = 0.2\npartner_wait = 0.5\n'
    folder = f'[[folders]]\nacquisition = "{acquisition.as_posix()}"\noutput = "{out.as_posix()}"\n'
    path.write_text(base + 'channels = "*_c{channel}*"\n' + folder)
    log = tmp_path / "log"
    with open(log, "w") as file:
        line = [sys.executable, "-m", "defocus.watcher.cli", "--config", str(path)]
        process = subprocess.Popen(line, stdout=file, stderr=subprocess.STDOUT)
    try:
        write_tiff(acquisition / "a_w1.tif", 1)
        write_tiff(acquisition / "a_w2.tif", 2)
        wait_for(lambda: log.read_text().count("does its name fit the pattern") == 2)
        path.write_text(base + 'channels = "*_w{channel=1,2,3}*"\n' + folder)
        process.send_signal(signal.SIGHUP)
        wait_for(lambda: "going on with the settings from before" in log.read_text())
        path.write_text(base + f'channels = "{PATTERN}"\n' + folder)
        process.send_signal(signal.SIGHUP)
        wait_for(lambda: outputs(out) == ["a_w1.tif", "a_w2.tif"])
        wait_for(lambda: states(out) == {"a_w1.tif": "done", "a_w2.tif": "done"})
        check((acquisition, out), expected, "a_w1.tif", "a_w2.tif")
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.wait()


def test_without_the_option_the_line_says_so(folders, pairs):
    acquisition, out = folders
    write_tiff(acquisition / "a_w1.tif", 1)
    watching = pairs("--once", pattern="")
    assert watching.process.wait(60) == 1
    assert "join files of one channel each with --channels" in journal(out)["a_w1.tif"][1]
