"""`defocus-doctor`: parse, examine, print."""

from __future__ import annotations

from typing import Annotated

import typer

from . import _app, options

app = _app.new_app()


@app.command()
def doctor(
    model: Annotated[str, options.MODEL.typer()] = "default",
    self_test: Annotated[
        bool, typer.Option("--self-test", help="Run the model on every backend that works here: speed and parity.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    version: _app.Version = False,
) -> int:
    """Show what this machine can run: GPU, driver, libraries, backends (and why not), engine cache, model.

    The exit code is 1 if no backend can run the model, or if a backend fails the self-test.
    """
    import json as jsonlib

    from ..diagnostics import examine, lines

    picture = examine(model, self_test, lambda line: _app.say(line, err=True))
    if json:
        print(jsonlib.dumps(picture.to_dict(), default=str))
    else:
        for line in lines(picture):
            _app.say(line)
    return 0 if picture.healthy else _app.FAILED


def main() -> None:
    """The entry point."""
    _app.run(app, only_new_packages=False, blas_threads=False)


if __name__ == "__main__":
    main()
