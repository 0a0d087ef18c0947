"""Reading a training checkpoint back: weights and recipe only, never code (torch's weights_only)."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import torch

from ..engine.errors import ModelError
from .networks.coarse_to_fine import CoarseToFine
from .recipe import Recipe

PREFIX = "network."
_REMEDY = "give a checkpoint written by defocus-train"


def load_checkpoint(path: Path) -> tuple[CoarseToFine, Recipe]:
    """The trained network in evaluation mode, on the CPU, and the recipe that made it.

    The weights are the exponential moving average that training keeps.

    Raises
    ------
    ModelError
        Missing, damaged, not a checkpoint of ours, or its weights do not fit its recipe.
    """
    path = Path(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise ModelError(path, "no such checkpoint", _REMEDY) from error
    except (OSError, EOFError, RuntimeError, ValueError, BadZipFile, pickle.UnpicklingError) as error:
        raise ModelError(path, "cannot be read as a checkpoint", _REMEDY) from error
    try:
        fields: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in content["hyper_parameters"].items()
        }
        recipe = Recipe(**fields)
        network = CoarseToFine.of(recipe)
        weights = {
            name.removeprefix(PREFIX): value for name, value in content["state_dict"].items() if name.startswith(PREFIX)
        }
        network.load_state_dict(weights)
    except (AttributeError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise ModelError(path, "is not a checkpoint of defocus-train, or of another version of it", _REMEDY) from error
    return network.eval(), recipe
