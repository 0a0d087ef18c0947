"""The steps of `defocus-export`: FP32 file, FP16 file, TensorRT engine; each is proven before it stands."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np

from ..engine.errors import BackendError, InputError, MissingExtraError, ModelError
from ..engine.files.atomic import output_error
from ..engine.inference.backends import ON_CARD, backend, open_session
from ..engine.inference.backends.tensorrt.backend import RTX, TENSORRT, TensorRT
from ..engine.inference.backends.tensorrt.config import BuildConfig, Profile, usual_profiles
from ..engine.inference.backends.tensorrt.plan_cache import PlanCache, PlanKey
from ..engine.installation import install_command
from ..engine.model.card import Card, half_precision, model_path, read_card
from .fp16_check import Run

AUTO = "auto"
ONNX_SUFFIX = ".onnx"
Tell = Callable[[str], None]


def is_model(source: str) -> bool:
    """Whether a source is a model file already ("default" or ONNX) and not a checkpoint."""
    return source == "default" or Path(source).suffix.lower() == ONNX_SUFFIX


@contextmanager
def unproven(out: Path) -> Iterator[Path]:
    """A name beside `out` to write to: it becomes `out` if the block ends well, else it goes.

    A file that fails its proof never stands where a user would take it. Raises OutputError.
    """
    try:  # minutes may pass until the file is written
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise output_error(out, error) from error
    candidate = out.with_name(f".{out.stem}.unproven{out.suffix}")
    try:
        yield candidate
        candidate.replace(out)
    finally:
        candidate.unlink(missing_ok=True)


def export_fp32(
    checkpoint: Path,
    out: Path,
    describe: Callable[..., Card],
    images: Path | None,
    tell: Tell,
    name: Path,
    force: bool = False,
) -> Run:
    """Write a checkpoint as FP32 ONNX to `out`, prove it, measure its gain, and return the torch network as a `Run`.

    `describe(recipe)` makes the card, `name` stands in messages. With `force` a model that loses is only told of.

    Raises
    ------
    MissingExtraError, ModelError, InputError, OutputError
        torch is missing; the checkpoint, the images or the result cannot be used; the model loses against its input.
    """
    _require("onnx", "onnxscript", "torch", "skimage")
    import torch

    from ..training.fit.checkpoint import load_checkpoint
    from .gain import measure_gain, refuse_losses
    from .onnx_export import export_onnx
    from .parity import TOLERANCE, compare, refuse_differences

    network, recipe = load_checkpoint(checkpoint)
    card = describe(recipe)
    export_onnx(network, card, out)
    comparisons = []
    for comparison in compare(network, out, images):
        comparisons.append(comparison)
        tell(f"  {comparison.error:8.1e} of the range  {' x '.join(map(str, comparison.shape)):>20}  {comparison.name}")
    refuse_differences(name, comparisons)
    tell(
        f"{name}: equal to torch within {max(comparison.error for comparison in comparisons):.1e} (limit {TOLERANCE:g})"
    )

    def run(batch: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return network(torch.from_numpy(np.ascontiguousarray(batch)))[0].numpy()

    gains = []
    for gain in measure_gain(run, card, images):
        if not gains:
            tell(f"PSNR to the truth before and after, {'images of ' + str(images) if images else 'drawn specimens'}:")
        gains.append(gain)
        tell(f"  {gain}")
    if gains:
        try:
            refuse_losses(name, gains)
        except ModelError as error:
            if not force:
                raise
            tell(f"exported all the same: it {error.cause}")
    else:
        tell("its gain is not measured: the distances that it was trained for are not known")
    return run


def export_fp16(
    source: Path,
    out: Path,
    exact: Run | None,
    keep: Sequence[str],
    half_ends: bool,
    images: Path | None,
    tell: Tell,
) -> None:
    """Write an FP32 ONNX file in half precision, if it passes the gate.

    Parameters
    ----------
    exact : callable or None
        What it is compared with: the torch network; None: the FP32 file itself.
    keep : sequence of str
        Layers that stay in FP32; "auto" among them: those that the gate needs, found by bisection.
    images : path, optional
        Folder of real, defocused images that the gate runs as well.

    Raises
    ------
    ModelError
        The gate fails (the layers to keep are named), or the source is no FP32 model of ours.
    InputError, MissingExtraError, OutputError
        A layer's name or the images cannot be used; a package is missing; the file cannot be written.
    """
    _require("onnx", "torch")
    import onnx

    from .fp16 import chosen, half_share, layers, rounded_like_half, save_half, to_half
    from .fp16_check import LEAST_DB, compare, culprits, on_cpu, planes, refuse_imprecise, samples

    card = read_card(source)
    if card.precision != "fp32":
        raise InputError(source, f"is {card.precision} already", "give the checkpoint, or the FP32 file")
    model = onnx.load(str(source))
    exact = exact or on_cpu(model)
    names = layers(model)
    kept = chosen([name for name in keep if name != AUTO], names)

    def verdicts(kept: Sequence[str], among):  # type: ignore[no-untyped-def]
        # Half ends are left out here: a Cast in front rounds the input alike.
        return list(compare(exact, on_cpu(rounded_like_half(to_half(model, kept))), card, among))

    every = list(samples(planes(images), card))
    results = verdicts(kept, every)
    wrong = [sample for sample, verdict in zip(every, results, strict=True) if not verdict.passes]
    if wrong:
        tell(f"{len(wrong)} of {len(every)} planes fail in half precision: looking for the layers that need FP32")
        free = [name for name in names if name not in kept]
        needed = culprits(free, lambda some: all(verdict.passes for verdict in verdicts((*kept, *some), wrong)))
        if AUTO in keep and needed:
            kept = (*kept, *needed)
            results = verdicts(kept, every)
            tell(f"kept in FP32: {', '.join(needed)}")
        else:
            _table(results, tell)
            refuse_imprecise(out, results, needed)
    _table(results, tell)
    refuse_imprecise(out, results)
    half = to_half(model, kept, half_ends)
    with unproven(out) as candidate:
        save_half(half, card, candidate)
        for name in ("cpu", *(name for name in ON_CARD if backend(name).unavailable_reason() is None)):
            opened = open_session(name, candidate, card)
            try:
                real = list(compare(exact, opened.session.run, card, every))
            finally:
                opened.session.close()
            refuse_imprecise(out, real)
            tell(f"{name}: {min(verdict.psnr for verdict in real):.1f} dB or better ({opened.session.description})")
    count, total = half_share(half)
    tell(
        f"{out}: {count} of {total} convolutions in half precision ({100 * count / total:.0f} %), "
        f"{min(verdict.psnr for verdict in results):.1f} dB to FP32 or better (limit {LEAST_DB:g})"
    )


def build_engine(model: Path, texts: Sequence[str], tell: Tell, **settings: object) -> PlanKey:
    """Build the TensorRT engine of an FP16 model, or of that beside an FP32 one, into the user's cache.

    `texts` are profiles (`Profile.parse`), () for the usual ones; `settings` are fields of `BuildConfig`. TensorRT is
    taken where it runs, else TensorRT for RTX, which needs no GPU if `capabilities` are given.

    Raises
    ------
    BackendError, ModelError, InputError
        Neither is installed or can build here; the model is not FP16; a profile cannot be read.
    """
    card = read_card(model)
    model, card = half_precision(model, card) or (model, card)
    profiles = tuple(Profile.parse(text, card) for text in texts) or usual_profiles(card)
    recipe = replace(BuildConfig(profiles), **settings)  # type: ignore[arg-type]
    key = _flavour(recipe).build_ahead(model, recipe, say=tell)
    tell(f"engine {key.digest} of {model.name} is in {PlanCache().folder}")
    return key


def source_file(source: str) -> Path:
    """The file behind "default" or a path. Raises ModelError."""
    return model_path(source)


def _flavour(recipe: BuildConfig) -> TensorRT:
    reasons = {flavour.name: flavour.unavailable_reason() for flavour in (TENSORRT, RTX)}
    if reasons["tensorrt"] is None:
        return TENSORRT
    installed = "not installed" not in (reasons["rtx"] or "")
    if reasons["rtx"] is None or (installed and recipe.capabilities):
        return RTX
    if not installed:
        raise BackendError("TensorRT", "is not installed", f"install it with: {install_command('rtx')}")
    remedy = "build on the machine with the card, or name its generation: --capability SM89"
    raise BackendError("TensorRT", f"cannot build for a card that is not here ({reasons['rtx']})", remedy)


def _table(verdicts, tell: Tell) -> None:  # type: ignore[no-untyped-def]
    for verdict in verdicts:
        tell(f"  {verdict}")


def _require(*packages: str) -> None:
    from importlib import import_module

    for package in packages:
        try:
            import_module(package)
        except ImportError as error:
            raise MissingExtraError(error.name or package, "train", "export") from error
