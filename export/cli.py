"""defocus-export: parse, export, prove."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .._version import __version__
from ..engine.edge import run
from ..engine.errors import MissingExtraError

app = typer.Typer(add_completion=False)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"defocus-export {__version__}")
        raise typer.Exit


@app.command()
def export(
    checkpoint: Annotated[Path, typer.Argument(help="Checkpoint written by defocus-train.")],
    out: Annotated[Path, typer.Option("-o", "--output", help="ONNX file to write.")],
    name: Annotated[str, typer.Option(help="What the model is called.")] = "own",
    training_data: Annotated[str, typer.Option(help="What it was trained on.")] = "not stated",
    licence: Annotated[str, typer.Option(help="Licence of the weights.")] = "not stated",
    halo: Annotated[int | None, typer.Option(min=0, help="Halo of a tile in pixels, not the measured default.")] = None,
    images: Annotated[Path | None, typer.Option(help="Folder of real images that the proof runs as well.")] = None,
    fp16: Annotated[bool, typer.Option("--fp16", help="Half precision: not available yet.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and leave.")
    ] = False,
) -> None:
    """Export a checkpoint to one ONNX file that describes itself, and prove that it gives what torch gives."""
    if fp16:
        raise typer.BadParameter("FP16 export is not available yet; export without --fp16 for an FP32 model")
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
        import torch  # noqa: F401
    except ImportError as error:
        raise MissingExtraError(error.name or "torch", "train", "export") from error
    from ..engine.commit import output_error
    from ..training.checkpoint import load_checkpoint
    from .describe import describe
    from .onnx_file import export_onnx
    from .parity import TOLERANCE, compare, judge

    network, recipe = load_checkpoint(checkpoint)
    try:  # minutes may pass until the file is written
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise output_error(out, error) from error
    card = describe(recipe, name=name, training_data=training_data, licence=licence, halo=halo)
    # Proven under a name of its own: a file that fails never stands where a user would take it.
    candidate = out.with_name(f".{out.stem}.unproven.onnx")
    try:
        export_onnx(network, card, candidate)
        comparisons = []
        for one in compare(network, candidate, images):
            comparisons.append(one)
            typer.echo(f"  {one.error:8.1e} of the range  {' x '.join(map(str, one.shape)):>20}  {one.name}")
        judge(out, comparisons)
        candidate.replace(out)
    finally:
        candidate.unlink(missing_ok=True)
    typer.echo(f"{out}: equal to torch within {max(one.error for one in comparisons):.1e} (limit {TOLERANCE:g})")


def main() -> None:
    run(app)


if __name__ == "__main__":
    main()
