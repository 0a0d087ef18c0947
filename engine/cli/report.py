"""`defocus report`: the report of outputs that are there."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from . import _app

app = _app.new_app()


@app.command()
def report(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder of corrected files.")],
    to: Annotated[
        Path | None, typer.Option("--to", metavar="FOLDER", help="Where the report goes.", show_default="OUT")
    ] = None,
    inputs: Annotated[
        Path | None,
        typer.Option(
            "--inputs",
            metavar="FOLDER",
            help="Folder of the recorded files, for their pictures.",
            show_default="ACQ of ACQ_corrected",
        ),
    ] = None,
    version: _app.Version = False,
) -> int:
    """Make a report of corrected files: report.html with pictures, sorted by doubt, and report.csv, a row per plane."""
    from ..errors import InputError
    from ..pipeline.report import Report, of_outputs

    files = list(of_outputs(out, inputs))
    if not files:
        raise InputError(out, "holds no file that defocus made", "give the folder of the corrected files")
    new_report = Report(to or out, out)
    new_report.files += files
    for path in new_report.write():
        _app.say(str(path))
    return 0


def main() -> None:
    """The entry point."""
    _app.run(app, blas_threads=False)


if __name__ == "__main__":
    main()
