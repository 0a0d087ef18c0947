"""Settings: the file, what is refused, what goes before what."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
import typer.main

from defocus.engine.errors import InputError
from defocus.watcher.cli import app
from defocus.watcher.configuration.config import SETTINGS, Config, Folder
from defocus.watcher.queue import Order

from ..conftest import command


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
    taken = {one.name for one in typer.main.get_command(app).params}
    own = {"acquisition", "out", "config", "once", "dry_run", "print_config", "install_service", "version"}
    assert taken - own == set(SETTINGS) == {one.name for one in fields(Config)} - {"folders", "typed", "file"}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("channels = '*_w1*'", r'channels is "\*_w1\*": has no \{channel\}; write something like'),
        ("partner_wait = -1", "partner_wait is -1; use 0 or more"),
        ("chanels = 'x'", 'did you mean "channels"'),
        ("setle = 3", r'unknown key "setle"; did you mean "settle"\?'),
        ("[[folders]]\nacquisition = 'x'\nna = 3", "folders.na is 3; use 2 or less"),
        ("[[folders]]\nacquisition = 'x'\nna = nan", "folders.na is nan; use a number"),
        ("[[folders]]\nacquisition = 'x'\npixel_size_um = -0.1", "folders.pixel_size_um is -0.1; use 0 or more"),
        ("settle = 'long'", "settle is 'long'; write something like settle = 2.0"),
        ("settle = -1", "settle is -1; use 0 or more"),
        ("retries = 0", "retries is 0; use 1 or more"),
        ("settle = nan", "settle is nan; use a number"),
        ("memory = inf", "memory is inf; use a number"),
        ("memory = 1e300", r"memory is 1e\+300; use 1000000 or less"),
        ("settle = " + "9" * 400, "settle is 9{30}; use 86400 or less"),
        ("keep_days = 1e12", "use 36500 or less"),
        ("priority = 'high'", 'priority is "high"; use low or normal'),
        ("x = " + "[" * 5000 + "]" * 5000, "is not valid TOML .nested too deeply.; see defocus-watch --print-config"),
        ("[[folders]]\nacquisition = ''", "a folder without an acquisition path"),
        ("retries = true", "retries is True"),
        ("keep_doubtful = 'no'", 'keep_doubtful is "no"; use original or corrected'),
        ("order = 'random'", 'order is "random"; use oldest or newest'),
        ("include = '*.tif'", "include is"),
        ("folders = 'x'", "is not a list of tables"),
        ("[[folders]]\noutput = 'x'", "a folder without an acquisition path"),
        ("[[folders]]\nacquisitoin = 'x'", 'did you mean "folders.acquisition"'),
        ("settle = ", "is not valid TOML .*; see defocus-watch --print-config"),
        (
            r"[[folders]]" "\n" r'acquisition = "C:\acq"',
            r"is not valid TOML .*; write paths with / or in single quotes",
        ),
        (r'model = "C:\Users\me\my.onnx"', r"is not valid TOML .*; write paths with / or in single quotes"),
        (r'model = "D:\temp\my.onnx"', "write paths with / or in single quotes"),
        (r'model = "D:\temp"', r"model is 'D:\\temp', with a control character in it; write paths with /"),
        (
            r"[[folders]]" "\n" r'acquisition = "D:\new"',
            "folders.acquisition is .*; write paths with / or in single quotes",
        ),
    ],
)
def test_bad_settings_are_one_line(tmp_path, text, says):
    path = tmp_path / "defocus.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=says) as caught:
        Config.load(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_settings_file_of_megabytes_is_one_short_line(tmp_path):
    path = tmp_path / "defocus.toml"
    path.write_text("model = '" + "x" * 2_000_000 + "'")
    with pytest.raises(InputError, match="is larger than a megabyte"):
        Config.load(path)
    path.write_text("settle = '" + "x" * 1_000_000 + "'")
    with pytest.raises(InputError) as caught:
        Config.load(path)
    assert len(str(caught.value)) < 10_000


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-be"])
def test_a_file_is_read_however_windows_wrote_it(tmp_path, encoding):
    """PowerShell's `>` writes UTF-16, Notepad may put a mark before UTF-8; lines end in CR LF."""
    path = tmp_path / "defocus.toml"
    mark = "\ufeff" if encoding == "utf-16-be" else ""
    path.write_bytes(f"{mark}settle = 3.0\r\nmodel = 'D:\\Müller\\my.onnx'\r\n".encode(encoding))
    config = Config.load(path)
    assert (config.settle, config.model) == (3.0, r"D:\Müller\my.onnx")


def test_a_file_of_an_old_code_page_is_refused(tmp_path):
    path = tmp_path / "defocus.toml"
    path.write_bytes("model = 'Müller'".encode("cp1252"))
    with pytest.raises(InputError, match="is not written in UTF-8; save it as UTF-8"):
        Config.load(path)


def test_flags_go_before_the_file_and_secrets_are_not_printed(tmp_path):
    path = tmp_path / "defocus.toml"
    path.write_text("settle = 9.0\nrescan = 7.0\nstatus_token = 'hush'\n[[folders]]\nacquisition = '/acq'\n")
    done = command("--config", path, "--settle", "1", "--print-config")
    assert done.returncode == 0, done.stderr
    assert "settle = 1.0" in done.stdout
    assert "rescan = 7.0" in done.stdout
    assert 'acquisition = "/acq"' in done.stdout
    assert "hush" not in done.stdout
    assert "# status_token = '...'  # it is set, but secret" in done.stdout
    path.write_text(done.stdout)
    assert Config.load(path).settle == 1
    missing = command("--config", tmp_path / "no.toml")
    assert missing.returncode == 1
    assert missing.stderr.count("\n") == 1


