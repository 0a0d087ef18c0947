"""Channel files by their names, with the real process: which belong together, which go alone, which are refused."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
import tifffile

from defocus.engine.tiff.read import read_tiff

from ...helpers.waiting import wait_for
from ..conftest import PAIRS, Configured, check_pair, journal, needs_sighup, outputs, states, write_tiff

UUIDS = ("2703a47b-7574-461a-85e2-afc38bc0adae", "9f0a1b2c-0000-4444-8888-00005eadbeef")


def test_names_of_bbbc006_over_two_folders_newest_first(tmp_path, tiny_model_2c, expected):
    """Each file has an identifier of its own behind its channel."""
    text = f'model = "{tiny_model_2c.as_posix()}"\nbackend = "cpu"\nsettle = 0.1\nrescan = 0.2\nlog_json = true\n'
    text += 'all_planes = true\norder = "newest"\nchannels = "*_w{channel=1,2}{ignore}.tif"\npartner_wait = 1\n'
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
    plan = subprocess.run([*line, "--dry-run"], capture_output=True, text=True, timeout=300)
    assert plan.returncode == 0, plan.stderr
    assert len(plan.stdout.splitlines()) == 13
    pair = fields[0][1]
    assert f"{folders[0][0] / pair[0]}: correct, together with {pair[1]}" in plan.stdout
    lack = "cannot be corrected without channel 1 (mcf-z-stacks-03212011_d02_s2_w1*.tif)"
    assert f"{folders[0][0] / alone}: quarantined: {folders[0][0] / alone}: {lack}" in plan.stdout
    assert not folders[0][1].exists()
    done = subprocess.run([*line, "--once"], capture_output=True, text=True, timeout=300)
    assert done.returncode == 1, done.stderr
    events = [json.loads(text) for text in done.stdout.splitlines()]
    assert sorted(event["file"] for event in events if event["event"] == "done") == sorted(
        name for _, pair in fields for name in pair
    )
    for where, pair in fields:
        check_pair(where, expected, *pair)
    (quarantined,) = [event for event in events if event["event"] == "quarantined"]
    assert quarantined["file"] == alone
    assert lack in quarantined["text"]


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
    assert watching.process.wait(300) == 1
    assert outputs(out) == ["a_w1.tif", "a_w2.tif", "both.tif", "both_w1.tif"]
    check_pair(folders, expected, "a_w1.tif", "a_w2.tif")
    np.testing.assert_array_equal(read_tiff(out / "both.tif").data, read_tiff(out / "both_w1.tif").data)
    found = journal(out)
    assert "takes 2 channels, and neither has this file so many nor does its name fit" in found["overview.tif"][1]
    assert "cannot be corrected without channel 1 (both_w1.tif)" in found["both_w2.tif"][1]


def test_the_partner_may_be_left_out_by_mistake(folders, pairs):
    acquisition, out = folders
    write_tiff(acquisition / "a_w1.tif", 1)
    write_tiff(acquisition / "a_w2.tif", 2)
    write_tiff(acquisition / "x_w1.tif", 2)
    watching = pairs("--once", "--exclude", "*_w2*", "--exclude", "x*", pattern="*_w{channel=1,2}*")
    assert watching.process.wait(300) == 1
    assert set(journal(out)) == {"a_w1.tif"}
    assert "without channel 2 (a_w2.tif), left out by --include, --exclude" in journal(out)["a_w1.tif"][1]


def test_three_channels_for_a_model_of_two_must_be_named_and_a_new_pattern_takes_them_up(folders, pairs, expected):
    acquisition, out = folders
    watching = pairs().ready()
    for n in (1, 2, 3):
        write_tiff(acquisition / f"a_w{n}.tif", n)
        wait_for(lambda n=n: n != 2 or len(outputs(out)) == 2)  # the third comes when the pair is done
    wait_for(lambda: states(out) == {"a_w1.tif": "done", "a_w2.tif": "done", "a_w3.tif": "quarantined"})
    assert "channels 1, 2, 3 belong together, the model takes 2; name them in the pattern" in watching.said()
    assert watching.stop() == 0
    # A file that is there twice: by the pattern the two are the same channel of the same field.
    write_tiff(acquisition / "a_w3 (copy).tif", 3)
    again = pairs("--once", "--exclude", "*_w2*", pattern="*_w{channel=3,1}{ignore}")
    assert again.process.wait(300) == 1
    assert "channel 3 is there twice" in again.said()
    (acquisition / "a_w3 (copy).tif").unlink()
    last = pairs("--once", "--exclude", "*_w2*", pattern="*_w{channel=3,1}*")
    assert last.process.wait(300) == 0  # the copy is gone
    assert states(out)["a_w3 (copy).tif"] == "quarantined"
    check_pair(folders, expected, "a_w3.tif", "a_w1.tif")
    assert states(out)["a_w3.tif"] == "done"


@pytest.mark.parametrize(
    ("pattern", "channels", "says"),
    [
        (
            "*_w{channel}*",
            1,
            'the model "tiny" takes one channel, so each file is corrected on its own; leave --channels out',
        ),
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
    done = subprocess.run(line, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1
    assert says in done.stderr
    assert done.stderr.count("\n") == 1
    assert outputs(out) == []


@needs_sighup
def test_sighup_takes_a_new_pattern_and_keeps_the_old_if_the_model_cannot(tmp_path, tiny_model_2c, expected):
    acquisition = tmp_path / "acq"
    acquisition.mkdir()
    daemon = Configured(tmp_path, tiny_model_2c)
    out = daemon.out("acq")

    def pattern(text: str) -> Configured:
        return daemon.settings("acq", more=f'partner_wait = 0.5\nchannels = "{text}"\n')

    with pattern("*_c{channel}*"):
        write_tiff(acquisition / "a_w1.tif", 1)
        write_tiff(acquisition / "a_w2.tif", 2)
        wait_for(lambda: daemon.said().count("does its name fit the pattern") == 2)
        pattern("*_w{channel=1,2,3}*").reload()
        wait_for(lambda: "keeping the previous settings" in daemon.said())
        pattern(PAIRS).reload()
        wait_for(lambda: outputs(out) == ["a_w1.tif", "a_w2.tif"])
        wait_for(lambda: states(out) == {"a_w1.tif": "done", "a_w2.tif": "done"})
        check_pair((acquisition, out), expected, "a_w1.tif", "a_w2.tif")
        daemon.ends()


def test_without_the_option_the_line_says_so(folders, pairs):
    acquisition, out = folders
    write_tiff(acquisition / "a_w1.tif", 1)
    watching = pairs("--once", pattern="")
    assert watching.process.wait(300) == 1
    assert "join files of one channel each with --channels" in journal(out)["a_w1.tif"][1]
