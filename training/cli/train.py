"""defocus-train: parse, look for the data, fit, say what was gained and where the checkpoint lies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from enum import StrEnum
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ...engine.cli._app import Version, new_app, run, say
from ...engine.cli.options import Option
from ...engine.errors import InputError, MissingExtraError
from .options import HOLD_OUT, SEED, SIMULATE

if TYPE_CHECKING:
    from ..data.pairs import Pair

app = new_app()
RECIPES = Path(__file__).parents[1] / "fit" / "recipes"


class Accelerator(StrEnum):
    auto = "auto"
    cpu = "cpu"
    gpu = "gpu"


class Strategy(StrEnum):
    auto = "auto"
    ddp = "ddp"


class TrainingPrecision(StrEnum):
    auto = "auto"
    fp32 = "fp32"
    bf16 = "bf16"


LIGHTNING = {TrainingPrecision.auto: None, TrainingPrecision.fp32: "32-true", TrainingPrecision.bf16: "bf16-mixed"}


@app.command()
def train(
    out: Annotated[
        Path, typer.Option("-o", "--output", help="Folder of the run: recipe, split, log, previews, checkpoint.")
    ],
    simulate: Annotated[list[str] | None, SIMULATE.typer()] = None,
    pairs: Annotated[
        tuple[Path, Path] | None,
        typer.Option(metavar="BLURRED SHARP", help="Two folders of the same fields, out of focus and in focus."),
    ] = None,
    stacks: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Folder of through-focus stacks; the sharpest plane is the truth."),
    ] = None,
    step_um: Annotated[
        float | None,
        Option("Distance of a stack's planes, where its files do not say it.", 1e-6, 1e6, metavar="UM").typer(),
    ] = None,
    plane_pattern: Annotated[
        str | None,
        typer.Option(metavar="PATTERN", help="How the files of a stack name their plane, if each plane is a file."),
    ] = None,
    distance_um: Annotated[
        float | None, Option("Train for this one distance, as the paper does.", 0, 1e6, metavar="UM").typer()
    ] = None,
    hold_out: Annotated[list[str] | None, HOLD_OUT.typer()] = None,
    recipe: Annotated[
        str | None,
        typer.Option(
            metavar="NAME_OR_FILE",
            help='"default", "paper", or a TOML file with what differs.',
            show_default="default; with --resume the run's own",
        ),
    ] = None,
    network: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Network to train, e.g. concat-4 or rdn, instead of the recipe's."),
    ] = None,
    start: Annotated[
        Path | None, typer.Option("--from", metavar="CHECKPOINT", help="Start from the weights of another run.")
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Optimizer steps, instead of the recipe's.")] = None,
    seed: Annotated[int | None, replace(SEED, shown="the recipe's").typer()] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the folder's last checkpoint.")] = False,
    workers: Annotated[int, typer.Option(min=0, help="Processes that prepare crops, for each device.")] = 1,
    accelerator: Annotated[Accelerator, typer.Option(help="What to compute on.")] = Accelerator.auto,
    devices: Annotated[int, typer.Option(min=1, help="GPUs, or processes on the CPU, of each machine.")] = 1,
    nodes: Annotated[int, typer.Option(min=1, help="Machines.")] = 1,
    strategy: Annotated[Strategy, typer.Option(help="ddp: a process for each device.")] = Strategy.auto,
    precision: Annotated[
        TrainingPrecision, typer.Option(help="auto: bf16 where the hardware has it.")
    ] = TrainingPrecision.auto,
    progress: Annotated[bool, typer.Option(help="A progress bar; off, one line an epoch.")] = True,
    version: Version = False,
) -> None:
    """Train a network: on sharp images that are defocused on the fly, on pairs of planes, or on focus stacks."""
    given = [name for name, value in (("--simulate", simulate), ("--pairs", pairs), ("--stacks", stacks)) if value]
    if len(given) != 1:
        cause = f"{' and '.join(given)} are two kinds of data" if given else "there is nothing to train on"
        raise typer.BadParameter(f"{cause}: give one of --simulate, --pairs and --stacks")
    if not stacks and (step_um is not None or plane_pattern is not None):
        raise typer.BadParameter("--step-um and --plane-pattern are for --stacks")
    from ..data.fields import Source
    from ..fit.recipe import CHECKPOINT, Recipe

    sources = [Source.parse(text) for text in simulate or ()]
    count = _count_images([*(source.folder for source in sources), *(pairs or ()), *([stacks] if stacks else [])])
    own = out / "recipe.toml" if resume and (out / CHECKPOINT).is_file() else recipe_path("default")
    chosen = Recipe.load(
        recipe_path(recipe) if recipe else own,
        steps=steps,
        seed=seed,
        network=network,
        defocus_um=None if distance_um is None else (distance_um, distance_um),
    )
    if start and not start.is_file():
        raise InputError(start, "no such checkpoint", "give a checkpoint written by defocus-train")
    for package in ("torch", "lightning", "PIL"):
        if find_spec(package) is None:
            raise MissingExtraError(package, "train", "training")
    say(f"{count} images to train on; loading PyTorch")  # which takes seconds
    from ..fit.fit import Devices, fit

    _quiet()
    fitted = fit(
        sources=sources,
        out=out,
        recipe=chosen,
        held_out=hold_out or (),
        resume=resume,
        workers=workers,
        progress_bar=progress,
        precision=LIGHTNING[precision],
        pairs=() if simulate else read_pairs(pairs, stacks, step_um, plane_pattern, distance_um),
        start=start,
        devices=Devices(accelerator.value, devices, nodes, strategy.value),
    )
    from lightning.pytorch.utilities import rank_zero_only

    if rank_zero_only.rank == 0:  # type: ignore[attr-defined]
        say(f"next: defocus-export {fitted.checkpoint} -o model.onnx")
        say(f"trained: {fitted.checkpoint}{_gains(fitted.gains)}")


def _count_images(folders: Sequence[Path]) -> int:
    """How many images the folders hold. Raises InputError for one that is missing or holds none."""
    from ..data.fields import list_images

    return sum(len(list_images(folder)) for folder in folders)


def _gains(gains: dict[str, float]) -> str:
    """Gains of a run as a part of a sentence, by distance where it is known."""
    by_distance = {name: value for name, value in sorted(gains.items()) if name != "gain"} or gains
    texts = [
        f"{int(name[len('gain_') : -len('um')])} um {value:+.2f} dB" if name != "gain" else f"{value:+.2f} dB"
        for name, value in by_distance.items()
    ]
    return f"; gain on what was held out: {', '.join(texts)}" if texts else ""


def recipe_path(text: str) -> Path:
    """The file of a recipe: one of ours by name, or the path given. Raises InputError if there is neither."""
    recipes = {path.stem: path for path in sorted(RECIPES.glob("*.toml"))}
    if text in recipes:
        return recipes[text]
    if not Path(text).is_file():
        raise InputError(text, "no such recipe", f"choose {' or '.join(recipes)}, or give a TOML file")
    return Path(text)


def read_pairs(
    folders: tuple[Path, Path] | None,
    stacks: Path | None,
    step_um: float | None = None,
    plane_pattern: str | None = None,
    distance_um: float | None = None,
) -> list[Pair]:
    """The measured pairs of two folders or of a folder of stacks; with a distance, those of that distance."""
    if folders:
        from ..data.folders import pairs_from_folders

        return pairs_from_folders(*folders, distance_um)  # which they do not say themselves
    from ..data.paired import at_distance
    from ..data.stacks import pairs_from_stacks

    assert stacks
    pairs = pairs_from_stacks(stacks, pattern=plane_pattern, step_um=step_um)
    return pairs if distance_um is None else at_distance(pairs, distance_um)


def _quiet() -> None:
    """Keep what Lightning and its loggers tell about themselves off the terminal."""
    import logging
    import warnings

    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module=r"lightning\b")


def main() -> None:
    run(app)


if __name__ == "__main__":
    main()
