"""The daemon as a service: what systemd wants to hear, and the text of a unit, a launch agent or a Windows task.

Nothing is written or installed: `--install-service` prints what to do.
"""

from __future__ import annotations

import os
import shlex
import socket
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path


def tell_systemd(state: str, environment: dict[str, str] | None = None) -> bool:
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
                tell_systemd("WATCHDOG=1")

    thread = threading.Thread(target=ping, name="defocus-watchdog", daemon=True)
    thread.start()
    return thread


def instructions(arguments: Sequence[str], platform: str = sys.platform, program: str | None = None) -> str:
    """What to write where, so that `defocus-watch ARGUMENTS` starts with this kind of system and is kept running."""
    program = program or str(Path(sys.executable).with_name("defocus-watch"))
    if platform == "win32":
        return _windows(program, arguments)
    return _launchd(program, arguments) if platform == "darwin" else _systemd(program, arguments)


def _systemd(program: str, arguments: Sequence[str]) -> str:
    # In a unit's ExecStart, % is special, and quoting is nearly that of a shell (systemd.service(5)).
    command = shlex.join([program, *arguments]).replace("%", "%%")
    return f"""# Write this to ~/.config/systemd/user/defocus-watch.service, then:
#     systemctl --user daemon-reload && systemctl --user enable --now defocus-watch
#     loginctl enable-linger        # so that it runs with nobody logged in
[Unit]
Description=defocus-watch: corrects what a microscope writes out of focus
After=network-online.target remote-fs.target

[Service]
Type=notify
NotifyAccess=main
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


def _launchd(program: str, arguments: Sequence[str]) -> str:
    from xml.sax.saxutils import escape

    strings = "\n".join(f"        <string>{escape(one)}</string>" for one in (program, *arguments))
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
    <key>RunAtLoad</key><true/>
    <key>KeepAlive</key><true/>
</dict>
</plist>
"""


def _windows(program: str, arguments: Sequence[str]) -> str:
    from subprocess import list2cmdline

    # Within PowerShell's single quotes only the quote itself is special.
    one, rest = (text.replace("'", "''") for text in (program, list2cmdline(arguments)))
    return f"""# In PowerShell, as the user who may read the acquisition folder. It starts at logon and after a failure:
$action = New-ScheduledTaskAction -Execute '{one}' -Argument '{rest}'
$trigger = New-ScheduledTaskTrigger -AtLogOn
$settings = New-ScheduledTaskSettingsSet -RestartCount 999 -RestartInterval (New-TimeSpan -Minutes 1) `
    -ExecutionTimeLimit ([TimeSpan]::Zero) -MultipleInstances IgnoreNew -AllowStartIfOnBatteries
Register-ScheduledTask -TaskName 'defocus-watch' -Action $action -Trigger $trigger -Settings $settings
# Start it now: Start-ScheduledTask defocus-watch      Remove it: Unregister-ScheduledTask defocus-watch
# A network drive letter belongs to one logon: give shares as \\\\server\\share, and add --polling.
"""
