"""defocus-data: parse, download, verify."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ...engine.cli._app import Version, new_app, run
from ...engine.errors import InputError, MissingExtraError, one_line

if TYPE_CHECKING:
    from ..data.download import Tell

app = new_app()


@app.callback()
def main_options(version: Version = False) -> None:
    """Get public image sets to train and evaluate on."""


@app.command()
def bbbc006(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder that gets the planes' folders.")],
    planes: Annotated[str, typer.Option(help="Planes, such as 0-33 or 6,16,26.")] = "0-33",
    base_url: Annotated[str | None, typer.Option(metavar="URL", help="A mirror of the Broad's server.")] = None,
    checksums: Annotated[
        Path | None, typer.Option(help="sha256sum file to verify against, instead of the folder's own.")
    ] = None,
    keep_zips: Annotated[bool, typer.Option("--keep-zips", help="Keep the archives.")] = False,
) -> None:
    """Download BBBC006 (34 planes of 1536 images, about 25 GB), or verify and complete a folder of it."""
    try:
        from ..data.download import BASE_URL, fetch_bbbc006
    except ImportError as error:
        raise MissingExtraError(error.name or "pooch", "train", "downloads") from error
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, transient=True) as bar:

        def progress(name: str) -> Tell:
            task = bar.add_task(name, total=None)
            return lambda there, total: bar.update(task, completed=there, total=total)

        fetch_bbbc006(
            folder,
            parse_planes(planes),
            base_url or BASE_URL,
            checksums,
            keep_zips,
            lambda line: bar.console.print(one_line(line), markup=False, highlight=False),
            progress,
        )


def parse_planes(text: str) -> list[int]:
    """Planes of "0-33" or "6,16,26". Raises InputError."""
    planes: set[int] = set()
    for part in text.split(","):
        first, _, last = part.strip().partition("-")
        if not (first.isdigit() and (last.isdigit() or not last)):
            raise InputError(text, "names no planes", "write --planes 0-33 or 6,16,26")
        planes |= set(range(int(first), int(last or first) + 1))
    if not planes or max(planes) > 33:
        raise InputError(text, "BBBC006 has the planes 0 to 33", "write --planes 0-33 or 6,16,26")
    return sorted(planes)


def main() -> None:
    run(app)


if __name__ == "__main__":
    main()
