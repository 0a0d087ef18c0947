"""A recipe: everything that decides what a training run does, in one frozen object that can be committed."""

from __future__ import annotations

import dataclasses
import difflib
import json
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ...engine.errors import InputError

CHECKPOINT = "last.ckpt"  # of a run's folder
Interaction = Literal["residual", "concat"]
Distance = Literal["l1", "mse", "log-mse"]


@dataclass(frozen=True)
class Recipe:
    """What to train, on what and how; the defaults are our recipe (docs/models/default.md says what each part brought).

    Ranges are (low, high); each crop draws its own value, uniformly, or log-uniformly where the text says so.

    BatchNorm's statistics are frozen early. Without a global "+ x" every way from input to output passes a BatchNorm,
    and those of a batch of four crops forget how bright each of them was: the network could not learn to give a sharp
    plane back.
    """

    # network
    levels: int = 4
    interaction: Interaction = "residual"
    channels: int = 1
    finest_sees_coarse: bool = True
    # what a microscope may do to a crop
    defocus_um: tuple[float, float] = (0.0, 42.0)
    sharp_share: float = 0.08  # of the crops are in focus (z = 0)
    na: tuple[float, float] = (0.4, 0.6)
    wavelength_um: tuple[float, float] = (0.45, 0.62)
    pixel_um: tuple[float, float] = (0.58, 0.72)
    peak_photons: tuple[float, float] = (300.0, 20000.0)  # log-uniform, at the field's 99.9th percentile
    haze: tuple[float, float] = (0.0, 0.3)  # even background light, relative to the peak
    read_noise_photons: tuple[float, float] = (1.0, 8.0)
    empty_share: float = 0.02  # of the crops show nothing but noise: nothing must come out
    spherical_waves: float = 0.3  # largest root mean square of spherical aberration, of either sign
    asymmetric_waves: float = 0.06  # the same of coma and of astigmatism
    near_power: float = 1.0  # above 1 draws near distances, where more can be restored, more often
    thick_share: float = 0.1  # of the crops have a second layer of structures at another depth
    thick_um: tuple[float, float] = (-12.0, 12.0)
    wide_share: float = 0.0  # of the crops are seen through any dry objective instead, with its aberrations
    wide_na: tuple[float, float] = (0.25, 0.8)
    wide_pixel_um: tuple[float, float] = (0.3, 1.4)  # log-uniform
    aberration_waves: float = 0.12  # as spherical_waves, for the wide share; coma and astigmatism half
    optics_bank: int = 1500  # microscopes drawn once and shared by all crops; 0: each crop draws its own
    # crops
    crop: int = 256
    margin: int = 48  # blurred along and cut away: the reach of the widest defocus
    drawn_share: float = 0.15  # of the crops show specimens drawn by training.specimen
    # fitting
    batch: int = 4
    steps: int = 20000
    steps_per_epoch: int = 500
    learning_rate: float = 1e-3
    warmup_steps: int = 300
    decay_share: float = 0.35  # of the steps, at the end, along which the learning rate falls to a hundredth
    frozen_norm_share: float = 0.9  # of the steps, at the end, in which BatchNorm uses its running statistics; 1: all
    balance: float = 0.0  # with "l1" and "mse", 0.7 keeps near distances, whose errors are small, from being drowned
    light_weight: float = 0.0  # with "mse" and "log-mse", how much more the square of the mean error counts
    coarse_weight: float = 0.25  # in the loss, of each level but the finest; 1 is eq. (5)
    ema_decay: float = 0.999
    ema_from_step: int = 600  # before, BatchNorm's statistics are still those of no image
    validate_every: int = 4  # epochs
    seed: int = 0
    # the network by name, and what differs between published recipes
    network: str = ""  # a name of networks.zoo; "" is the coarse-to-fine network of the fields above
    near_identity: bool = True  # start so that the untrained coarse-to-fine network passes its input on
    distance: Distance = "log-mse"  # of eq. (5): "l1", which the text prefers, the printed "mse", or its logarithm
    beta2: float = 0.99  # Adam's; beta1 is 0.9
    clip: float = 5.0  # largest norm of the gradient; 0: any
    patience: int = 0  # validations without a gain after which a run stops; 0: never
    # set by the run itself
    measured: bool = False  # trained on measured planes: no optics were simulated, and defocus_um (0, 0) is not known

    @property
    def epochs(self) -> int:
        """How many epochs the steps make; the last may be a short one."""
        return -(-self.steps // self.steps_per_epoch)

    @property
    def frozen_from(self) -> int:
        """The step from which BatchNorm's statistics are frozen: not before they have seen a batch, unless asked to."""
        return self.steps - int(self.steps * self.frozen_norm_share)

    @classmethod
    def load(cls, path: Path | None, **changes: Any) -> Recipe:
        """Read a TOML file of these names (None: the defaults), then apply the `changes` that are not None.

        Raises
        ------
        InputError
            Missing file, broken TOML, or an unknown name (the nearest known one is suggested).
        """
        values: dict[str, Any] = {}
        if path is not None:
            try:
                values = tomllib.loads(Path(path).read_text(encoding="utf-8"))
            except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
                raise InputError(
                    path,
                    f"cannot be read as a recipe ({error})",
                    "see docs/models/default/recipe.toml for one that works",
                ) from error
        known = {field.name for field in dataclasses.fields(cls)}
        for name in values:
            if name not in known:
                near = difflib.get_close_matches(name, known, 1)
                hint = f'did you mean "{near[0]}"?' if near else "remove it"
                raise InputError(path, f'unknown recipe key "{name}"', hint)
        values = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
        for name, value in values.items():
            example = getattr(cls, name)
            if not _alike(value, example):
                raise InputError(path, f'"{name}" is {value!r}', f"write something like {name} = {_toml(example)}")
        return cls(**{**values, **{name: value for name, value in changes.items() if value is not None}})

    def to_toml(self) -> str:
        """The recipe as a TOML file."""
        return "".join(f"{field.name} = {_toml(getattr(self, field.name))}\n" for field in dataclasses.fields(self))


def _toml(value: Any) -> str:
    """As JSON, whose strings, numbers and arrays are TOML's, too."""
    return json.dumps(value, ensure_ascii=False)


def _alike(value: Any, example: Any) -> bool:
    """Whether a value of a recipe file has the type of the default; whole numbers pass for others."""
    if isinstance(example, tuple):
        return isinstance(value, tuple) and len(value) == len(example) and all(map(_alike, value, example))
    if isinstance(example, float):
        return isinstance(value, int | float) and not isinstance(value, bool)
    return type(value) is type(example)
