"""Patterns of channel files, and which files belong together by them."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath

import numpy as np
import pytest
import tifffile

from defocus.engine.errors import InputError
from defocus.engine.model.card import Card
from defocus.engine.pipeline.batch import find
from defocus.engine.pipeline.channel_pattern import Pattern, gather
from defocus.engine.tiff.read import read_provenance, read_tiff

UUIDS = ("2703a47b-7574-461a-85e2-afc38bc0adae", "9f0a1b2c-0000-4444-8888-00005eadbeef")


@dataclass(frozen=True)
class Case:
    """A pattern and the groups it makes: file names in the order of channels; `alone` fit no group."""

    pattern: str
    groups: list[list[str]] = field(default_factory=list)
    alone: list[str] = field(default_factory=list)
    looked_for: str = ""  # what the partner of the first file of the first group would be called, were it missing

    def __str__(self) -> str:
        return self.pattern


BBBC = "mcf-z-stacks-03212011_a19_s2_w{}{}.tif"
CASES = [
    Case(
        "*_w{channel}*",
        [["p_a01_s2_w1.tif", "p_a01_s2_w2.tif"], ["p_a01_s3_w1.tif", "p_a01_s3_w2.tif"]],
        ["p_a01_s2.tif", "p_a01_s2_wide.tif", "p_a01_s2_W1.tif"],
        "p_a01_s2_w2.tif",
    ),
    Case("*_w{channel}.tif", [["a_w1.tif", "a_w2.tif"]], ["a_w1.tiff", "a_w1_z2.tif"], "a_w2.tif"),
    Case("*_w{channel}", [["a_w1.TIF", "a_w2.TIF"], ["a_w1.ome.tif", "a_w2.ome.tif"]], ["a_w1x.tif"], "a_w2.TIF"),
    Case(
        "*_w{channel=1,2}{ignore}.tif",
        [[BBBC.format(1, UUIDS[0]), BBBC.format(2, UUIDS[1])], [f"b_w1{UUIDS[1]}.tif", f"b_w2{UUIDS[0]}.tif"]],
        ["b_w3.tif", "b.tif"],
        BBBC.format(2, "*"),
    ),
    Case(
        "img_*_ch{channel}*",
        [["img_t001_ch00.tif", "img_t001_ch01.tif"], ["img_t010_ch00_z1.tif", "img_t010_ch01_z1.tif"]],
        ["img_t001.tif"],
        "img_t001_ch01.tif",
    ),
    Case("C{channel}-*", [["C1-x.tif", "C2-x.tif"], ["C1-C2-y.tif", "C2-C2-y.tif"]], ["x-C1.tif"], "C2-x.tif"),
    Case("*_w{channel}*", [["a_w9.tif", "a_w10.tif"]], [], "a_w10.tif"),  # by number, not by letter
    Case("*_w{channel=2,1}*", [["a_w2.tif", "a_w1.tif"]], ["a_w12.tif", "a_w3.tif"], "a_w1.tif"),
    Case("{channel=DAPI,GFP}_*", [["DAPI_1.tif", "GFP_1.tif"]], ["Cy5_1.tif", "dapi_1.tif"], "GFP_1.tif"),
    Case("*_{channel=Cy3,Cy3b}*", [["a_Cy3.tif", "a_Cy3b.tif"]], [], "a_Cy3b.tif"),
    Case("*{channel}", [["a12.tif", "a13.tif"]], ["a.tif"], "a13.tif"),
    Case("w{channel}/*", [["x/w1/a.tif", "x/w2/a.tif"]], ["w3.tif"], "w2/a.tif"),
    Case("*_w{channel}*", [["p1/a_w1.tif", "p1/a_w2.tif"], ["p2/a_w1.tif", "p2/a_w2.tif"]], [], "a_w2.tif"),
    Case("{ignore}_s{channel}_*", [["100_s1_a.tif", "200_s2_a.tif"]], ["s1_a.tif"], "*_s2_a.tif"),
    # Where it fits twice, the last place counts.
    Case("*_w{channel}*", [["a_w1_w1.tif", "a_w1_w2.tif"]], [], "a_w1_w2.tif"),
    Case("*_w{channel=1,2}*", [["a[1]?_w1.tif", "a[1]?_w2.tif"]], [], "a[1]?_w2.tif"),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_which_files_belong_together(case):
    pattern = Pattern.parse(case.pattern)
    found: dict[tuple[str, ...], dict[str, str]] = {}
    for name in sorted([name for group in case.groups for name in group], reverse=True):
        place = pattern.match(PurePosixPath(name))
        assert place is not None, name
        assert found.setdefault(place.group, {}).setdefault(place.channel, name) == name
        assert fnmatchcase(name, pattern.glob(place.group))  # as SQLite's GLOB has it
    grouped = [[files[channel] for channel in pattern.order(files)] for files in found.values()]
    assert sorted(grouped) == sorted(case.groups)
    assert [name for name in case.alone if pattern.match(PurePosixPath(name))] == []
    group, first = next(
        (place.group, place.channel) for place in [pattern.match(PurePosixPath(case.groups[0][0]))] if place
    )
    (other,) = set(found[group]) - {first}
    assert pattern.name(group, other) == case.looked_for
    lacking = pattern.lacking(group, [first], 2, [first, other])
    assert lacking == f"channel {other} ({case.looked_for})"
    if not pattern.names:  # nothing seen tells what the other channel is called
        assert pattern.lacking(group, [first], 2, []).startswith("1 more channel (")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("*_w1*", "has no {channel}"),
        ("{channel}_{channel}", "has more than one {channel}"),
        ("*_w{chanel}*", "{chanel} is unknown; use {channel}"),
        ("*_w{channel*", "has an unmatched brace"),
        ("*_w{channel=1}*", "does not name two channels or more, each once; write {channel=1,2}"),
        ("*_w{channel=1,1}*", "does not name two channels"),
        ("*_w{channel=1,}*", "does not name two channels"),
        ("*_w{channel}{ignore}", "would run into the text to ignore; name the channels: {channel=1,2}{ignore}"),
        ("", "has no {channel}"),
    ],
)
def test_patterns_that_make_no_sense_are_one_line(text, says):
    with pytest.raises(InputError) as caught:
        Pattern.parse(text)
    assert says in str(caught.value)
    assert str(caught.value).startswith(f"--channels {text}".strip())


def test_the_model_must_take_them():
    def card(channels):
        return Card("m", channels, 16, 16)

    Pattern.parse("*{channel=1,2}").check(card(2))
    Pattern.parse("*{channel}").check(card(3))
    with pytest.raises(
        InputError, match="takes one channel, so each file is corrected on its own; leave --channels out"
    ):
        Pattern.parse("*{channel}").check(card(1))
    with pytest.raises(InputError, match='names 2 channels, the model "m" takes 3'):
        Pattern.parse("*{channel=1,2}").check(card(3))


def draw(path: Path, seed: int = 0, shape: tuple[int, ...] = (40, 48), **arguments) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(path, np.random.default_rng(seed).integers(100, 4000, shape, np.uint16), **arguments)
    return path


def gathered(folder: Path, text: str, channels: int = 2) -> tuple[list[list[str]], dict[str, str]]:
    jobs, refused = gather(find([folder], folder.parent / "out"), Pattern.parse(text), channels)
    return [[one.source.name for one in job.each()] for job in jobs], {j.source.name: str(e) for j, e in refused}


def test_what_is_missing_twice_or_strange_is_told_of_each_file(tmp_path):
    folder = tmp_path / "in"
    for name in ("a_w1", "a_w2", "b_w1", "c_w2", "d_w1", "d_w1 copy", "d_w2", "note"):
        draw(folder / f"{name}.tif")
    draw(folder / "both_w1.tif", 0, (2, 40, 48), imagej=True, metadata={"axes": "CYX"})
    (folder / "e_w1.tif").write_bytes(b"II*\0 no image")
    draw(folder / "e_w2.tif")
    groups, refused = gathered(folder, "*_w{channel=1,2}{ignore}")
    # What has both channels itself goes alone; what cannot be read goes on: the pipeline tells of it and its partner.
    assert groups == [["a_w1.tif", "a_w2.tif"], ["both_w1.tif"], ["e_w1.tif", "e_w2.tif"]]
    assert "b_w1.tif: cannot be corrected without channel 2 (b_w2*.tif); add the missing file" in refused["b_w1.tif"]
    assert "without channel 1 (c_w1*.tif)" in refused["c_w2.tif"]
    for name in ("d_w1.tif", "d_w1 copy.tif", "d_w2.tif"):
        assert "channel 1 is there twice (d_w1 copy.tif and d_w1.tif)" in refused[name]
    assert "takes 2 channels, and neither has this file so many nor does its name fit" in refused["note.tif"]
    assert len(refused) == 6


def test_more_channels_than_the_model_takes_must_be_named(tmp_path):
    for n in (1, 2, 3):
        draw(tmp_path / "in" / f"a_w{n}.tif")
    groups, refused = gathered(tmp_path / "in", "*_w{channel}*")
    assert groups == []
    assert set(refused) == {"a_w1.tif", "a_w2.tif", "a_w3.tif"}
    assert (
        "channels 1, 2, 3 belong together, the model takes 2; name them in the pattern: {channel=1,2}"
        in refused["a_w3.tif"]
    )
    groups, refused = gathered(tmp_path / "in", "*_w{channel=3,1}*")
    assert groups == [["a_w3.tif", "a_w1.tif"]]
    assert set(refused) == {"a_w2.tif"}


# --- the program


def program(folder: Path, model: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "defocus.engine.cli.run", str(folder / "in"), "-o", str(folder / "out")]
    line += ["--model", str(model), "--backend", "cpu", *arguments]
    return subprocess.run(line, capture_output=True, text=True, timeout=300)


@pytest.fixture
def plate(tmp_path) -> Path:
    for number, name in enumerate(("a01", "a02")):
        for channel, uuid in zip((1, 2), UUIDS, strict=True):
            draw(tmp_path / "in" / f"{name}_s2_w{channel}{uuid}.tif", 2 * number + channel)
    return tmp_path


BBBC_PATTERN = "*_w{channel=1,2}{ignore}.tif"


def lines(done: subprocess.CompletedProcess[str]) -> dict[str, dict]:
    return {Path(line["source"]).name: line for line in map(json.loads, done.stdout.splitlines())}


def test_defocus_run_takes_channels_together(plate, tiny_model_2c):
    from defocus import Engine

    draw(plate / "in" / f"a03_s2_w2{UUIDS[0]}.tif")
    done = program(plate, tiny_model_2c, "--json", "--all-planes", "--channels", BBBC_PATTERN)
    assert done.returncode == 1, done.stderr
    found = lines(done)
    assert [line["status"] for line in found.values()].count("done") == 4
    alone = found.pop(f"a03_s2_w2{UUIDS[0]}.tif")
    assert alone["status"] == "failed"
    assert "cannot be corrected without channel 1 (a03_s2_w1*.tif)" in alone["error"]
    assert alone["error"] in done.stderr
    with Engine.load(tiny_model_2c, backend="cpu") as engine:
        for name in ("a01", "a02"):
            files = sorted((plate / "in").glob(f"{name}*"))
            expected = engine(np.stack([tifffile.imread(path) for path in files]), "CYX")
            for path, restored in zip(files, expected, strict=True):
                np.testing.assert_array_equal(read_tiff(plate / "out" / path.name).data, restored)
    times = {path: path.stat().st_mtime_ns for path in (plate / "out").iterdir()}
    again = program(plate, tiny_model_2c, "--channels", BBBC_PATTERN)
    assert "0 done, 4 skipped, 1 failed" in again.stderr
    assert {path: path.stat().st_mtime_ns for path in (plate / "out").iterdir()} == times
    # One of two outputs is missing, as after a kill between their commits: both are made anew, the others are left.
    (plate / "out" / f"a01_s2_w2{UUIDS[1]}.tif").unlink()
    third = program(plate, tiny_model_2c, "--json", "--channels", BBBC_PATTERN)
    done = [name[:3] for name, line in lines(third).items() if line["status"] == "done"]
    assert done == ["a01", "a01"]


def test_defocus_run_refuses_what_makes_no_sense(plate, tiny_model, tiny_model_2c):
    for model, pattern, says in (
        (tiny_model, "*_w{channel}*", 'the model "tiny" takes one channel, so each file is corrected on its own'),
        (tiny_model_2c, "*_w{chanel}*", "{chanel} is unknown"),
        (tiny_model_2c, "*_w{channel=1,2,3}*", "names 3 channels"),
    ):
        done = program(plate, model, "--channels", pattern)
        assert done.returncode == 1
        assert says in done.stderr
        assert done.stderr.count("\n") == 1
        assert not (plate / "out").exists()


def test_over_dask_a_group_is_one_task(plate, tiny_model_2c):
    pytest.importorskip("distributed", reason='needs dask: pip install ".[dask]"')
    (plate / "in" / "bad_w1.tif").write_bytes(b"II*\0 no image")
    draw(plate / "in" / "bad_w2.tif")
    done = program(plate, tiny_model_2c, "--json", "--channels", BBBC_PATTERN, "--dask", "local:1")
    assert done.returncode == 1, done.stderr
    found = lines(done)
    assert [line["status"] for line in found.values()].count("done") == 4
    assert "cannot be corrected without its partner" in found["bad_w2.tif"]["error"]
    assert "cannot be corrected without its partner" not in found["bad_w1.tif"]["error"]
    account = read_provenance(plate / "out" / f"a01_s2_w1{UUIDS[0]}.tif")
    assert account is not None
    assert [one["name"][:9] for one in account["channels"]] == ["a01_s2_w1", "a01_s2_w2"]
