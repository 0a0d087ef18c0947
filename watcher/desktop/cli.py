"""`defocus install-shortcut`: a file that starts `defocus-watch` with a double click."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from ...engine.cli import _app

app = _app.new_app()


@app.command()
def install_shortcut(
    to: Annotated[
        Path | None,
        typer.Option(
            "--to",
            metavar="FOLDER",
            help="Where the shortcut goes.",
            show_default="Windows: the desktop; Linux: the applications",
        ),
    ] = None,
    version: _app.Version = False,
) -> int:
    """Make a shortcut that starts defocus-watch with a double click.

    It asks for the folder that the microscope writes to, corrects what arrives there, and opens the status page.
    """
    from ...engine.files.atomic import output_error
    from .shortcut import shortcut_folder, shortcut_name, shortcut_text

    path = (to or shortcut_folder()) / shortcut_name()
    program = Path(sys.executable).with_name("defocus-watch" + (".exe" if sys.platform == "win32" else ""))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(shortcut_text(str(program)), encoding="utf-8", newline="")
        path.chmod(0o755)
    except OSError as error:
        raise output_error(path, error) from error
    _app.say(str(path))
    return 0


def main() -> None:
    """The entry point."""
    _app.run(app)


if __name__ == "__main__":
    main()
