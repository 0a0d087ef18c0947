"""Every trainable network by name: ours with one to four levels in two modes, and those that the paper compares."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from ...engine.errors import InputError
from .coarse_to_fine import CoarseToFine
from .dncnn import DnCNN
from .nah import Nah
from .rdn import RDN
from .srn import MRN, SRN


@dataclass(frozen=True)
class Known:
    """A network: its title in the tables, how it is built for so many channels, its source, and a choice of ours."""

    title: str
    build: Callable[[int], nn.Module]
    source: str
    note: str = ""


WANG_HAN = "Wang & Han, Defocus deblur microscopy via feature interactive coarse-to-fine network"


def _ours(levels: int, interaction: str) -> Known:
    title = f"ours, N = {levels}, {interaction}" if levels > 1 else "U-Net (N = 1)"
    return Known(title, lambda channels: CoarseToFine(levels, interaction, channels), WANG_HAN)  # type: ignore[arg-type]


METHODS: dict[str, Known] = {
    **{f"residual-{n}": _ours(n, "residual") for n in (1, 2, 3, 4)},
    **{f"concat-{n}": _ours(n, "concat") for n in (2, 3, 4)},
    "nah": Known(
        "Nah (DeepDeblur)", Nah, "Nah et al., CVPR 2017", "its generator alone, without the adversarial loss."
    ),
    "rdn": Known(
        "Zhao (RDN)", RDN, "Zhang et al., CVPR 2018; Zhao et al., J. Biophotonics 2020", "D = 16, C = 8, G = 64."
    ),
    "rdn-light": Known(
        "Zhao (RDN, light)",
        lambda channels: RDN(channels, blocks=20, layers=6, growth=32),
        "Zhang et al., CVPR 2018; Zhao et al., J. Biophotonics 2020",
        "D = 20, C = 6, G = 32.",
    ),
    "srn": Known("Na (SRN)", SRN, "Na et al., Acta Materialia 2021", "width, kernel and loss are our choice."),
    "mrn": Known("Na (MRN)", MRN, "Na et al., Acta Materialia 2021", "width, kernel and loss are our choice."),
    "dncnn": Known(
        "Liu (residual CNN)",
        DnCNN,
        "Liu et al., Optics Express 2020; Zhang et al., IEEE TIP 2017",
        "the reading of the paper's words as a residual CNN (DnCNN-17).",
    ),
    "denoiser": Known(
        "Liu (the denoiser within ADMM)",
        lambda channels: DnCNN(channels, extra=1),
        "Liu et al., Optics Express 2020",
        "takes the noise level as a further channel, so that one network serves sigma 45 to 15 of 255.",
    ),
}
ALIASES = {"unet": "residual-1", "concat-1": "residual-1"}  # one level has no interaction
NAMES = (*METHODS, *ALIASES)


def build(name: str, channels: int) -> nn.Module:
    """A network with random weights for images of so many channels.

    Its forward takes float (batch, channels, Y, X), Y and X multiples of its `multiple`, and returns a list of images,
    finest first, each at half the resolution of the one before. Raises InputError for an unknown name.
    """
    known = METHODS.get(ALIASES.get(name, name))
    if known is None:
        near = difflib.get_close_matches(name, NAMES, 1)
        remedy = f'did you mean "{near[0]}"?' if near else f"choose from {', '.join(NAMES)}"
        raise InputError(name, "is no network that we know", remedy)
    return known.build(channels)
