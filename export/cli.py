"""defocus-export: parse, export, prove."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..engine.cli._app import Version, new_app, run, say

app = new_app()


@app.command()
def export(
    source: Annotated[
        str | None, typer.Argument(help='Checkpoint of defocus-train, an FP32 ONNX file, or "default".')
    ] = None,
    out: Annotated[Path | None, typer.Option("-o", "--output", help="ONNX file to write.")] = None,
    name: Annotated[str, typer.Option(help="What the model is called.")] = "own",
    training_data: Annotated[str, typer.Option(help="What it was trained on.")] = "not stated",
    licence: Annotated[str, typer.Option(help="Licence of the weights.")] = "not stated",
    halo: Annotated[int | None, typer.Option(min=0, help="Halo of a tile in pixels, not the measured default.")] = None,
    images: Annotated[
        Path | None,
        typer.Option(help="Folder of sharp images: the gain is measured on them, and the proofs run them as well."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Export a model that loses against its input, too.")] = False,
    fp16: Annotated[bool, typer.Option("--fp16", help="Half precision, proven at 60 dB or better to FP32.")] = False,
    keep_fp32: Annotated[
        list[str] | None,
        typer.Option(metavar="LAYER|auto", help="Layer that stays in FP32; may be repeated. auto: those that need it."),
    ] = None,
    fp16_io: Annotated[bool, typer.Option("--fp16-io", help="float16 input and output too.")] = False,
    tensorrt: Annotated[
        bool, typer.Option("--tensorrt", help="Build the TensorRT engine of the FP16 file into the user's cache.")
    ] = False,
    profile: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[NAME=]SIZE[:SIZE:SIZE]",
            help="Shapes that the engine takes: 1x1x528x704, or least:best:most; may be repeated, or comma-separated.",
        ),
    ] = None,
    capability: Annotated[
        list[str] | None,
        typer.Option(metavar="SM89", help="TensorRT for RTX: build for this generation of cards, without one here."),
    ] = None,
    workspace_mib: Annotated[int | None, typer.Option(min=1, help="Scratch memory of the engine at most.")] = None,
    hardware_compatible: Annotated[
        bool, typer.Option("--hardware-compatible", help="An engine for other cards of this generation and newer.")
    ] = False,
    version_compatible: Annotated[
        bool, typer.Option("--version-compatible", help="An engine for later TensorRT versions.")
    ] = False,
    bioimageio: Annotated[
        Path | None, typer.Option(metavar="FILE.zip", help="Write a bioimage.io package of the model as well.")
    ] = None,
    author: Annotated[list[str] | None, typer.Option(help="Author of that package; may be repeated.")] = None,
    maintainer: Annotated[
        list[str] | None, typer.Option(metavar="GITHUB_USER", help="Who answers for that package; may be repeated.")
    ] = None,
    git_repo: Annotated[
        str | None, typer.Option(metavar="URL", help="Repository in which the model of that package is developed.")
    ] = None,
    list_engines: Annotated[bool, typer.Option("--list-engines", help="List the engines in the cache.")] = False,
    clear_engines: Annotated[bool, typer.Option("--clear-engines", help="Delete the engines in the cache.")] = False,
    version: Version = False,
) -> None:
    """Export a checkpoint to one ONNX file that describes itself, and prove that it gives what torch gives.

    With --fp16 the file is in half precision, and proven against FP32; with --tensorrt its engine is built as well.
    """
    if list_engines or clear_engines:
        _engines(clear_engines)
        if source is None:
            return
    if source is None:
        raise typer.BadParameter("give a checkpoint, an ONNX file or default")
    from . import workflow

    model = workflow.is_model(source)
    if not model and out is None:
        raise typer.BadParameter("a checkpoint needs -o FILE.onnx")
    if model and not (fp16 or tensorrt or bioimageio):
        raise typer.BadParameter(f"{source} is a model already: ask for --fp16, --tensorrt or --bioimageio")
    if fp16 and out is None:
        raise typer.BadParameter("--fp16 needs -o FILE.onnx")
    if (author or maintainer or git_repo) and not bioimageio:
        raise typer.BadParameter("--author, --maintainer and --git-repo belong to --bioimageio")
    if (keep_fp32 or fp16_io) and not fp16:
        raise typer.BadParameter("--keep-fp32 and --fp16-io belong to --fp16")
    made: Path | None = None
    if model and not fp16:
        made = workflow.source_file(source)
    elif model:
        assert out is not None
        workflow.export_fp16(workflow.source_file(source), out, None, keep_fp32 or (), fp16_io, images, say)
        made = out
    else:
        assert out is not None

        def card_of(recipe):  # type: ignore[no-untyped-def]
            from .card import describe

            return describe(recipe, name=name, training_data=training_data, licence=licence, halo=halo)

        if fp16:
            from tempfile import TemporaryDirectory

            with TemporaryDirectory() as folder:
                full = Path(folder) / "fp32.onnx"
                exact = workflow.export_fp32(Path(source), full, card_of, images, say, out, force)
                workflow.export_fp16(full, out, exact, keep_fp32 or (), fp16_io, images, say)
        else:
            with workflow.unproven(out) as candidate:
                workflow.export_fp32(Path(source), candidate, card_of, images, say, out, force)
        made = out
    if tensorrt:
        texts = [text for several in profile or () for text in several.split(",")]
        workflow.build_engine(
            made,
            texts,
            say,
            capabilities=tuple(capability or ()),
            workspace=None if workspace_mib is None else workspace_mib * 2**20,
            hardware_compatible=hardware_compatible,
            version_compatible=version_compatible,
        )
    if bioimageio:
        from .bioimageio import Contacts, write_package

        contacts = Contacts(tuple(author or Contacts.authors), tuple(maintainer or ()), git_repo)
        write_package(made, bioimageio, say, contacts)


def _engines(clear: bool) -> None:
    """List or delete what is in the engine cache."""
    from ..engine.inference.backends.tensorrt.plan_cache import PlanCache

    cache = PlanCache(say=say)
    if clear:
        count = cache.clear()
        say(f"{count} engine{'s' * (count != 1)} deleted from {cache.folder}")
        return
    entries = cache.entries()
    for entry in entries:
        say(str(entry))
    if not entries:
        say(f"no engines in {cache.folder}")


def main() -> None:
    run(app)


if __name__ == "__main__":
    main()
