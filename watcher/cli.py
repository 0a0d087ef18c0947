"""`defocus-watch`: parse, load, watch, say what was set aside."""

from __future__ import annotations

import signal
import threading
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer

from .._version import __version__
from ..engine import edge
from ..engine.cli import SHARP

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"defocus-watch {__version__}")
        raise typer.Exit


@app.command()
def watch(
    acquisition: Annotated[Path, typer.Argument(metavar="ACQ", help="Folder that the microscope writes to.")],
    out: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="Folder for corrected files.", show_default="ACQ_corrected beside ACQ"),
    ] = None,
    model: Annotated[str, typer.Option(help='"default" or an ONNX file made by defocus-export.')] = "default",
    backend: Annotated[
        str, typer.Option(help="auto (the first that works), tensorrt, rtx, cuda, openvino or cpu.")
    ] = "auto",
    once: Annotated[bool, typer.Option("--once", help="Correct what is there, then leave.")] = False,
    polling: Annotated[bool, typer.Option("--polling", help="Look by rescans only: for network shares.")] = False,
    settle: Annotated[float, typer.Option(min=0, help="Seconds without change after which a file is complete.")] = 2.0,
    rescan: Annotated[float, typer.Option(min=0.05, help="Seconds between two looks at the whole folder.")] = 5.0,
    patience: Annotated[
        float, typer.Option(min=0, help="Seconds without change after which a broken file is set aside.")
    ] = 30.0,
    retries: Annotated[int, typer.Option(min=1, help="Tries before a file that fails is set aside.")] = 3,
    only_defocused: Annotated[
        bool, typer.Option("--only-defocused", help=f"Copy planes that are sharp already {SHARP}.")
    ] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and leave.")
    ] = False,
) -> int:
    """Correct every TIFF that a microscope writes out of focus into a folder, as soon as it is complete.

    Corrected files appear in the output folder under the same name. The acquisition folder is only read. Ctrl-C (or
    SIGTERM) finishes the file in hand and leaves; the next start goes on where this one stopped. The exit code is 1
    with --once if a file was set aside.
    """
    from .arrivals import Pace
    from .daemon import WatchSettings, check_folders, default_out
    from .daemon import watch as run

    out = out if out is not None else default_out(acquisition)
    check_folders(acquisition, out)
    from ..engine.engine import Engine
    from .live import Live

    stop = threading.Event()
    _stop_on_signals(stop)
    live = Live()
    settings = WatchSettings(acquisition, out, Pace(settle, rescan, patience, polling), retries, once, only_defocused)
    with Engine.load(model, backend) as engine:
        live.say(f"watching {acquisition} -> {out}, model {engine.card.name}, {engine.description}")
        with live.running():
            aside = run(settings, engine, stop, live.show)
    if aside:
        live.say(f"set aside ({len(aside)}):")
        for entry in aside:
            live.say(f"  {entry.relative}: {entry.reason}")
    return edge.FAILED if once and aside else 0


def _stop_on_signals(stop: threading.Event) -> None:
    """The first signal asks to stop after the file in hand; a second Ctrl-C does not wait."""

    def ask(number: int, frame: FrameType | None) -> None:
        if stop.is_set() and number == signal.SIGINT:
            raise KeyboardInterrupt
        stop.set()

    for name in ("SIGINT", "SIGTERM", "SIGBREAK"):  # SIGBREAK: Windows
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), ask)


def main() -> None:
    """The entry point."""
    edge.run(app)


if __name__ == "__main__":
    main()
