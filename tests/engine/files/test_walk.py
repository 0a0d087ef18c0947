"""Trees of folders: what is seen, what is entered, and what cannot be listed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from defocus.engine.files.walk import walk


@pytest.fixture
def tree(tmp_path) -> Path:
    for name in ("a/inner/x.tif", "b/y.tif", "z.tif"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    return tmp_path


def test_each_folder_comes_before_those_below_it(tree):
    found = [(folder, sorted(folders), sorted(files)) for folder, folders, files in walk(tree)]
    assert found[0] == (tree, ["a", "b"], ["z.tif"])
    assert sorted(found[1:]) == [
        (tree / "a", ["inner"], []),
        (tree / "a" / "inner", [], ["x.tif"]),
        (tree / "b", [], ["y.tif"]),
    ]
    folders = [folder for folder, _, _ in found]
    assert folders.index(tree / "a" / "inner") == folders.index(tree / "a") + 1  # a branch to its end, then the next


def test_the_list_of_folders_says_which_are_entered_and_in_which_order(tree):
    seen = []
    for folder, folders, _ in walk(tree):
        seen.append(folder.name)
        folders[:] = sorted((name for name in folders if name != "inner"), reverse=True)
    assert seen == [tree.name, "b", "a"]


@pytest.mark.skipif(os.name == "nt", reason="links need a privilege")
def test_links_are_seen_and_folders_behind_them_not_entered(tree):
    (tree / "b" / "up").symlink_to(tree, target_is_directory=True)
    (tree / "b" / "nowhere").symlink_to(tree / "none")
    (tree / "b" / "file").symlink_to(tree / "z.tif")
    found = {folder: (folders, sorted(files)) for folder, folders, files in walk(tree)}
    assert found[tree / "b"] == (["up"], ["file", "nowhere", "y.tif"])
    assert len(found) == 4


def test_a_folder_that_cannot_be_listed_is_told_and_the_others_are_seen(tree):
    told: list[OSError] = []
    seen = []
    for folder, folders, _ in walk(tree, told.append):
        seen.append(folder.name)
        if folder == tree:
            folders[:] = ["a", "gone", "z.tif", "b"]
    assert seen == [tree.name, "a", "inner", "b"]
    assert [type(error) for error in told] == [FileNotFoundError, NotADirectoryError]
    assert [folder.name for folder, _, _ in walk(tree / "gone")] == []  # nobody asked to be told


def test_an_entry_whose_kind_cannot_be_found_out_is_a_file(tree, monkeypatch):
    class Entry:
        name = "odd"

        def is_dir(self) -> bool:
            raise OSError("stat failed")

        def is_symlink(self) -> bool:
            return False

    class Listing(list):
        def __enter__(self):
            return self

        def __exit__(self, *error: object) -> None:
            pass

    monkeypatch.setattr(os, "scandir", lambda folder: Listing([Entry()]))
    assert list(walk(tree)) == [(tree, [], ["odd"])]
