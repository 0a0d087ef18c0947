"""Every method that the evaluation compares, as one kind of thing: a recorded plane goes in, a restored one comes out.

Networks are read from weights (`NAME.pt`, what `checkpoint.save_weights` writes; `care.onnx` for CARE); classical
methods are told the PSF, at the true distance (the oracle) or at a wrong one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ...engine.errors import InputError
from ...engine.image.normalization import from_unit, measure, to_unit
from ...engine.model.card import Percentiles
from ..classical.admm import admm
from ..classical.richardson_lucy import richardson_lucy
from ..classical.wiener import wiener
from ..fit.checkpoint import load_checkpoint
from ..fit.restoration import multiple_of
from ..networks.zoo import METHODS
from ..physics.optics import psf
from .heldout import CAMERA, OPTICS
from .suite import Case

WEIGHTS = ".pt"
SHIPPED = "default"  # the model inside the package
DENOISER = "denoiser"  # the network within Liu's ADMM
Restore = Callable[[Case], np.ndarray]  # (C, Y, X) counts of a case -> (C, Y, X) float32 counts


@dataclass(frozen=True)
class Method:
    """A method of the tables.

    Attributes
    ----------
    name, title : str
        As the command line and as the tables call it.
    restore : callable
        Restores one case.
    network : torch.nn.Module, optional
        For parameter counts and GFLOP.
    channels : int
        Input channels of the network.
    knows_psf : bool
        Whether it is told the distance and the optics: then it is an oracle, not what a user has.
    note : str
        What to know about this reading of the paper.
    """

    name: str
    title: str
    restore: Restore
    network: torch.nn.Module | None = None
    channels: int = 1
    knows_psf: bool = False
    note: str = ""


def check_names(names: Sequence[str]) -> None:
    """Raise InputError for a name that is no method's, with those there are."""
    known = [*(name for name, *_ in CLASSICAL_CASES), "admm", "care", *METHODS, SHIPPED]
    known.remove(DENOISER)
    for name in names:
        if name not in known:
            raise InputError(name, "is no method that we know", f"choose from {', '.join(known)}")


def available(weights: Path, names: Sequence[str] | None = None) -> Iterator[Method]:
    """The methods that can run here: the classical ones, and those with weights in the folder. In table order."""
    for name, title, scale in CLASSICAL_CASES:
        if names is None or name in names:
            yield classical(name, title, scale)
    denoiser = Path(weights) / f"{DENOISER}{WEIGHTS}"
    if denoiser.is_file() and (names is None or "admm" in names):
        yield plug_and_play(denoiser)
    if (Path(weights) / "care.onnx").is_file() and (names is None or "care" in names):
        yield care(Path(weights) / "care.onnx")
    for name in METHODS:
        path = Path(weights) / f"{name}{WEIGHTS}"
        if name != DENOISER and path.is_file() and (names is None or name in names):
            yield trained_network(name, path)
    if names is None or SHIPPED in names:
        yield shipped()


def trained_network(name: str, path: Path) -> Method:
    """A network of the zoo from its weights. Raises ModelError if they cannot be read."""
    network, recipe = load_checkpoint(path)
    known = METHODS[name]

    def restore(case: Case) -> np.ndarray:
        # A network of one channel takes the channels of a case one by one.
        groups = [case.seen] if len(case.seen) == recipe.channels else [plane[None] for plane in case.seen]
        return np.concatenate([through_network(network, planes, multiple_of(network)) for planes in groups])

    return Method(name, known.title, restore, network, recipe.channels, note=known.note)


@torch.inference_mode()
def through_network(network: torch.nn.Module, planes: np.ndarray, multiple: int) -> np.ndarray:
    """Counts (C, Y, X) through a network in unit range, padded by reflection to its multiple; rounded counts."""
    intensities = [measure(plane, Percentiles()) for plane in planes]
    unit = np.stack([to_unit(plane, intensity) for plane, intensity in zip(planes, intensities, strict=True)])
    height, width = unit.shape[1:]
    padded = np.pad(unit, ((0, 0), (0, -height % multiple), (0, -width % multiple)), mode="reflect")
    output = network(torch.from_numpy(padded)[None])[0][0, :, :height, :width].float().numpy()
    restored = [from_unit(plane, intensity, planes.dtype) for plane, intensity in zip(output, intensities, strict=True)]
    return np.stack(restored).astype(np.float32)


# name, title, distance that the method believes relative to the true one
CLASSICAL_CASES = (
    ("wiener", "Wiener, true PSF", 1.0),
    ("rl", "Richardson-Lucy, true PSF", 1.0),
    ("rl-half", "Richardson-Lucy, PSF of half the distance", 0.5),
    ("rl-twice", "Richardson-Lucy, PSF of twice the distance", 2.0),
)


def classical(name: str, title: str, scale: float) -> Method:
    """Wiener or Richardson-Lucy with the PSF at `scale` times the true distance."""
    algorithm = wiener if name.startswith("wiener") else richardson_lucy

    def restore(case: Case) -> np.ndarray:
        return deconvolve(case, lambda light, kernel: algorithm(light, kernel), scale)

    return Method(name, title, restore, knows_psf=True)


def plug_and_play(path: Path) -> Method:
    """Liu et al.: plug-and-play ADMM with the true PSF and the denoiser trained here."""
    network, _recipe = load_checkpoint(path)

    @torch.inference_mode()
    def denoise(image: np.ndarray, sigma: float) -> np.ndarray:
        level = np.full_like(image, sigma)
        stacked = torch.from_numpy(np.stack([image, level]).astype(np.float32))[None]
        return network(stacked)[0][0, 0].numpy()

    def restore(case: Case) -> np.ndarray:
        return deconvolve(case, lambda light, kernel: admm(light, kernel, denoise), 1.0)

    return Method("admm", "Liu (plug-and-play ADMM, true PSF)", restore, network, channels=2, knows_psf=True)


def shipped() -> Method:
    """The model inside the package, as the engine runs it."""
    from ...engine.inference.engine import Engine

    engine = Engine.load(backend="cpu")

    def restore(case: Case) -> np.ndarray:
        return engine(case.seen, axes="CYX").astype(np.float32)

    card = engine.card
    made = f"Model {card.name}, {card.date}, sha256 {card.sha256[:16]}"  # compared by tests/test_docs.py
    note = f"{made}; blind and trained far longer than the others, over wide optics (docs/models/default.md)."
    return Method(SHIPPED, "defocus, the model in the package", restore, note=note)


def care(path: Path) -> Method:
    """CARE as careamics trains it (benchmarks/comparison/care.py), through ONNX Runtime."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    meta = session.get_modelmeta().custom_metadata_map

    class Session(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
            return [torch.from_numpy(session.run(None, {session.get_inputs()[0].name: x.numpy()})[0])]

    network = Session()

    def restore(case: Case) -> np.ndarray:
        return np.concatenate([through_network(network, plane[None], 16) for plane in case.seen])

    return Method("care", f"CARE (careamics {meta.get('careamics', '')})".replace(" )", ")"), restore)


def deconvolve(case: Case, algorithm: Callable[[np.ndarray, np.ndarray], np.ndarray], scale: float) -> np.ndarray:
    """A classical method on each channel, the camera's offset taken off and put back. A plane in focus is left."""
    if case.z_um == 0:
        return case.seen.astype(np.float32)
    kernel = psf(OPTICS, case.z_um * scale)
    light = [np.clip(plane - np.float32(CAMERA.offset), 0, None) for plane in case.seen.astype(np.float32)]
    return np.stack([algorithm(plane, kernel) + np.float32(CAMERA.offset) for plane in light]).astype(np.float32)