def test_settings_of_several_folders():
    daemon = Config(folders=(Folder("/a", "/o"), Folder("/b")), order="newest", settle=1).daemon_settings(once=True)
    first, second = daemon.folders
    assert (first.acquisition, first.out, second.out) == (Path("/a"), Path("/o"), Path("/b_corrected").resolve())
    assert first.order is Order.NEWEST
    assert daemon.once
    assert first.timing.settle == 1
    with pytest.raises(InputError, match="no folder to watch"):
        Config().settings()


def test_one_output_for_two_folders_is_refused(tmp_path):
    done = command(tmp_path, tmp_path, "-o", tmp_path / "out")
    assert done.returncode == 1
    assert "is one output folder" in done.stderr


def test_no_folder_is_one_line_with_one_name():
    done = command("--backend", "cpu")
    assert done.returncode == 1
    assert done.stderr.count("defocus-watch:") + done.stderr.count("cli.py:") == 1
    assert "no folder to watch; give ACQ" in done.stderr


def test_a_folder_given_twice_is_called_that(tmp_path, tiny_model):
    (tmp_path / "acq").mkdir()
    (tmp_path / "other").mkdir()
    model = ("--model", tiny_model, "--backend", "cpu")
    done = command(tmp_path / "acq", tmp_path / "other" / ".." / "acq", *model)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "is given twice; give each folder once" in done.stderr
    text = f"[[folders]]\nacquisition = '{tmp_path}/acq'\noutput = '{tmp_path}/out'\n"
    (tmp_path / "my.toml").write_text(text + text.replace("/acq", "/other"))
    done = command("--config", tmp_path / "my.toml", *model)
    assert f"out: is the output folder of both {tmp_path}/acq and {tmp_path}/other" in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("option", "code", "says"),
    [
        ("--settle=nan", 2, "'--settle': nan is not possible; use a number"),
        ("--memory=inf", 2, "'--memory': inf is not possible; use a number"),
        ("--keep-days=1e12", 2, "use 36500 or less"),
        ("--order=random", 1, '--order: is "random"; use oldest or newest'),
        ("--channels=*_w1*", 1, '--channels: is "*_w1*": has no {channel}; write something like'),
        ("--status=8765x", 1, "--status: "),
        ("--notify-command='", 1, "--notify-command: "),
    ],
)
def test_an_error_of_the_command_line_speaks_of_the_option(tmp_path, tiny_model, option, code, says):
    (tmp_path / "acq").mkdir()
    done = command(tmp_path / "acq", "--once", "--model", tiny_model, "--backend", "cpu", option)
    assert (done.returncode, done.stderr.count("\n")) == (code, 1), done.stderr
    assert says in done.stderr
    assert option.removeprefix("--").partition("=")[0].replace("-", "_") + " " not in done.stderr.partition(says)[0]


def test_every_setting_is_printed_with_its_meaning():
    lines = Config().to_toml().splitlines()
    for name, setting in SETTINGS.items():
        (row,) = [number for number, line in enumerate(lines) if line.startswith(f"{name} = ")]
        assert lines[row - 1].startswith(f"# {setting.option.help}")


@pytest.mark.skipif(not hasattr(os, "getpriority"), reason="no niceness here")
@pytest.mark.parametrize(("option", "nice"), [((), 10), (("--priority", "normal"), 0)])
def test_the_acquisition_comes_first_unless_asked_otherwise(folders, start, option, nice):
    here = os.getpriority(os.PRIO_PROCESS, 0)
    watching = start(*option).ready()
    pid = watching.process.pid
    found = [os.getpriority(os.PRIO_PROCESS, int(thread)) for thread in os.listdir(f"/proc/{pid}/task")]
    assert set(found) == {max(here, nice)}
    assert watching.stop() == 0


SERVICE = ("-c", "import os; os.setsid(); from defocus.watcher.cli import main; main()")


@pytest.mark.skipif(not Path("/proc/self/autogroup").exists(), reason="sessions are not grouped here")
def test_low_priority_lowers_a_session_of_its_own_but_not_that_of_a_shell(folders, start):
    watching = start(program=SERVICE).ready()
    assert Path(f"/proc/{watching.process.pid}/autogroup").read_text().endswith(" nice 10\n")
    assert watching.stop() == 0
    # A new session, led by a shell that goes on after the command.
    lower = "from defocus.watcher.service.priority import lower_priority as l; l(); import os; print(os.nice(0))"
    shell = f"cat /proc/self/autogroup; {shlex.join([sys.executable, '-c', lower])}; cat /proc/self/autogroup"
    line = ["sh", "-c", shell]
    done = subprocess.run(line, start_new_session=True, capture_output=True, text=True, timeout=300, check=True)
    before, nice, after = done.stdout.splitlines()
    assert before == after
    assert before.endswith(" nice 0")
    assert int(nice) >= 10


def test_help_names_panels_breaks_at_words_and_takes_the_short_form():
    done = command("-h", env=os.environ | {"COLUMNS": "60", "TERM": "dumb"})
    assert done.returncode == 0
    for panel in {setting.option.panel for setting in SETTINGS.values()}:
        assert f" {panel} " in done.stdout
    words = set(re.findall(r"[a-z]{4,}", " ".join(setting.option.help for setting in SETTINGS.values())))
    assert words <= set(re.findall(r"[a-z]{4,}", done.stdout))


def test_the_root_of_a_disk_has_no_output_beside_it():
    with pytest.raises(InputError, match="give one with -o"):
        Config(folders=(Folder("/"),)).settings()
