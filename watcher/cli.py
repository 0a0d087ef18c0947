"""`defocus-watch`: parse, load, watch, say what was set aside."""

from __future__ import annotations

import signal
import threading
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer

from ..engine._version import __version__
from ..engine.cli import _app
from ..engine.cli.run import SHARP

if TYPE_CHECKING:
    from .config import Config

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"defocus-watch {__version__}")
        raise typer.Exit


@app.command()
def watch(
    acquisition: Annotated[
        list[Path] | None,
        typer.Argument(metavar="ACQ", help="Folder that the microscope writes to; several may be given."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="Folder for corrected files.", show_default="ACQ_corrected beside ACQ"),
    ] = None,
    config: Annotated[
        Path | None, typer.Option(metavar="FILE.toml", help="Settings; what is given here as well goes before.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help='"default" or an ONNX file made by defocus-export.', show_default="default")
    ] = None,
    backend: Annotated[
        str | None,
        typer.Option(
            help="auto (the first that works), tensorrt, rtx, cuda, mnn, openvino or cpu.", show_default="auto"
        ),
    ] = None,
    once: Annotated[bool, typer.Option("--once", help="Correct what is there, then leave.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be done with what is there; change nothing.")
    ] = False,
    polling: Annotated[
        bool | None, typer.Option("--polling", help="Look by rescans only: for network shares.", show_default=False)
    ] = None,
    settle: Annotated[
        float | None,
        typer.Option(min=0, help="Seconds without change after which a file is complete.", show_default="2"),
    ] = None,
    rescan: Annotated[
        float | None, typer.Option(min=0.05, help="Seconds between two looks at the whole folder.", show_default="5")
    ] = None,
    patience: Annotated[
        float | None,
        typer.Option(min=0, help="Seconds without change after which a broken file is set aside.", show_default="30"),
    ] = None,
    retries: Annotated[
        int | None, typer.Option(min=1, help="Tries before a file that fails is set aside.", show_default="3")
    ] = None,
    all_planes: Annotated[
        bool | None,
        typer.Option(
            "--all-planes",
            help=f"Restore every plane, also those that would be kept: sharp ones {SHARP}.",
            show_default=False,
        ),
    ] = None,
    only_defocused: Annotated[
        bool,
        typer.Option("--only-defocused", help="Changes nothing: sharp planes are kept unless --all-planes is given."),
    ] = False,
    keep_doubtful: Annotated[
        str | None,
        typer.Option(
            metavar="original|corrected",
            help="What is written of a plane whose output is doubtful: the original, or as made.",
            show_default="corrected",
        ),
    ] = None,
    order: Annotated[
        str | None, typer.Option(help="oldest or newest: which of the waiting files is next.", show_default="oldest")
    ] = None,
    include: Annotated[
        list[str] | None, typer.Option(metavar="PATTERN", help="Only files like this (*_w1*); may be repeated.")
    ] = None,
    exclude: Annotated[
        list[str] | None, typer.Option(metavar="PATTERN", help="No files like this; may be repeated.")
    ] = None,
    channels: Annotated[
        str | None,
        typer.Option(
            metavar="PATTERN",
            help="For a model of several channels: files of one channel each that go together (*_w{channel}*).",
        ),
    ] = None,
    partner_wait: Annotated[
        float | None,
        typer.Option(
            min=0, help="Seconds after which a channel file without its partner is set aside.", show_default="60"
        ),
    ] = None,
    max_age: Annotated[
        float | None,
        typer.Option(min=0, help="Leave files alone that are older than so many seconds.", show_default="any age"),
    ] = None,
    min_free_mb: Annotated[
        float | None,
        typer.Option(min=0, help="Wait while the output's disk has fewer MB free.", show_default="200"),
    ] = None,
    keep_days: Annotated[
        float | None,
        typer.Option(min=0, help="Forget files that are gone after so many days.", show_default="never"),
    ] = None,
    memory: Annotated[
        float | None,
        typer.Option(
            min=0,
            help="GB that tiles may take, and files as much again; larger files go by the disk.",
            show_default="2",
        ),
    ] = None,
    log_json: Annotated[
        bool | None, typer.Option("--log-json", help="One JSON object a line.", show_default=False)
    ] = None,
    status: Annotated[
        str | None, typer.Option(metavar="[HOST:]PORT", help="Serve a status page; on this machine only by default.")
    ] = None,
    status_token: Annotated[
        str | None,
        typer.Option(metavar="TOKEN", envvar="DEFOCUS_STATUS_TOKEN", help="What a visitor from elsewhere must know."),
    ] = None,
    notify_command: Annotated[
        str | None, typer.Option(metavar="COMMAND", help="Run when focus drifts or files fail; JSON on its stdin.")
    ] = None,
    notify_url: Annotated[
        str | None, typer.Option(metavar="URL", help="Told (POST, JSON; or any URL of apprise) of the same.")
    ] = None,
    drift_px: Annotated[
        float | None, typer.Option(min=0, help="Blur in px over which focus has drifted; 0: never.", show_default="0")
    ] = None,
    print_config: Annotated[
        bool, typer.Option("--print-config", help="Print all settings as a file for --config.")
    ] = False,
    install_service: Annotated[
        bool, typer.Option("--install-service", help="Print how to run this command as a service.")
    ] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and leave.")
    ] = False,
) -> int:
    """Correct every TIFF that a microscope writes out of focus into a folder, as soon as it is complete.

    Corrected files appear in the output folder under the same name. The acquisition folder is only read. Ctrl-C (or
    SIGTERM) finishes the file in hand and leaves; the next start goes on where this one stopped. SIGHUP reads the file
    of --config anew. The exit code is 1 with --once if a file is set aside.
    """
    from ..engine.errors import InputError
    from .config import Config, Folder

    if out is not None and len(acquisition or ()) != 1:
        raise InputError(out, "is one output folder", "give one ACQ with -o, or [[folders]] in the file of --config")

    given = {
        "model": model,
        "backend": backend,
        "polling": polling,
        "settle": settle,
        "rescan": rescan,
        "patience": patience,
        "retries": retries,
        "all_planes": all_planes,
        "keep_doubtful": keep_doubtful,
        "order": order,
        "include": tuple(include) if include else None,
        "exclude": tuple(exclude) if exclude else None,
        "max_age": max_age,
        "min_free_mb": min_free_mb,
        "keep_days": keep_days,
        "memory": memory,
        "log_json": log_json,
        "status": status,
        "status_token": status_token,
        "notify_command": notify_command,
        "notify_url": notify_url,
        "drift_px": drift_px,
        "channels": channels,
        "partner_wait": partner_wait,
    }

    def from_file() -> Config:
        return Config.load(config) if config is not None else Config()

    def settled() -> Config:
        folders = tuple(Folder(str(one), str(out) if out is not None else "") for one in acquisition or ())
        return from_file().given(folders=folders or None, **given).checked()

    chosen = settled()
    if print_config:
        print(chosen.to_toml(), end="")
        return 0
    if install_service:
        from .service.systemd import command_line, instructions

        if status_token and status_token != from_file().status_token:
            cause = "would stand in the service's text, which other users can read"
            remedy = "write status_token = '...' into the file of --config, and let only the service's user read it"
            raise InputError("--status-token (or DEFOCUS_STATUS_TOKEN)", cause, remedy)
        chosen.settings()  # a service without a folder would start again and again
        paths = {"output": out, "config": config, "model": Path(model) if model not in (None, "default") else None}
        kept = given | {"model": model if model == "default" else None, "status_token": None}
        print(instructions(command_line(acquisition or (), paths, kept)), end="")
        return 0
    if dry_run:
        return _dry_run(chosen)
    from .supervisor import run

    asked = _Signals()
    return run(chosen, settled, asked.stop, asked.reload, asked.end, once)


