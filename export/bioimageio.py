"""A bioimage.io model package (bioimageio.spec 0.5): the same ONNX file for Fiji, ilastik, napari and deepImageJ.

The package takes counts and gives counts of the unit range: its preprocessing is our intensity rule, but the format has
no step that takes a plane back to the offset and scale that it had before. documentation.md says how.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import imagecodecs
import numpy as np
import tifffile

from ..engine._version import __version__
from ..engine.errors import InputError, MissingExtraError
from ..engine.files.atomic import commit
from ..engine.image.normalization import Intensity, measure, to_unit
from ..engine.image.tiling import round_up
from ..engine.inference.backends import open_session
from ..engine.model.card import Card, read_card
from ..training.evaluation.heldout import counts_pair
from ..training.evaluation.suite import drawn_fields

COVER_SIDE = 256  # px
LEAST_CORE = 64  # px within the halo
EPS = 1e-6  # of bioimageio's scale_range, added to the range: nothing beside a count
_REPOSITORY_TAGS = ["deconvolution", "deblurring", "fluorescence-light-microscopy", "image-restoration", "2d"]


@dataclass(frozen=True)
class Contacts:
    """Who stands behind a package.

    Attributes
    ----------
    authors : sequence of str
        Names.
    maintainers : sequence of str
        GitHub users, by which bioimage.io reaches whoever answers for the model; it wants one at least.
    git_repo : str or None
        Address of the repository where the model is developed.
    """

    authors: Sequence[str] = ("The defocus developers",)
    maintainers: Sequence[str] = ()
    git_repo: str | None = None


def write_package(
    model: Path, out: Path, tell: Callable[[str], None] = lambda line: None, contacts: Contacts | None = None
) -> None:
    """Write the bioimage.io package of an FP32 or FP16 model with float32 ends, and test it with bioimageio.core.

    Raises
    ------
    MissingExtraError
        bioimageio.core is not installed.
    InputError
        `out` is no .zip, the contacts are not what the format takes, or bioimageio.core's test does not pass.
    ModelError, OutputError
        The model cannot be read, or the package not be written.
    """
    try:
        import onnx  # noqa: F401  for `describe`
        from bioimageio.core import test_description
        from bioimageio.spec import ValidationContext, save_bioimageio_package
    except ImportError as error:
        raise MissingExtraError(error.name or "bioimageio.core", "bioimageio", "a bioimage.io package") from error
    if out.suffix != ".zip":
        raise InputError(out, "is no name for a package", "give one that ends in .zip")
    card = read_card(model)
    with TemporaryDirectory() as folder:
        description = describe(model, card, Path(folder))
        people = _people(contacts or Contacts())
        summary = test_description(description)
        if summary.status == "failed":
            wrong = "; ".join(error.msg for detail in summary.details for error in detail.errors) or "no reason given"
            raise InputError(model, f"fails bioimageio.core's test ({' '.join(wrong.split())[:300]})", "report it")
        with commit(out) as temporary:
            packed = Path(folder) / "package.zip"
            with ValidationContext(perform_io_checks=False):  # users and addresses are not looked up on the network
                save_bioimageio_package(description.model_copy(update=people), output_path=packed)
            Path(temporary).write_bytes(packed.read_bytes())
    tell(f"{out}: bioimage.io package, {summary.status} by bioimageio.core")


def describe(model: Path, card: Card, folder: Path) -> Any:
    """The package's description (bioimageio.spec.model.v0_5.ModelDescr); its files are written into `folder`."""
    import onnx
    from bioimageio.spec.model import v0_5 as spec

    seen, restored, intensity = example(model, card)
    unit = np.repeat(to_unit(seen, intensity)[None, None], card.channels, axis=1)
    opened = open_session("cpu", model, card)
    try:
        expected = opened.session.run(unit)
    finally:
        opened.session.close()
    np.save(folder / "test_input.npy", np.repeat(seen[None, None], card.channels, axis=1).astype(np.float32))
    np.save(folder / "test_output.npy", expected)
    _cover(seen, restored, folder / "cover.png")
    for name, plane in (("sample_input.tif", seen), ("sample_output.tif", expected[0, 0])):  # for people
        tifffile.imwrite(folder / name, np.repeat(plane[None, None], card.channels, axis=1), photometric="minisblack")
    (folder / "documentation.md").write_text(_documentation(card), encoding="utf-8")
    (folder / "weights.onnx").write_bytes(model.read_bytes())
    names = [f"channel{index}" for index in range(card.channels)]
    size = spec.ParameterizedSize(min=_least_side(card), step=card.multiple)

    def space(letter: str) -> Any:
        return spec.SpaceInputAxis(id=spec.AxisId(letter), size=size)

    def space_out(letter: str) -> Any:
        of = spec.SizeReference(tensor_id=spec.TensorId("image"), axis_id=spec.AxisId(letter))
        return spec.SpaceOutputAxisWithHalo(id=spec.AxisId(letter), size=of, halo=card.halo)

    channels = spec.ChannelAxis(channel_names=[spec.Identifier(name) for name in names])
    rule = spec.ScaleRangeDescr(
        kwargs=spec.ScaleRangeKwargs(
            axes=[spec.AxisId("y"), spec.AxisId("x")],
            min_percentile=card.intensity.low,
            max_percentile=card.intensity.high,
            eps=EPS,
        )
    )
    file = spec.FileDescr
    return spec.ModelDescr(
        name=f"defocus {card.name}",
        description="Restores widefield fluorescence planes that were recorded out of focus, blind to the distance.",
        covers=[file(source=folder / "cover.png")],
        documentation=file(source=folder / "documentation.md"),
        authors=[spec.Author(name="The defocus developers")],
        cite=[
            spec.CiteEntry(
                text='The training images: Ljosa et al., "Annotated high-throughput microscopy image sets", BBBC006',
                doi=spec.Doi("10.1038/nmeth.2083"),
            )
        ],
        license=_licence(card),
        tags=_REPOSITORY_TAGS,
        version=spec.Version("0.1.0"),
        inputs=[
            spec.InputTensorDescr(
                id=spec.TensorId("image"),
                description="A plane out of focus, in camera counts",
                axes=[spec.BatchAxis(), channels, space("y"), space("x")],
                test_tensor=file(source=folder / "test_input.npy"),
                sample_tensor=file(source=folder / "sample_input.tif"),
                preprocessing=[rule],
            )
        ],
        outputs=[
            spec.OutputTensorDescr(
                id=spec.TensorId("restored"),
                description="The plane in focus, in units of the input's range",
                axes=[spec.BatchAxis(), channels, space_out("y"), space_out("x")],
                test_tensor=file(source=folder / "test_output.npy"),
                sample_tensor=file(source=folder / "sample_output.tif"),
            )
        ],
        weights=spec.WeightsDescr(
            onnx=spec.OnnxWeightsDescr(
                source=folder / "weights.onnx", opset_version=onnx.load(str(model)).opset_import[0].version
            )
        ),
    )


