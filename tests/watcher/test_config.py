"""Settings: the file, what is refused, what goes before what."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest

from defocus.engine.errors import InputError
from defocus.watcher.cli import watch
from defocus.watcher.config import Config, Folder
from defocus.watcher.line import Order

from .conftest import command


def test_what_is_printed_is_read_back(tmp_path):
    path = tmp_path / "defocus.toml"
    config = Config(
        folders=(Folder("/acq/a", "/out/a"), Folder('D:\\acq "b"')),
        settle=1.5,
        include=("*_w1*", "plate?/*"),
        order="newest",
        polling=True,
        channels="*_w{channel=1,2}{ignore}",
        partner_wait=5.0,
    )
    path.write_text(config.to_toml(), encoding="utf-8")
    assert Config.load(path) == config


def test_every_key_is_a_flag_and_the_other_way_round():
    flags = set(watch.__annotations__) - {"return", "acquisition", "out", "config", "once", "dry_run", "print_config"}
    flags -= {"install_service", "version"}
    assert flags == {one.name for one in fields(Config)} - {"folders"}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("channels = '*_w1*'", r'channels is "\*_w1\*": has no \{channel\}; write something like'),
        ("partner_wait = -1", "partner_wait is -1; use 0 or more"),
        ("chanels = 'x'", 'did you mean "channels"'),
        ("setle = 3", r'unknown key "setle"; did you mean "settle"\?'),
        ("settle = 'long'", "settle is 'long'; write something like settle = 2.0"),
        ("settle = -1", "settle is -1; use 0 or more"),
        ("retries = 0", "retries is 0"),
        ("retries = true", "retries is True"),
        ("order = 'random'", 'order = "oldest" or "newest"'),
        ("include = '*.tif'", "include is"),
        ("folders = 'x'", "is no list of tables"),
        ("[[folders]]\noutput = 'x'", "a folder without its acquisition path"),
        ("[[folders]]\nacquisitoin = 'x'", 'did you mean "folders.acquisition"'),
        ("settle = ", "is no TOML"),
    ],
)
def test_bad_settings_are_one_line(tmp_path, text, says):
    path = tmp_path / "defocus.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=says) as caught:
        Config.load(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_flags_go_before_the_file_and_secrets_are_not_printed(tmp_path):
    path = tmp_path / "defocus.toml"
    path.write_text("settle = 9.0\nrescan = 7.0\nstatus_token = 'hush'\n[[folders]]\nacquisition = '/acq'\n")
    done = command("--config", path, "--settle", "1", "--print-config")
    assert done.returncode == 0, done.stderr
    assert "settle = 1.0" in done.stdout
    assert "rescan = 7.0" in done.stdout
    assert 'acquisition = "/acq"' in done.stdout
    assert "hush" not in done.stdout
    missing = command("--config", tmp_path / "no.toml")
    assert missing.returncode == 1
    assert missing.stderr.count("\n") == 1


def test_settings_of_several_folders():
    first, second = Config(folders=(Folder("/a", "/o"), Folder("/b")), order="newest", settle=1).settings(once=True)
    assert (first.acquisition, first.out, second.out) == (Path("/a"), Path("/o"), Path("/b_corrected").resolve())
    assert first.order is Order.NEWEST
    assert first.once
    assert first.pace.settle == 1
    with pytest.raises(InputError, match="no folder to watch"):
        Config().settings()


def test_one_output_for_two_folders_is_refused(tmp_path):
    done = command(tmp_path, tmp_path, "-o", tmp_path / "out")
    assert done.returncode == 1
    assert "is one output folder" in done.stderr
