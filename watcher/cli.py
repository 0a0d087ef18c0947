"""`defocus-watch`: parse, load, watch, say what was quarantined."""

from __future__ import annotations

import inspect
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import typer

from ..engine.cli import _app
from ..engine.cli.options import Option
from ..engine.errors import InputError
from .configuration.config import SETTINGS, Config, Folder

app = _app.new_app()
_RUN = "Run"


def with_settings(command: Callable[..., int]) -> Callable[..., int]:
    """Give a command an option for every setting of `Config`, in place of its `**settings`."""
    signature = inspect.signature(command, eval_str=True)
    own = [parameter for parameter in signature.parameters.values() if parameter.kind is not parameter.VAR_KEYWORD]
    for name, setting in SETTINGS.items():
        kind, default = (list[str], []) if isinstance(setting.default, tuple) else (setting.kind, setting.default)
        annotation = Annotated[kind, setting.option.typer()]
        own.append(inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation))
    command.__signature__ = signature.replace(parameters=own)  # type: ignore[attr-defined]
    return command


def source_of(context: typer.Context, name: str | None) -> str:
    """Where a parameter's value comes from: "COMMANDLINE", "ENVIRONMENT", "DEFAULT"; "" if it is not known."""
    source = context.get_parameter_source(name or "")
    return source.name if source else ""


@app.command()
@with_settings
def watch(
    context: typer.Context,
    acquisition: Annotated[
        list[Path] | None,
        typer.Argument(metavar="ACQ", help="Folder that the microscope writes to; several may be given."),
    ] = None,
    out: Annotated[
        Path | None,
        Option("Folder for corrected files.", metavar="FOLDER", shown="ACQ_corrected").typer("-o", "--output"),
    ] = None,
    config: Annotated[
        Path | None, Option("Settings; command-line options override the file.", metavar="FILE.toml").typer()
    ] = None,
    once: Annotated[bool, Option("Correct the files that are there, then exit.", panel=_RUN).typer("--once")] = False,
    dry_run: Annotated[
        bool,
        Option("Show what would be done with each file that is there; change nothing.", panel=_RUN).typer("--dry-run"),
    ] = False,
    print_config: Annotated[
        bool, Option("Print all settings as a file for --config.", panel=_RUN).typer("--print-config")
    ] = False,
    install_service: Annotated[
        bool, Option("Print how to run this command as a service.", panel=_RUN).typer("--install-service")
    ] = False,
    version: _app.Version = False,
    **settings: Any,
) -> int:
    """Correct every TIFF that a microscope writes out of focus into a folder, as soon as it is complete.

    Corrected files appear in the output folder under the same name. The acquisition folder is only read. Ctrl-C (or
    SIGTERM) finishes the file in progress and exits; the next start continues where this one stopped. SIGHUP reads
    the settings file again. The exit code is 1 with --once if a file is quarantined.

    Without any argument, on a desktop, it asks for the folder and opens the status page in the browser.
    """
    if out is not None and len(acquisition or ()) != 1:
        raise InputError(
            out, "is one output folder", "give one ACQ with -o, or a settings file that names folders (--config)"
        )

    given = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in settings.items()
        if source_of(context, name) in ("COMMANDLINE", "ENVIRONMENT")
    }

    opened: Callable[[str], None] | None = None
    if all(source_of(context, parameter.name) != "COMMANDLINE" for parameter in context.command.params):
        from .desktop.folder_dialog import choose_folder

        if (folder := choose_folder()) is not None:
            from .desktop.start import open_page, page_port

            acquisition, opened = [folder], open_page
            given["status"] = str(page_port())

    def from_file() -> Config:
        return Config.load(config) if config is not None else Config()

    def merged_config() -> Config:
        folders = tuple(Folder(str(folder), str(out) if out is not None else "") for folder in acquisition or ())
        return from_file().given(folders=folders or None, **given).checked()

    chosen = merged_config()
    if print_config:
        print(chosen.to_toml(), end="")
        return 0
    if install_service:
        from .service.systemd import command_line, instructions

        chosen.settings()  # a service without a folder would start again and again
        model: Any = given.get("model")
        paths = {"output": out, "config": config, "model": Path(model) if model not in (None, "default") else None}
        written = given | {"model": model if model == "default" else None}
        if written.get("status_token") == from_file().status_token:
            written["status_token"] = None
        print(instructions(command_line(acquisition or (), paths, written)), end="")
        return 0
    if dry_run:
        return _dry_run(chosen)
    from .service.priority import lower_priority
    from .supervisor import run

    if chosen.priority == "low":
        lower_priority()
    asked = _Signals()
    return run(chosen, merged_config, asked.stop, asked.reload, asked.end, once, opened)


def _dry_run(config: Config) -> int:
    from ..engine.formats.other_formats import other_formats
    from ..engine.model.card import model_path, read_card
    from .configuration.settings import check_folders
    from .dry_run import plan

    card, folders = read_card(model_path(config.model)), config.settings()
    check_folders(folders, card)
    for settings in folders:
        any_file = False
        for relative, verdict in plan(settings, card):
            _app.say(f"{settings.acquisition / relative}: {verdict}")
            any_file = True
        if not any_file and (line := other_formats(settings.acquisition)):
            _app.say(line)
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
    _app.run(app, blas_threads=False)


if __name__ == "__main__":
    main()