def example(model: Path, card: Card) -> tuple[np.ndarray, np.ndarray, Intensity]:
    """A drawn plane, uint16 (Y, X), what the engine makes of it, and its intensity."""
    from ..engine.inference.engine import Engine

    side = _least_side(card)
    seen = counts_pair(drawn_fields(1)[0], 22)[0]
    seen = np.pad(seen, [(0, max(0, side - length)) for length in seen.shape], "symmetric")[:side, :side]
    stack = np.repeat(seen[None], card.channels, axis=0)
    with Engine.load(model, backend="cpu") as engine:
        restored = engine(stack, axes="CYX")[0]
    return seen, restored, measure(seen, card.intensity)


def _people(contacts: Contacts) -> dict[str, Any]:
    """The contacts as the format has them; nobody is asked whether they exist. Raises InputError."""
    from bioimageio.spec import ValidationContext
    from bioimageio.spec.model import v0_5 as spec

    try:
        with ValidationContext(perform_io_checks=False):
            return {
                "authors": [spec.Author(name=name) for name in contacts.authors],
                "maintainers": [spec.Maintainer(github_user=user) for user in contacts.maintainers],
                "git_repo": spec.HttpUrl(contacts.git_repo) if contacts.git_repo else None,
            }
    except ValueError as error:  # pydantic's: a line with the field, then one with what is wrong
        wrong = " ".join(str(error).split("[type=")[0].split("\n", 1)[-1].split())
        raise InputError("author, maintainer or repository", f"not accepted ({wrong})", "correct it") from error


def _least_side(card: Card) -> int:
    """Height and width at least, px: the format wants a core between the halos."""
    return round_up(2 * card.halo + LEAST_CORE, card.multiple)


def _licence(card: Card) -> Any:
    """The card's licence if it is an SPDX identifier."""
    from bioimageio.spec.model import v0_5 as spec

    try:
        return spec.LicenseId(card.licence)
    except ValueError:
        return None


def _cover(seen: np.ndarray, restored: np.ndarray, path: Path) -> None:
    """Left half defocused, right half restored; PNG, 2:1."""
    side = min(COVER_SIDE, *seen.shape)
    both = []
    for plane in (seen, restored):
        low, high = np.percentile(plane, (0.5, 99.8))
        both.append(np.clip((plane[:side, :side] - low) / max(high - low, 1), 0, 1))
    path.write_bytes(imagecodecs.png_encode((255 * np.hstack(both)).astype(np.uint8)))


def _documentation(card: Card) -> str:
    limits = {
        "pixel size in the specimen, um": card.pixel_size_um,
        "numerical aperture": card.na_range,
        "emission wavelength, um": card.wavelength_um_range,
        "distance from focus, um": card.defocus_um_range,
    }
    rows = [f"- {name}: {low:g} to {high:g}" for name, (low, high) in ((n, v) for n, v in limits.items() if v)]
    low, high = card.intensity.low, card.intensity.high
    return "\n".join(
        [
            f"# {card.name}",
            "",
            "Restores single planes of a widefield fluorescence microscope that were recorded out of focus. It is",
            'blind to the distance. The network is that of Wang & Han, "Defocus deblur microscopy via feature',
            'interactive coarse-to-fine network".',
            "",
            "## Made for",
            *rows,
            f"- trained on: {card.training_data}",
            "",
            "Outside these limits its results are not to be trusted. It must never replace the recorded image.",
            "",
            "## Intensity",
            f"The input is taken to unit range by its {low:g} and {high:g} percentiles, each plane by itself. The",
            f"output is in that range: counts = output * (p{high:g} - p{low:g}) + p{low:g}. `defocus-run` does this.",
            "",
            "## Validation",
            "PSNR and SSIM against the sharp field on planes that were defocused by simulation, against other methods,",
            "and on real through-focus bead stacks stand in the project's docs/results, with the commands.",
            "",
            f"Written by defocus {__version__}.",
            "",
        ]
    )
