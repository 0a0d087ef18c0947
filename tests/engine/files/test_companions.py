"""Companion files are copied beside the outputs, again when they change, and never over somebody else's file."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import pytest

from defocus.engine.files.companions import COMPANIONS, Companions
from defocus.engine.files.folders import make_folders
from defocus.engine.formats.other_formats import other_formats


@pytest.fixture
def folders(tmp_path) -> tuple[Path, Path]:
    for name in ("in/plate", "out"):
        (tmp_path / name).mkdir(parents=True)
    return tmp_path / "in", tmp_path / "out"


def copy(folders: tuple[Path, Path], patterns: tuple[str, ...] = COMPANIONS) -> list[str]:
    companions = Companions(*folders, patterns)
    companions.add(Path("plate/a.tif"))
    return list(companions.copy())


def test_what_belongs_to_an_acquisition_is_copied_and_nothing_else(folders):
    source, out = folders
    for name in ("exp.companion.ome", "plate/metadata.txt", "plate/Scan.htd", "plate/notes.txt", "plate/a.tif"):
        (source / name).write_text(name)
    assert copy(folders) == []
    found = sorted(path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file())
    assert found == [".defocus/companions.json", "exp.companion.ome", "plate/Scan.htd", "plate/metadata.txt"]
    assert (out / "plate" / "metadata.txt").read_text() == "plate/metadata.txt"


def test_one_that_changes_is_copied_again_but_never_over_somebody_elses(folders):
    source, out = folders
    for text in ("one", "another"):
        (source / "comments.txt").write_text(text)
        assert copy(folders) == []
        assert (out / "comments.txt").read_text() == text
    (out / "comments.txt").write_text("mine")
    (source / "comments.txt").write_text("third")
    (line,) = copy(folders)
    assert "not replaced" in line
    assert (out / "comments.txt").read_text() == "mine"


def test_none_turns_it_off(folders):
    (folders[0] / "comments.txt").write_text("one")
    assert copy(folders, ("none",)) == []
    assert list(folders[1].iterdir()) == []


@pytest.mark.parametrize("compressed", [0, 1])
def test_an_index_that_would_be_wrong_is_left_out_with_a_line(folders, compressed):
    names = b"".join(struct.pack("<I", len(text)) + text for text in (b'{"time": 0}', b"a.tif"))
    (folders[0] / "plate" / "NDTiff.index").write_bytes(names + struct.pack("<8I", 90, 8, 8, 1, compressed, 300, 9, 0))
    lines = copy(folders)
    assert bool(lines) == bool(compressed)
    assert (folders[1] / "plate" / "NDTiff.index").exists() != bool(compressed)


def test_folders_get_no_more_rights_than_those_of_the_inputs(tmp_path):
    (tmp_path / "acq" / "private").mkdir(parents=True)
    (tmp_path / "acq" / "private").chmod(0o700)
    make_folders(tmp_path / "out" / "private", tmp_path / "acq" / "private")
    assert (tmp_path / "out" / "private").stat().st_mode & 0o077 == 0


def test_other_formats_are_named_with_a_way_to_tiffs(tmp_path):
    assert other_formats(tmp_path) is None
    for name in ("a.oib", "b.OIB", "c.czi", "notes.txt"):
        (tmp_path / name).write_bytes(b"")
    line = other_formats(tmp_path)
    assert line is not None
    assert "2 .oib, 1 .czi; export them in FluoView" in line


@pytest.mark.parametrize("name", ["a.jpeg", "a.JPG", "a.hdf5", "a.qptiff", "a.scn", "a.bif", "a.flex", "a.sif"])
def test_a_folder_of_one_other_format_says_how_to_export_it(name, tmp_path):
    (tmp_path / name).write_bytes(b"")
    assert f"holds no TIFF, but 1 {Path(name).suffix.lower()}; export it " in (other_formats(tmp_path) or "")


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such pipes")
def test_no_link_or_pipe_decides_what_is_read_or_where_it_goes(folders, tmp_path):
    source, out = folders
    secret, elsewhere = tmp_path / "secret", tmp_path / "elsewhere"
    secret.write_text("secret")
    elsewhere.mkdir()
    (source / "comments.txt").symlink_to(secret)
    (source / "DisplaySettings.json").symlink_to("/dev/zero")
    os.mkfifo(source / "exp.companion.ome")
    (source / "metadata.txt").write_text("fine")
    os.mkfifo(out / "metadata.txt")
    (source / "plate" / "metadata.txt").write_text("fine")
    (out / "plate").symlink_to(elsewhere)
    lines = copy(folders)
    assert len(lines) == 2
    assert any("through a link" in line for line in lines)
    assert any("not replaced" in line for line in lines)
    assert not list(elsewhere.iterdir())
    assert sorted(path.name for path in out.iterdir()) == ["metadata.txt", "plate"]
