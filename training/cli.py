"""defocus-train: parse, fit, say where the checkpoint lies."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..engine.edge import run

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def train(
    simulate: Annotated[
        list[str],
        typer.Option(
            metavar="FOLDER[=WEIGHT]", help="Folder of sharp images that are defocused on the fly; may be repeated."
        ),
    ],
    out: Annotated[Path, typer.Option("-o", "--output", help="Folder of the run: recipe, split, log, checkpoint.")],
    recipe: Annotated[Path | None, typer.Option(help="TOML file with what differs from the default recipe.")] = None,
    hold_out: Annotated[
        list[str] | None, typer.Option(metavar="PATTERN", help='Files to hold out, e.g. "*_k14_*"; may be repeated.')
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Optimizer steps, instead of the recipe's.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Seed, instead of the recipe's.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the folder's last checkpoint.")] = False,
    workers: Annotated[int, typer.Option(min=0, help="Processes that prepare crops.")] = 1,
    progress: Annotated[bool, typer.Option(help="A progress bar; off, one line an epoch.")] = True,
) -> None:
    """Train a network on your own sharp images, defocused on the fly by the physics of a widefield microscope."""
    try:
        import lightning  # noqa: F401
        import torch  # noqa: F401
    except ImportError as error:
        from ..engine.errors import MissingExtraError

        raise MissingExtraError(error.name or "torch", "train", "training") from error
    from .fields import Source
    from .fit import fit
    from .recipe import Recipe

    checkpoint = fit(
        sources=[Source.parse(text) for text in simulate],
        out=out,
        recipe=Recipe.load(recipe, steps=steps, seed=seed),
        held_out=hold_out or (),
        resume=resume,
        workers=workers,
        progress_bar=progress,
    )
    typer.echo(f"trained: {checkpoint}\nnext: defocus-export {checkpoint} -o model.onnx")


def main() -> None:
    run(app)


if __name__ == "__main__":
    main()