def _dry_run(config: Config) -> int:
    from ..engine.model.card import model_path, read_card
    from .dry_run import plan
    from .settings import check_folders

    card = read_card(model_path(config.model))
    check_folders(config.settings())
    for settings in config.settings():
        if settings.channels is not None:
            settings.channels.check(card)
        for relative, what in plan(settings, card):
            _app.say(f"{settings.acquisition / relative}: {what}")
    return 0


class _Signals:
    """The first signal asks to stop after the file in hand; a second Ctrl-C does not wait. SIGHUP asks to reload.

    Both set `stop`; only the first sets `end`.
    """

    def __init__(self) -> None:
        self.stop, self.reload, self.end = threading.Event(), threading.Event(), threading.Event()
        for name in ("SIGINT", "SIGTERM", "SIGBREAK"):  # SIGBREAK: Windows
            if hasattr(signal, name):
                signal.signal(getattr(signal, name), self._ask)
        if hasattr(signal, "SIGHUP"):
            signal.signal(signal.SIGHUP, self._ask_reload)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self.stop.is_set() and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.end.set()  # first: a reload clears the stop, and looks here after
        self.stop.set()

    def _ask_reload(self, number: int, frame: FrameType | None) -> None:
        self.reload.set()
        self.stop.set()


def main() -> None:
    """The entry point."""
    _app.run(app)


if __name__ == "__main__":
    main()
