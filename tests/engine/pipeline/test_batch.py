from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile

from defocus.engine.errors import InputError
from defocus.engine.pipeline.batch import find


def write(path: Path, seed=0, shape=(40, 50)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(path, np.random.default_rng(seed).integers(100, 4000, shape, np.uint16), compression="lzw")
    return path


@pytest.fixture
def folder(tmp_path) -> Path:
    root = tmp_path / "acq µ 1"
    for seed, name in enumerate(("b.tif", "a.TIFF", "well 1/c.tif", "well 1/deep/d.ome.tif")):
        write(root / name, seed)
    (root / "notes.txt").write_text("no image")
    (root / "._a.tif").write_text("what a Mac leaves")
    (root / ".hidden").mkdir()
    (root / ".hidden" / "e.tif").write_text("hidden")
    return root


def program(*arguments: str | Path, **options) -> subprocess.CompletedProcess[str]:
    command = [Path(sys.executable).with_name("defocus-run"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, **options)


def snapshot(root: Path) -> dict[str, tuple[int, bytes]]:
    return {str(p.relative_to(root)): (p.stat().st_mtime_ns, p.read_bytes()) for p in root.rglob("*") if p.is_file()}


def pairs(jobs, root: Path, out: Path) -> dict[str, str]:
    return {j.source.relative_to(root).as_posix(): j.target.relative_to(out).as_posix() for j in jobs}


# --- finding


def test_a_folder_is_mirrored(folder, tmp_path):
    jobs = find([folder], tmp_path / "out")
    names = ["a.TIFF", "b.tif", "well 1/c.tif", "well 1/deep/d.ome.tif"]
    assert pairs(jobs, folder, tmp_path / "out") == {name: name for name in names}


def test_files_and_globs(folder, tmp_path):
    out = tmp_path / "out"
    assert pairs(find([folder / "well 1/c.tif"], out), folder, out) == {"well 1/c.tif": "c.tif"}
    assert pairs(find([f"{folder}/*.tif"], out), folder, out) == {"b.tif": "b.tif"}
    assert pairs(find([f"{folder}/*/c.t?f"], out), folder, out) == {"well 1/c.tif": "well 1/c.tif"}
    assert len(find([f"{folder}/**/*.tif"], out)) == 3
    odd = write(folder / "odd[1].tif")  # a name that looks like a glob is still itself
    assert [job.source for job in find([odd], out)] == [odd]


def test_a_file_named_twice_is_done_once(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(folder)
    jobs = find(["b.tif", folder / "b.tif", "./b.tif", f"{folder}/*.tif", folder], tmp_path / "out")
    assert sorted(job.target.name for job in jobs) == ["a.TIFF", "b.tif", "c.tif", "d.ome.tif"]


def test_what_cannot_be_found_is_said(folder, tmp_path):
    (tmp_path / "bare").mkdir()
    for given, cause in (
        ("nowhere", "nowhere: no such file or folder"),
        ("nowhere/*.tif", r"nowhere/\*.tif: matches no file"),
        (tmp_path / "bare", "bare: holds no file that ends in .tif"),
    ):
        with pytest.raises(InputError, match=cause):
            find([folder, given], tmp_path / "out")


def test_outputs_may_not_lie_inside_an_input_folder(folder, tmp_path):
    (tmp_path / "link").symlink_to(folder)
    for out in (folder, folder / "out", folder / "well 1", tmp_path / "link" / "out", f"{folder}/../{folder.name}"):
        for given in (folder, f"{folder}/**/*.tif"):
            with pytest.raises(InputError, match=r"is the input folder itself|lies inside the input folder"):
                find([given], out)
    assert find([folder], tmp_path / "acq µ 1 corrected")  # a name that only begins alike is another folder
    assert find([folder / "b.tif"], folder / "out")  # a single file next to its result is the user's choice


def test_outputs_may_not_meet(folder, tmp_path):
    write(tmp_path / "other" / "b.tif")
    with pytest.raises(InputError, match=r"b\.tif and .*b\.tif: would both be written to .*b\.tif; use different"):
        find([folder, tmp_path / "other"], tmp_path / "out")


def test_an_output_may_not_replace_an_input(folder, tmp_path):
    for inputs, out in (
        ([folder / "b.tif"], folder),
        ([f"{folder}/*.tif"], folder),
        ([folder / "well 1" / "c.tif", write(folder / "c.tif")], folder),
    ):
        with pytest.raises(InputError, match=r"an output would replace it|would both be written to"):
            find(inputs, out)


# --- the program


def test_a_folder_end_to_end(folder, tmp_path, tiny_model):
    before = snapshot(folder)
    out = tmp_path / "out"
    done = program(folder, "-o", out, "--model", tiny_model, "--json", "--all-planes")
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(lines) == 4
    for line in lines:
        keys = {"source", "target", "status", "error", "code", "shape", "dtype", "axes", "planes", "reports", "seconds"}
        assert set(line) == keys | {"images", "notes"}
        assert (line["status"], line["error"], line["code"]) == ("done", None, None)
        assert (line["shape"], line["dtype"]) == ([40, 50], "uint16")
        assert (line["axes"], line["planes"]) == ("YX", 1)
        assert set(line["seconds"]) == {"read", "infer", "assess", "write"}
        source, target = tifffile.imread(line["source"]), tifffile.imread(line["target"])
        assert target.shape == source.shape
        assert target.dtype == source.dtype
        assert not np.array_equal(target, source)
    assert done.stderr.startswith("defocus-run: 4 done, 0 skipped, 0 failed in ")
    assert snapshot(folder) == before
    assert sorted(p.name for p in out.rglob("*") if p.is_file()) == ["a.TIFF", "b.tif", "c.tif", "d.ome.tif"]


def test_what_is_done_is_skipped(folder, tmp_path, tiny_model, make_model):
    out = tmp_path / "out"
    options = ["-o", out, "--model", tiny_model]
    done = program(folder, *options, "--json")
    assert "4 done" in done.stderr
    first = snapshot(out)
    again = program(folder, *options, "--json")
    assert again.returncode == 0
    assert "0 done, 4 skipped, 0 failed" in again.stderr
    before, after = (
        {(line := json.loads(text))["source"]: line for text in run.stdout.splitlines()} for run in (done, again)
    )
    for line in after.values():  # the same is known of it
        assert line["status"] == "skipped"
        assert line | {"status": "done", "seconds": {}} == before[line["source"]] | {"seconds": {}}
    assert snapshot(out) == first

    write(folder / "b.tif", seed=9)  # a new version of one file
    assert "1 done, 3 skipped" in program(folder, *options).stderr
    other = make_model(tmp_path / "other.onnx", name="other")
    assert "4 done, 0 skipped" in program(folder, "-o", out, "--model", other).stderr
    assert "4 done, 0 skipped" in program(folder, "-o", out, "--model", other, "--overwrite").stderr


@pytest.mark.parametrize(
    ("first", "then", "named"),
    [
        ((), ("--tile", "48"), "--tile"),
        (("--halo", "5"), ("--halo", "40", "--per-stack"), "--per-stack, --halo"),
        (("--all-planes",), (), "--all-planes"),
        ((), ("--keep-doubtful", "original"), "--keep-doubtful"),
        (("--tile", "50", "--halo", "5", "--per-stack"), ("--tile", "50", "--halo", "5", "--per-stack"), None),
    ],
)
def test_a_skipped_file_that_other_options_made_says_overwrite(tmp_path, tiny_model, first, then, named):
    write(tmp_path / "raw" / "a.tif")
    options = [tmp_path / "raw", "-o", tmp_path / "out", "--model", tiny_model]
    assert "1 done" in program(*options, *first).stderr
    done = program(*options, *then)
    assert "0 done, 1 skipped" in done.stderr
    remedy = f"1 of the skipped files was made with another {named}; --overwrite corrects everything again"
    assert ("--overwrite" in done.stderr) is (named is not None)
    assert named is None or done.stderr.splitlines()[-1] == f"defocus-run: {remedy}"
    assert "--overwrite" not in program(*options, *then, "--overwrite").stderr


def test_an_output_that_was_cut_short_is_made_anew(folder, tmp_path, tiny_model):
    out = tmp_path / "o"
    assert program(folder, "-o", out, "--model", tiny_model).returncode == 0
    cut = next(path for path in sorted(out.rglob("*.tif")))
    whole = cut.read_bytes()
    cut.write_bytes(whole[: len(whole) - 100])
    program(folder, "-o", out, "--model", tiny_model)
    assert cut.read_bytes() == whole


def test_bad_files_are_reported_and_the_rest_goes_on(folder, tmp_path, tiny_model):
    whole = (folder / "b.tif").read_bytes()
    (folder / "cut.tif").write_bytes(whole[: len(whole) // 2])
    (folder / "text.tif").write_text("a text")
    (folder / "empty.tif").write_bytes(b"")
    before = snapshot(folder)
    done = program(folder, "-o", tmp_path / "out", "--model", tiny_model, "--json")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    results = {Path(line["source"]).name: line for line in map(json.loads, done.stdout.splitlines())}
    codes = {name: line["code"] for name, line in results.items() if line["status"] == "failed"}
    assert codes == {"cut.tif": "truncated", "text.tif": "not_tiff", "empty.tif": "empty"}
    errors = done.stderr.splitlines()
    assert len(errors) == 4  # a line a file, and the summary
    for name in ("cut.tif", "text.tif", "empty.tif"):
        assert name in results[name]["error"]
        assert results[name]["error"] in errors
    assert "4 done, 0 skipped, 3 failed" in errors[-1]
    assert snapshot(folder) == before
    assert not (tmp_path / "out" / "cut.tif").exists()


def test_files_of_others_are_not_replaced(folder, tmp_path, tiny_model):
    out = tmp_path / "out"
    write(out / "b.tif", seed=5)
    (out / "a.TIFF").write_text("notes of years")
    before = snapshot(out)
    done = program(folder, "-o", out, "--model", tiny_model)
    assert done.returncode == 1
    assert "b.tif: is there already and was not made by defocus; move it away" in done.stderr
    assert "a.TIFF: is there already and is no TIFF" in done.stderr
    assert "2 done, 0 skipped, 2 failed" in done.stderr
    assert {name: before[name] for name in before} == {name: snapshot(out)[name] for name in before}
    done = program(folder, "-o", out, "--model", tiny_model, "--overwrite")
    assert done.returncode == 0
    assert "4 done" in done.stderr


def test_one_line_for_what_cannot_start(folder, tmp_path, tiny_model):
    file = tmp_path / "file"
    file.write_text("")
    model = ["--model", tiny_model]
    for arguments, code, words in (
        ([tmp_path / "nowhere", "-o", tmp_path / "o", *model], 1, "nowhere: no such file or folder; check the path"),
        ([folder, "-o", folder / "out", *model], 1, "lies inside the input folder"),
        ([folder, "-o", file, *model], 1, "a file is in the place of a folder"),
        ([folder, "-o", tmp_path / "o", "--model", tmp_path / "no.onnx"], 1, "no.onnx: no such model file"),
        ([folder, "-o", tmp_path / "o", "--model", folder / "b.tif"], 1, "b.tif: not an ONNX file"),
        ([folder, "-o", tmp_path / "o", *model, "--backend", "quantum"], 1, "choose one of: auto, tensorrt, rtx"),
        ([folder, "-o", tmp_path / "o", *model, "--tile", "20"], 1, "tile 20: leaves no core"),
        ([folder, *model], 2, "Missing option"),
        (["-o", tmp_path / "o"], 2, "Missing argument 'INPUT'"),
        ([folder, "-o", tmp_path / "o", "--tile", "big"], 2, "--tile"),
    ):
        done = program(*arguments)
        assert done.returncode == code, done.stderr
        assert words in done.stderr
        assert done.stderr.count("\n") == 1, done.stderr
        assert done.stdout == ""


def test_no_permission_to_write(folder, tmp_path, tiny_model):
    out = tmp_path / "out"
    out.mkdir(mode=0o555)
    if os.access(out, os.W_OK):
        pytest.skip("root may write everywhere")
    done = program(folder, "-o", out, "--model", tiny_model)
    assert done.returncode == 1
    assert "no permission to write" in done.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_full_stdout_is_one_line(folder, tmp_path, tiny_model, monkeypatch, unbuffered):
    monkeypatch.setenv("PYTHONUNBUFFERED", unbuffered)
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "defocus.engine.cli.run", folder, "-o", tmp_path / "o", "--model", tiny_model]
        done = subprocess.run(
            [*map(str, command), "--json"], stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.endswith(": output cannot be written: the disk is full; free some space or send it elsewhere")


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_ctrl_c_leaves_whole_files_only(tmp_path, tiny_model):
    for seed in range(30):
        write(tmp_path / "in" / f"{seed}.tif", seed, (5, 300, 300))
    out = tmp_path / "out"
    command = [
        sys.executable,
        "-m",
        "defocus.engine.cli.run",
        tmp_path / "in",
        "-o",
        out,
        "--model",
        tiny_model,
        "--json",
    ]
    with subprocess.Popen(
        list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        assert process.stderr
        process.stdout.readline()
        process.send_signal(signal.SIGINT)
        assert process.wait(300) == 130
        assert "Traceback" not in process.stderr.read()
    written = list(out.iterdir())
    assert 1 <= len(written) < 30
    for path in written:
        assert path.suffix == ".tif"
        assert tifffile.imread(path).shape == (5, 300, 300)


def test_the_settings_arrive(folder, tmp_path, tiny_model):
    from defocus.engine.tiff.read import read_provenance

    options = ["--tile", "64", "--halo", "16", "--per-stack", "--threads", "1", "--backend", "cpu"]
    done = program(folder / "b.tif", "-o", tmp_path / "o", "--model", tiny_model, *options)
    assert done.returncode == 0, done.stderr
    account = read_provenance(tmp_path / "o" / "b.tif")
    assert account is not None
    wanted = {"tile": 64, "halo": 16, "per": "stack", "threads": 1}
    assert {key: account["settings"][key] for key in wanted} == wanted
    assert account["backend"].endswith("1 thread")


def processor_time_of_children() -> float:
    used = os.times()
    return used.children_user + used.children_system


def test_help_and_version_are_quick():
    start = processor_time_of_children()
    assert program("--version").stdout.startswith("defocus-run 0")
    assert "--per-stack" in program("--help", env={**os.environ, "COLUMNS": "200"}).stdout
    assert processor_time_of_children() - start < 5
    code = (
        "import sys, defocus.engine.cli.run\n"
        "print([m for m in ('numpy', 'tifffile', 'onnxruntime') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_real_files(tmp_path, tiny_model, shared_data):
    folder = shared_data / "bbbc006" / "defocused_w1_z00"
    sources = sorted(folder.glob("*.tif"))[:2]
    done = program(*sources, "-o", tmp_path, "--model", tiny_model)
    assert done.returncode == 0, done.stderr
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in sources}


def test_progress_within_a_file_is_told_where_it_is_asked_for(tmp_path, tiny_model):
    """Lines of their own before the file's, which stays as it is; without --progress there is only that."""
    write(tmp_path / "in" / "stack.tif", shape=(60, 40, 50))
    write(tmp_path / "in" / "plane.tif")
    command = (tmp_path / "in", "-o", tmp_path / "out", "--model", tiny_model, "--all-planes", "--json", "--overwrite")
    lines = [json.loads(line) for line in program(*command, "--progress").stdout.splitlines()]
    told = [line["progress"] for line in lines if "progress" in line]
    assert told
    assert {Path(one["source"]).name for one in told} == {"stack.tif"}
    assert all(0 < one["share"] < 1 for one in told)
    assert [one["share"] for one in told] == sorted(one["share"] for one in told)
    assert sum("status" in line for line in lines) == 2
    assert len(program(*command).stdout.splitlines()) == 2


@pytest.mark.skipif(os.name == "nt", reason="needs a pseudo-terminal")
def test_progress_within_a_file_shows_on_a_terminal(tmp_path, tiny_model):
    """The live line names the stack and tells how much of it is done."""
    import pty

    write(tmp_path / "in" / "stack.tif", shape=(300, 96, 96))
    ours, theirs = pty.openpty()
    command = [str(Path(sys.executable).with_name("defocus-run")), str(tmp_path / "in"), "-o", str(tmp_path / "out")]
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "100"}
    command += ["--model", str(tiny_model), "--all-planes"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=theirs, env=environment) as process:
        os.close(theirs)
        shown = b""
        with contextlib.suppress(OSError):  # Linux says so at the end
            while piece := os.read(ours, 4096):
                shown += piece
    os.close(ours)
    assert process.returncode == 0
    shares = [int(share) for share in re.findall(r"stack\.tif +(\d+)%", shown.decode(errors="replace"))]
    assert shares, shown[-2000:]
    assert shares == sorted(shares)
    assert any(0 < share < 100 for share in shares)
