"""The install command of a part that is missing, and packages that are too old."""

from __future__ import annotations

import json
import sys
from importlib import metadata
from pathlib import Path

import pytest

from defocus.engine.cli import doctor, run
from defocus.engine.errors import ErrorCode, MissingExtraError, old_packages
from defocus.engine.installation import install_command, outdated


@pytest.fixture
def package(tmp_path):
    """A function `package(name, version, *lines)` that makes the metadata of an installed package; its folder."""

    def make(name: str, version: str, *lines: str) -> Path:
        folder = tmp_path / "site" / f"{name}-{version}.dist-info"
        folder.mkdir(parents=True)
        head = ["Metadata-Version: 2.4", f"Name: {name}", f"Version: {version}", *lines]
        (folder / "METADATA").write_text("\n".join(head) + "\n", encoding="utf-8")
        return folder

    return make


@pytest.fixture
def installed_from(package, tmp_path, monkeypatch):
    """A function that makes a defocus installed from `came_from` (the content of direct_url.json, if any)."""
    folder = package("defocus", "9.9")
    monkeypatch.syspath_prepend(tmp_path / "site")

    def make(came_from: dict | None) -> None:
        if came_from is not None:
            (folder / "direct_url.json").write_text(json.dumps(came_from), encoding="utf-8")

    return make


def test_a_clone_is_installed_from_again_as_it_was(installed_from, tmp_path):
    clone = tmp_path / "my clone"
    clone.mkdir()
    (clone / "pyproject.toml").touch()
    installed_from({"url": clone.as_uri(), "dir_info": {"editable": True}})
    assert install_command("cpu") == f'pip install --editable "{clone}[cpu]"'
    installed_from({"url": clone.as_uri(), "dir_info": {}})
    assert install_command("cpu", "train") == f'pip install "{clone}[cpu,train]"'
    assert str(MissingExtraError("torch", "train", "training")).endswith(f'pip install "{clone}[train]"')
    (clone / "pyproject.toml").unlink()
    assert install_command("cpu") == 'pip install ".[cpu]" in a clone of the repository'


def test_a_wheel_is_named_while_it_is_there(installed_from, tmp_path):
    wheel = tmp_path / "defocus-9.9-py3-none-any.whl"
    wheel.touch()
    installed_from({"url": wheel.as_uri(), "archive_info": {}})
    assert install_command("cpu", options="--force-reinstall") == f'pip install --force-reinstall "{wheel}[cpu]"'
    wheel.unlink()
    assert install_command("cpu") == 'pip install ".[cpu]" in a clone of the repository'


def test_addresses_and_an_index(installed_from):
    installed_from(None)
    assert install_command("cpu") == 'pip install "defocus[cpu]"'
    installed_from({"url": "https://x.org/defocus-9.9-py3-none-any.whl", "archive_info": {}})
    assert install_command("cpu") == 'pip install "defocus[cpu] @ https://x.org/defocus-9.9-py3-none-any.whl"'
    installed_from({"url": "https://x.org/d.git", "vcs_info": {"vcs": "git", "commit_id": "abc"}})
    assert install_command("cpu") == 'pip install "defocus[cpu] @ git+https://x.org/d.git"'
    installed_from({"url": "https://x.org/d.git", "vcs_info": {"vcs": "git", "requested_revision": "v1"}})
    assert install_command("cpu") == 'pip install "defocus[cpu] @ git+https://x.org/d.git@v1"'


def test_the_quick_look_finds_what_importlib_finds():
    """With minimums above everything: each package of the base is found with the version that importlib reads."""
    needed = [one for one in metadata.requires("defocus") or [] if ";" not in one]
    assert len(needed) > 5
    names = [one.split(">=")[0] for one in needed]
    assert outdated() == {}
    for name in names:  # what it reads, read by the other
        folder = Path(str(metadata.distribution(name).locate_file("")))
        assert (folder / f"{name.replace('-', '_')}-{metadata.version(name)}.dist-info").is_dir()


@pytest.mark.parametrize(
    ("version", "needed", "old"),
    [
        ("2024.12.30", "2025.1", True),
        ("2025.1", "2025.1", False),
        ("2025.1.0", "2025.1", False),
        ("2025", "2025.1", True),
        ("2025.10.3", "2025.2", False),
        ("2025.1rc1", "2025.1", False),
        ("2025.1.post1+local", "2025.1", False),
        ("9", "10", True),
        ("1!2", "10", True),
        ("unknown", "10", False),
    ],
)
def test_versions_are_compared_as_numbers(package, tmp_path, version, needed, old):
    package("defocus", "9.9", f"Requires-Dist: some.thing>={needed}", "Requires-Dist: other>=99; extra == 'x'")
    package("Some_Thing", version)
    package("other", "1")
    assert outdated([str(tmp_path / "site")]) == ({"some.thing": (version, needed)} if old else {})


def test_the_first_on_the_path_counts_and_what_cannot_be_told_is_new_enough(package, tmp_path):
    assert outdated([str(tmp_path / "nowhere")]) == {}
    package("defocus", "9.9", "Requires-Dist: tifffile>=2025.1", "Requires-Dist: absent>=1")
    site, later = tmp_path / "site", tmp_path / "later" / "tifffile-2020.1.1.dist-info"
    later.mkdir(parents=True)
    package("tifffile", "2025.3")
    assert outdated([str(site), str(later.parent)]) == {}
    assert outdated([str(later.parent), str(site)]) == {"tifffile": ("2020.1.1", "2025.1")}


def test_every_command_names_an_old_tifffile_and_the_remedy_and_no_file(package, tmp_path, monkeypatch, capsys):
    package("tifffile", "2020.1.1")
    monkeypatch.syspath_prepend(tmp_path / "site")
    error = old_packages()
    assert error is not None
    assert error.code == ErrorCode.OLD_PACKAGE
    monkeypatch.setattr(sys, "argv", ["defocus-run", str(tmp_path / "a.tif"), "-o", str(tmp_path / "out")])
    with pytest.raises(SystemExit) as left:
        run.main()
    said = capsys.readouterr().err
    assert left.value.code == 1
    assert said.startswith("defocus-run: tifffile 2020.1.1: too old, defocus needs tifffile 20")
    assert len(said.splitlines()) == 1
    assert 'pip install "tifffile>=20' in said


def test_the_doctor_tells_of_an_old_package_among_the_rest(package, tmp_path, monkeypatch, capsys, tiny_model):
    package("tifffile", "2020.1.1")
    monkeypatch.syspath_prepend(tmp_path / "site")
    monkeypatch.setattr(sys, "argv", ["defocus-doctor", "--model", str(tiny_model)])
    with pytest.raises(SystemExit) as left:
        doctor.main()
    assert left.value.code == 1
    (line,) = [one for one in capsys.readouterr().out.splitlines() if one.startswith("TOO OLD")]
    assert "tifffile 2020.1.1" in line
    assert 'pip install "tifffile>=' in line
