"""The texts that run the daemon as a service: each is read back by the rules of the system that it is for."""

from __future__ import annotations

import os
import plistlib
import shutil
import subprocess
from pathlib import Path

import pytest

from defocus.engine.errors import InputError
from defocus.watcher.service.systemd import command_line, instructions

from ..conftest import command

NASTY = ["/acq/a b", "/acq/it's 100% $HOME", "--include=*_w1*", "/acq/back\\slash"]


@pytest.mark.parametrize(
    ("platform", "expected"),
    [
        ("linux", ["Type=notify", "WatchdogSec=", "ExecStart=/x/defocus-watch '/acq/a b' --polling", "ExecReload="]),
        ("darwin", ["<string>/acq/a b</string>", "<key>KeepAlive</key>"]),
        ("win32", ["Register-ScheduledTask", "-Argument '\"/acq/a b\" --polling'"]),
    ],
)
def test_service_texts(platform, expected):
    text = instructions(["/acq/a b", "--polling"], platform, "/x/defocus-watch")
    for part in expected:
        assert part in text


def test_install_service_prints_this_command(tmp_path):
    done = command(tmp_path, "--polling", "--install-service")
    assert done.returncode == 0
    assert f"{tmp_path} --polling" in done.stdout
    assert "--install-service" not in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_a_service_starts_in_another_folder(tmp_path):
    (tmp_path / "acq").mkdir()
    (tmp_path / "my.toml").write_text("settle = 1.0\n")
    given = ["acq", "-o", "out", "--config", "my.toml", "--model", "my.onnx", "--exclude", "*x", "--install-service"]
    done = command(*given, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    paths = f"{tmp_path}/acq --output={tmp_path}/out --config={tmp_path}/my.toml --model={tmp_path}/my.onnx"
    assert f"defocus-watch {paths} --exclude=*x\n" in done.stdout
    assert f"WorkingDirectory={tmp_path}\n" in done.stdout  # for relative paths in the settings file


@pytest.mark.parametrize("by_environment", [False, True])
def test_the_token_is_not_written_into_a_service(tmp_path, by_environment):
    environment = os.environ | ({"DEFOCUS_STATUS_TOKEN": "hush"} if by_environment else {})
    given = [] if by_environment else ["--status-token", "hush"]
    done = command(tmp_path, "--status", "0.0.0.0:8765", *given, "--install-service", env=environment)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert "write status_token = '...' into the settings file (--config)" in done.stderr
    assert "hush" not in done.stderr
    (tmp_path / "my.toml").write_text("status_token = 'hush'\n")
    done = command(tmp_path, "--config", tmp_path / "my.toml", *given, "--install-service", env=environment)
    assert done.returncode == 0
    assert "hush" not in done.stdout


def test_what_was_given_is_written_as_it_was_given():
    given = {"polling": True, "settle": 1.0, "include": ("*_w1*", "-x"), "order": None, "retries": 2}
    assert command_line([Path("/a")], {"output": None}, given) == [
        "/a",
        "--polling",
        "--settle=1.0",
        "--include=*_w1*",
        "--include=-x",
        "--retries=2",
    ]


def test_systemd_reads_its_unit(tmp_path):
    text = instructions(NASTY, "linux", "/bin/true", "/tmp")
    (line,) = [line for line in text.splitlines() if line.startswith("ExecStart=")]
    assert line == (r"ExecStart=/bin/true '/acq/a b' '/acq/it\'s 100%% $$HOME' --include=*_w1* '/acq/back\\slash'")
    if shutil.which("systemd-analyze"):
        unit = tmp_path / "defocus-watch.service"
        unit.write_text(text)
        done = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True, timeout=300)
        assert str(unit) not in done.stderr, done.stderr


def test_macos_reads_its_launch_agent():
    agent = plistlib.loads(instructions([*NASTY, "/a<b>&c"], "darwin", "/x/defocus-watch", "/home/me & you").encode())
    assert agent["ProgramArguments"] == ["/x/defocus-watch", *NASTY, "/a<b>&c"]
    assert agent["WorkingDirectory"] == "/home/me & you"
    assert agent["Label"] == "defocus-watch"
    assert agent["RunAtLoad"] is agent["KeepAlive"] is True


def test_powershell_reads_its_task():
    text = instructions(["C:\\it's a\\microscope’s", "--polling"], "win32", r"C:\x\defocus-watch", r"D:\my files")
    assert "-Argument '\"C:\\it''s a\\microscope’’s\" --polling'" in text
    assert r"-WorkingDirectory 'D:\my files'" in text


@pytest.mark.parametrize("platform", ["linux", "darwin", "win32"])
@pytest.mark.parametrize("folder", ["/tmp/x\nExecStartPre=/bin/touch /tmp/owned", "/tmp/\x1b[2J"])
def test_the_name_of_a_folder_adds_no_lines(platform, folder):
    with pytest.raises(InputError, match="has a name that cannot be written into a service"):
        instructions(["/acq"], platform, "/x/defocus-watch", folder)
    with pytest.raises(InputError):
        instructions(["/acq"], "linux", "/x/defocus-watch", "/tmp/x\\")  # would take the next line in
    for text in (folder, "/acq\nExecStartPre=/bin/false"):
        unit = instructions([text], "linux", "/x/defocus-watch", "/tmp")
        assert [line for line in unit.splitlines() if line.startswith("ExecStartPre")] == []


def test_no_secret_is_written_into_a_service(tmp_path):
    done = command(tmp_path, "--notify-url", "https://hooks.example/hush", "--install-service")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert "write notify_url = '...' into the settings file (--config)" in done.stderr
    assert "hush" not in done.stderr
