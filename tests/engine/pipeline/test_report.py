"""Reports of runs and of outputs that are there, by the commands as people start them."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import tifffile

from defocus.engine.errors import DefocusError, InputError, OutputError
from defocus.engine.pipeline import report as module
from defocus.engine.pipeline.batch import Result, Status, find
from defocus.engine.pipeline.jobs import Job, Outcome
from defocus.engine.pipeline.report import Report, ReportedFile, of_outputs
from defocus.engine.quality.report import LISTED, PlaneReport

EVIL = "<img src=x onerror=alert(1)>&.tif"
DOUBTFUL = PlaneReport(0.1, 0.2, 0.9, 0.7, 9.0)
GOOD = PlaneReport(0.1, 0.2, 0.99, 0.1, 4.0)


def run(module_: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", f"defocus.engine.cli.{module_}", *map(str, arguments)]
    return subprocess.run(line, capture_output=True, text=True, timeout=300)


class Page(HTMLParser):
    """Rows of the table as texts, and the pictures."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.images: list[dict[str, str | None]] = []
        self.tags: set[str] = set()
        self._in_cell = False
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self._in_cell = tag == "td" or (self._in_cell and tag in ("img", "br"))
        if tag == "tr":
            self.rows.append([])
        elif tag == "td":
            self.rows[-1].append("")
        elif tag == "img":
            self.images.append(dict(attrs))

    def handle_endtag(self, tag):
        if tag == "td":
            self._in_cell = False

    def handle_data(self, data):
        if self._in_cell:
            self.rows[-1][-1] += data


def table(path: Path) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def folder(tmp_path) -> Path:
    """Two images, one of them a stack with a pixel size, and a file that is none."""
    (tmp_path / "in" / "sub").mkdir(parents=True)
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:96, :128]
    field = 1000 + 800 * (np.sin(rows / 9) * np.sin(columns / 7) > 0.3)
    name = EVIL if os.name == "posix" else "a.tif"
    tifffile.imwrite(tmp_path / "in" / name, rng.poisson(field).astype(np.uint16))
    stack = rng.poisson(np.stack([field] * 3)).astype(np.uint16)
    tifffile.imwrite(tmp_path / "in" / "sub" / "z.tif", stack, imagej=True, resolution=(2, 2), metadata={"unit": "um"})
    (tmp_path / "in" / "bad.tif").write_bytes(b"no TIFF")
    return tmp_path


def test_a_run_and_its_outputs_give_the_same_report(folder, tiny_model):
    model = ("--model", tiny_model, "--backend", "cpu", "--all-planes")
    done = run("run", folder / "in", "-o", folder / "in_corrected", *model, "--report", folder / "r", "--json")
    assert done.returncode == 1, done.stderr  # bad.tif
    assert str(folder / "r" / "report.html") in done.stderr
    page, rows = Page(folder / "r" / "report.html"), table(folder / "r" / "report.csv")
    assert page.tags.isdisjoint({"script", "link"})
    assert next(row[0] for row in page.rows if row) == "bad.tif"  # failures first
    assert "not a TIFF" in page.rows[1][1]
    assert len(page.images) == 4
    assert all((image["src"] or "").startswith("data:image/png;base64,") for image in page.images)
    name = EVIL if os.name == "posix" else "a.tif"
    assert sorted({row["file"] for row in rows}) == sorted(["bad.tif", name, "sub/z.tif"])
    planes = [row for row in rows if row["file"] == "sub/z.tif"]
    assert [row["plane"] for row in planes] == ["0", "1", "2"]
    said = {line["target"]: line for line in map(json.loads, done.stdout.splitlines())}
    reports = said[str(folder / "in_corrected" / "sub" / "z.tif")]["reports"]
    for row, report in zip(planes, reports, strict=True):
        assert row["verdict"] == report["verdict"]
        assert row["kept"] == str(int(report["copied"]))
        if report["blur_px"] is not None:
            assert float(row["blur_px"]) == report["blur_px"]
            assert float(row["blur_um"]) == pytest.approx(report["blur_px"] / 2, abs=1e-4)  # 2 pixels a um

    # What is skipped says the same of itself, in JSON and in a report.
    again = run("run", folder / "in", "-o", folder / "in_corrected", *model, "--report", folder / "again", "--json")
    skipped = {line["target"]: line for line in map(json.loads, again.stdout.splitlines())}
    for target, line in skipped.items():
        assert line.keys() == said[target].keys()
        for key in ("shape", "axes", "planes", "reports"):
            assert line[key] == said[target][key]
    assert [line["status"] for line in skipped.values()].count("skipped") == 2
    without = [{key: row[key] for key in row if key != "status"} for row in rows]
    assert [
        {key: row[key] for key in row if key != "status"} for row in table(folder / "again" / "report.csv")
    ] == without

    # And so does `defocus report`, later, which finds the inputs of ACQ_corrected by itself.
    made = run("report", folder / "in_corrected")
    assert made.returncode == 0, made.stderr
    later = table(folder / "in_corrected" / "report.csv")
    assert [row for row in later if row["file"] == "sub/z.tif"] == planes
    assert len(Page(folder / "in_corrected" / "report.html").images) == 4
    os.utime(folder / "in" / "sub" / "z.tif", (1, 1))  # another version: its picture is not the one before
    run("report", folder / "in_corrected", "--to", folder / "third")
    assert len(Page(folder / "third" / "report.html").images) == 3


