"""The daemon as a service: what systemd wants to hear, and the text of a unit, a launch agent or a Windows task.

Nothing is written or installed: `--install-service` prints what to do.
"""

from __future__ import annotations

import os
import re
import socket
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from ...engine.errors import InputError

SECRETS = {"status_token": "--status-token (or DEFOCUS_STATUS_TOKEN)", "notify_url": "--notify-url"}
_LINES = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


def notify_systemd(state: str, environment: dict[str, str] | None = None) -> bool:
    """Send a state such as "READY=1" to systemd (sd_notify(3)); False where nobody listens."""
    address = (os.environ if environment is None else environment).get("NOTIFY_SOCKET", "")
    if not address or not hasattr(socket, "AF_UNIX"):
        return False
    if address.startswith("@"):  # an abstract socket
        address = f"\0{address[1:]}"
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as link:
        link.connect(address)
        link.sendall(state.encode())
        return True
    return False


def watchdog(stuck: Callable[[], bool], stop: threading.Event) -> threading.Thread | None:
    """Ping systemd twice in each of its intervals as long as nothing is stuck; None where it asks for no pings."""
    microseconds = int(os.environ.get("WATCHDOG_USEC", "0") or 0)
    if not microseconds or not os.environ.get("NOTIFY_SOCKET"):
        return None

    def ping() -> None:
        while not stop.wait(microseconds / 2e6):
            if not stuck():
                notify_systemd("WATCHDOG=1")

    thread = threading.Thread(target=ping, name="defocus-watchdog", daemon=True)
    thread.start()
    return thread


def command_line(folders: Sequence[Path], paths: Mapping[str, Path | None], given: Mapping[str, Any]) -> list[str]:
    """The arguments that say the same from any working folder.

    Parameters
    ----------
    folders, paths : paths
        What is watched, and paths by the flags that take them: they become absolute.
    given : dict
        Values by their keys in the settings file; None for what was not given.

    Raises
    ------
    InputError
        A secret is among them: other users can read the text of a service, and its arguments.
    """
    for name, option in SECRETS.items():
        if given.get(name):
            cause = "would appear in the text of the service, which other users can read"
            remedy = f"write {name} = '...' into the settings file (--config), and let only the service's user read it"
            raise InputError(option, cause, remedy)
    arguments = [str(folder.absolute()) for folder in folders]
    arguments += [f"--{name}={path.absolute()}" for name, path in paths.items() if path is not None]
    for name, value in given.items():
        flag = f"--{name.replace('_', '-')}"
        if value is True:
            arguments.append(flag)
        elif value is not None:
            arguments += [f"{flag}={entry}" for entry in (value if isinstance(value, tuple) else (value,))]
    return arguments


def instructions(
    arguments: Sequence[str], platform: str = sys.platform, program: str | None = None, folder: str | None = None
) -> str:
    """What to write where, so that `defocus-watch ARGUMENTS` starts with this kind of system and is kept running.

    `folder` is the working folder: relative paths of a settings file begin there (default: the present one).

    Raises
    ------
    InputError
        A path whose name would add lines of its own to the text.
    """
    program, folder = program or str(Path(sys.executable).with_name("defocus-watch")), folder or os.getcwd()
    for text in (program, folder):
        if _LINES.search(text) or (platform != "win32" and text.endswith("\\")):
            raise InputError(
                text, "has a name that cannot be written into a service", "rename it or work in another folder"
            )
    if platform == "win32":
        return _windows(program, arguments, folder)
    return _launchd(program, arguments, folder) if platform == "darwin" else _systemd(program, arguments, folder)


def _quoted(argument: str) -> str:
    """An argument of a unit's ExecStart: % and $ are special also within quotes, as is \\ (systemd.service(5))."""
    argument = argument.replace("%", "%%").replace("$", "$$")
    if re.fullmatch(r"[\w@%$+=:,./*?~-]+", argument):
        return argument
    escaped = argument.replace("\\", r"\\").replace("'", r"\'").replace("\n", r"\n")
    return f"'{escaped}'"


def _systemd(program: str, arguments: Sequence[str], folder: str) -> str:
    # Of the program itself a $ is taken as it is.
    command = " ".join([_quoted(program).replace("$$", "$"), *map(_quoted, arguments)])
    return f"""# Write this to ~/.config/systemd/user/defocus-watch.service, then:
#     systemctl --user daemon-reload && systemctl --user enable --now defocus-watch
#     loginctl enable-linger        # so that it runs with nobody logged in
[Unit]
Description=defocus-watch: corrects what a microscope writes out of focus
After=network-online.target remote-fs.target

[Service]
Type=notify
NotifyAccess=main
WorkingDirectory={folder.replace("%", "%%")}
ExecStart={command}
ExecReload=/bin/kill -HUP $MAINPID
Restart=on-failure
RestartSec=10
TimeoutStartSec=infinity
TimeoutStopSec=300
WatchdogSec=120
Nice=5
NoNewPrivileges=yes
PrivateTmp=yes
ProtectSystem=full
RestrictRealtime=yes
RestrictSUIDSGID=yes
LockPersonality=yes
SystemCallArchitectures=native

[Install]
WantedBy=default.target
"""


def _launchd(program: str, arguments: Sequence[str], folder: str) -> str:
    from xml.sax.saxutils import escape

    strings = "\n".join(f"        <string>{escape(argument)}</string>" for argument in (program, *arguments))
    return f"""<?xml version="1.0" encoding="UTF-8"?>
<!-- Write this to ~/Library/LaunchAgents/defocus-watch.plist, then:
     launchctl load ~/Library/LaunchAgents/defocus-watch.plist -->
<plist version="1.0">
<dict>
    <key>Label</key><string>defocus-watch</string>
    <key>ProgramArguments</key>
    <array>
{strings}
    </array>
    <key>WorkingDirectory</key><string>{escape(folder)}</string>
    <key>RunAtLoad</key><true/>
    <key>KeepAlive</key><true/>
</dict>
</plist>
"""


def _windows(program: str, arguments: Sequence[str], folder: str) -> str:
    from subprocess import list2cmdline

    # Within PowerShell's single quotes only the quote itself is special, and the typographic ones count as such.
    executable, rest, working_folder = (
        re.sub("(['\u2018-\u201b])", r"\1\1", text) for text in (program, list2cmdline(arguments), folder)
    )
    return f"""# In PowerShell, as the user who may read the acquisition folder. It starts at logon and after a failure:
$action = New-ScheduledTaskAction -Execute '{executable}' -Argument '{rest}' -WorkingDirectory '{working_folder}'
$trigger = New-ScheduledTaskTrigger -AtLogOn
$settings = New-ScheduledTaskSettingsSet -RestartCount 999 -RestartInterval (New-TimeSpan -Minutes 1) `
    -ExecutionTimeLimit ([TimeSpan]::Zero) -MultipleInstances IgnoreNew -AllowStartIfOnBatteries
Register-ScheduledTask -TaskName 'defocus-watch' -Action $action -Trigger $trigger -Settings $settings
# Start it now: Start-ScheduledTask defocus-watch      Remove it: Unregister-ScheduledTask defocus-watch
# A network drive letter belongs to one logon: give shares as \\\\server\\share, and add --polling.
"""
