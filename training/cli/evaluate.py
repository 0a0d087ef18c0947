"""defocus-evaluate: parse, train what has no weights if asked to, evaluate, write the report."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from ...engine.cli._app import Version, new_app, run, say
from ...engine.cli.options import Option
from .options import HOLD_OUT, SEED, SIMULATE

app = new_app()


@app.command()
def evaluate(
    suite: Annotated[
        Path | None, typer.Argument(help="Folder of a frozen suite; without it, specimens drawn by our own code.")
    ] = None,
    out: Annotated[Path, typer.Option("-o", "--output", help="Folder of the report.")] = Path("results"),
    weights: Annotated[Path, typer.Option(help="Folder of weights, NAME.pt each.")] = Path("runs/compare/weights"),
    method: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Method to evaluate; may be repeated. Default: all.")
    ] = None,
    figure: Annotated[
        list[str] | None,
        typer.Option(metavar="FIELD", help='Field to draw, or "drawn" for a specimen of our own; may be repeated.'),
    ] = None,
    bbbc006: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Evaluate on the test fields of the real BBBC006 instead.")
    ] = None,
    distance_um: Annotated[
        list[int] | None, typer.Option(metavar="UM", help="Distance of --bbbc006; may be repeated. Default: all.")
    ] = None,
    train: Annotated[bool, typer.Option("--train", help="First train every method that has no weights yet.")] = False,
    simulate: Annotated[list[str] | None, SIMULATE.typer()] = None,
    hold_out: Annotated[list[str] | None, HOLD_OUT.typer()] = None,
    minutes: Annotated[float, Option("Training time of each method.", 0.01, 1e6, metavar="N").typer()] = 3.0,
    runs: Annotated[Path, typer.Option(help="Folder of the training runs.")] = Path("runs/compare/runs"),
    seed: Annotated[int, SEED.typer()] = 0,
    version: Version = False,
) -> None:
    """Compare every method: Tables 1 to 3 of the paper, the figure, a scatter of all fields, and what each costs."""
    try:
        import matplotlib  # noqa: F401
        import torch  # noqa: F401
    except ImportError as error:
        from ...engine.errors import MissingExtraError

        raise MissingExtraError(error.name or "torch", "train", "evaluation") from error
    from ...engine.errors import InputError
    from ..data.fields import Source
    from ..evaluation import suite as suites
    from ..evaluation.compare import TABLE_METHODS, budgets, train_all
    from ..evaluation.heldout import DISTANCES_UM, HELD_OUT
    from ..evaluation.methods import available, check_names
    from ..evaluation.report import report

    names = list(method) if method else None
    check_names(names or ())
    if suite and bbbc006:
        raise InputError(bbbc006, "is a second thing to evaluate on", "give a suite or --bbbc006, not both")
    if train:
        wanted = [name for name in TABLE_METHODS if names is None or name in names]
        if bbbc006:
            from ..evaluation.bbbc006 import bbbc006_pairs

            pairs = list(bbbc006_pairs(bbbc006, distance_um))
            train_all(wanted, [], (), runs, weights, 60 * minutes, seed, say, pairs)
        elif simulate:
            sources = [Source.parse(text) for text in simulate]
            train_all(wanted, sources, hold_out or HELD_OUT, runs, weights, 60 * minutes, seed, say)
        else:
            raise InputError("--train", "has nothing to train on", "give --simulate FOLDER or --bbbc006 DIR")
    drawn = suites.make("drawn specimens", suites.make_cases(suites.drawn_fields(), DISTANCES_UM))
    if bbbc006:
        from ..evaluation.bbbc006 import bbbc006_suite

        chosen = bbbc006_suite(bbbc006, distance_um)
    else:
        chosen = suites.load(suite) if suite else drawn
    methods = list(available(weights, names))
    if not methods:
        raise InputError(weights, "holds no weights of these methods", "train them with --train")
    figures = []
    # A drawn specimen has one channel, BBBC006 two.
    for name in figure or ([chosen.fields[0]] if bbbc006 else ["drawn"]):
        owner, field = (drawn, drawn.fields[0]) if name == "drawn" else (chosen, name)
        if field not in owner.fields:
            raise InputError(name, "is no field of the suite", f"choose from {', '.join(owner.fields)}")
        figures.append((owner, field))
    command = shlex.join(["defocus-evaluate", *sys.argv[1:]])
    report(chosen, methods, out, budgets(weights), command, figures, say)
    say(f"written: {out / 'methods.md'}")


def main() -> None:
    run(app)


if __name__ == "__main__":
    main()