def test_the_most_doubtful_come_first_and_have_the_pictures(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "PICTURED", 2)
    out = tmp_path / "out"
    out.mkdir()
    made = Report(tmp_path / "r", out)
    for name, reports in {
        "good.tif": (GOOD,),
        "none.tif": (PlaneReport(),),
        "worst.tif": (GOOD, DOUBTFUL),
        "=formula.tif": (GOOD, PlaneReport(0.1, 0.2, 0.985, 0.1, 4.0)),
    }.items():
        tifffile.imwrite(out / name, np.zeros((32, 32), np.uint16))
        made.add(
            Result(Job(out / name, out / name), Status.DONE, Outcome(Job(out / name, out / name), reports=reports))
        )
    made.add(
        Result(Job(out / "x.tif", out / "x.tif"), Status.FAILED, None, DefocusError("x\x1b[2J.tif", "bad", "mend"))
    )
    made.write()
    page = Page(tmp_path / "r" / "report.html")
    assert [row[0] for row in page.rows if row] == ["x.tif", "worst.tif", "=formula.tif", "good.tif", "none.tif"]
    assert len(page.images) == 4
    assert "\x1b" not in (tmp_path / "r" / "report.html").read_text()
    rows = table(tmp_path / "r" / "report.csv")
    assert [row["file"] for row in rows][:2] == ["x.tif", "worst.tif"]
    assert rows[3]["file"] == "'=formula.tif"  # which no spreadsheet reckons
    assert [row["verdict"] for row in rows if row["file"] == "worst.tif"] == ["consistent", "doubtful"]


def test_a_long_stack_says_what_its_planes_come_to(tmp_path):
    many = ReportedFile("a.tif", "done", {"count": LISTED + 1, "copied": 2, "blur_px": {"min": 1.0, "median": 3.0}})
    (row,) = module._rows(many)
    assert (row["plane"], row["kept"], row["blur_px"]) == (f"all {LISTED + 1}", 2, 3.0)


def test_no_verdict_of_an_output_is_reckoned_by_a_spreadsheet():
    (row,) = module._rows(ReportedFile("a.tif", "done", [{"verdict": "=cmd|' /C calc'!A0", "focus_in": "=1+1"}]))
    assert (row["verdict"], row["focus_in"]) == ("'=cmd|' /C calc'!A0", None)


def test_folders_that_give_no_report(tmp_path):
    with pytest.raises(InputError, match="no such folder"):
        list(of_outputs(tmp_path / "none"))
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError):
        Report(tmp_path / "file", tmp_path)
    tifffile.imwrite(tmp_path / "other.tif", np.zeros((32, 32), np.uint16))
    done = run("report", tmp_path)
    assert done.returncode == 1
    assert "holds no file that defocus made" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("include", "exclude", "names"),
    [
        ((), (), ["a_w1.tif", "a_w2.tif", "plate2/b_w1.tif"]),
        (("*_w1*",), (), ["a_w1.tif", "plate2/b_w1.tif"]),
        (("plate2/*", "a_w2.tif"), (), ["a_w2.tif", "plate2/b_w1.tif"]),
        ((), ("plate2/*",), ["a_w1.tif", "a_w2.tif"]),
        (("*_w1*",), ("plate2/*",), ["a_w1.tif"]),
    ],
)
def test_a_run_takes_what_is_included_and_not_excluded(tmp_path, include, exclude, names):
    for name in ("a_w1.tif", "a_w2.tif", "plate2/b_w1.tif"):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).write_bytes(b"")
    jobs = find([tmp_path / "in"], tmp_path / "out", include, exclude)
    assert sorted(job.target.relative_to(tmp_path / "out").as_posix() for job in jobs) == names
    with pytest.raises(InputError, match="leaves no file"):
        find([tmp_path / "in"], tmp_path / "out", ["nothing*"])
