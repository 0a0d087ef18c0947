"""`defocus COMMAND ...` and `python -m defocus COMMAND ...`: every command under one name, loaded only when used."""

from __future__ import annotations

import difflib
import os
import sys
from importlib import import_module
from typing import Any

import typer
import typer.core
import typer.main

from defocus.engine.cli import _app

COMMANDS = {
    "watch": ("watcher.cli", "Correct every TIFF that arrives in a folder, until stopped."),
    "run": ("engine.cli.run", "Correct files and folders once."),
    "report": ("engine.cli.report", "Make a report of corrected files."),
    "doctor": ("engine.cli.doctor", "Show what this machine can run, and why not the rest."),
    "train": ("training.cli.train", "Train a model of your own."),
    "data": ("training.cli.data", "Fetch public training images."),
    "evaluate": ("training.cli.evaluate", "Compare methods on a test suite."),
    "install-shortcut": ("watcher.desktop.cli", "Make a shortcut that starts defocus watch."),
    "export": ("export.cli", "Export a model to ONNX, in half precision if wanted."),
}


class _Commands(typer.core.TyperGroup):
    """Lists the commands without their modules; a command's module is imported when its options are needed."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        return typer.core.TyperCommand(cmd_name, help=COMMANDS[cmd_name][1]) if cmd_name in COMMANDS else None

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Where a shell completes the options of a command, and where an unknown one is refused."""
        if args and args[0] not in COMMANDS and not ctx.resilient_parsing:
            near = difflib.get_close_matches(args[0], COMMANDS, 1)
            hint = f"did you mean {near[0]}?" if near else f"choose from {', '.join(COMMANDS)}"
            ctx.fail(f"no such command: {args[0]}; {hint}")
        name, _, rest = super().resolve_command(ctx, args)
        return name, typer.main.get_command(_module(str(name)).app), rest


app = _app.new_app(completion=True, cls=_Commands)


@app.callback()
def defocus(version: _app.Version = False) -> None:
    """Correct TIFF files that a microscope wrote out of focus.

    Most commands have a name of their own, too: defocus-watch is defocus watch.
    """


def _module(name: str) -> Any:
    return import_module(f"defocus.{COMMANDS[name][0]}")


def main() -> None:
    """The entry point: what follows the name of a command is left to that command, which then says "defocus watch"."""
    if len(sys.argv) == 1 and "_DEFOCUS_COMPLETE" not in os.environ:
        sys.argv.append("--help")
    if len(sys.argv) > 1 and sys.argv[1] in COMMANDS:
        sys.argv[:2] = [f"defocus {sys.argv[1]}"]
        _module(sys.argv[0].removeprefix("defocus ")).main()
    else:
        _app.run(app)


if __name__ == "__main__":
    main()
