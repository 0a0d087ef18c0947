"""Reading a training checkpoint back: weights and recipe only, never code (torch's weights_only)."""

from __future__ import annotations

import dataclasses
import pickle
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import torch
from torch import Tensor, nn

from ...engine.errors import InputError, ModelError
from ...engine.files.atomic import commit
from ..networks.coarse_to_fine import CoarseToFine
from ..networks.zoo import build
from .recipe import Recipe

PREFIX = "network."
_REMEDY = "give a checkpoint written by defocus-train"


def build_network(recipe: Recipe) -> nn.Module:
    """The untrained network of a recipe. Raises InputError for a name or a size that there is not."""
    try:
        return build(recipe.network, recipe.channels) if recipe.network else CoarseToFine.of(recipe)
    except ValueError as error:
        raise InputError("recipe", str(error), "correct it in the file given with --recipe") from error


def load_checkpoint(path: Path) -> tuple[nn.Module, Recipe]:
    """The trained network in evaluation mode, FP32 on the CPU, and the recipe that made it.

    Reads what training writes (its weights are the exponential moving average, if one is kept) and what
    `save_weights` does.

    Raises
    ------
    ModelError
        Missing, damaged, not a checkpoint of ours, or its weights do not fit its recipe.
    """
    content = read(path)
    try:
        fields: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in content["hyper_parameters"].items()
        }
        recipe = Recipe(**fields)
        network = build_network(recipe)
        network.load_state_dict(weights_of(content))
    except (AttributeError, KeyError, TypeError, ValueError, RuntimeError, InputError) as error:
        raise ModelError(path, "is not a checkpoint of defocus-train, or of another version of it", _REMEDY) from error
    return network.eval(), recipe


def save_weights(network: nn.Module, recipe: Recipe, path: Path) -> None:
    """Write the weights alone, in half precision, with their recipe: a small file that `load_checkpoint` reads."""
    weights = {
        PREFIX + name: value.half() if value.is_floating_point() else value
        for name, value in network.state_dict().items()
    }
    with commit(Path(path)) as temporary:
        torch.save({"hyper_parameters": dataclasses.asdict(recipe), "state_dict": weights}, temporary)


@torch.no_grad()
def start_from(network: nn.Module, path: Path) -> None:
    """Give a new network the weights of a checkpoint.

    A convolution that takes more channels than the checkpoint's gets zeros for those behind: at first it does what
    it did before.

    Raises
    ------
    ModelError
        The checkpoint cannot be read; or another tensor is missing, has another shape or is unknown to the network.
    """
    remedy = "give a checkpoint of the same network, or the recipe that made this one"
    weights = weights_of(read(path))
    for name, own in network.state_dict().items():
        found = weights.pop(name, None)
        if found is None:
            raise ModelError(path, f'has no tensor "{name}"', remedy)
        if found.shape != own.shape and _takes_more_channels(own, found):
            own[:, found.shape[1] :] = 0
            own[:, : found.shape[1]] = found
        elif found.shape == own.shape:
            own.copy_(found)
        else:
            shapes = f"{_by(found.shape)}, the network's is {_by(own.shape)}"
            raise ModelError(path, f'its tensor "{name}" is {shapes}', remedy)
    if weights:
        raise ModelError(path, f'its tensor "{next(iter(weights))}" is none of the network\'s', remedy)


def _takes_more_channels(own: Tensor, found: Tensor) -> bool:
    """Whether `own` is the weight of a convolution like `found`, with more input channels."""
    alike = own.ndim == found.ndim == 4 and own.shape[0] == found.shape[0] and own.shape[2:] == found.shape[2:]
    return alike and own.shape[1] > found.shape[1]


def _by(shape: torch.Size) -> str:
    return " x ".join(map(str, shape)) or "a number"


def read(path: Path) -> dict[str, Any]:
    """The content of a checkpoint, tensors on the CPU. Raises ModelError."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise ModelError(path, "no such checkpoint", _REMEDY) from error
    except (OSError, EOFError, RuntimeError, ValueError, BadZipFile, pickle.UnpicklingError) as error:
        raise ModelError(path, "cannot be read as a checkpoint", _REMEDY) from error
    if not isinstance(content, dict) or not isinstance(content.get("state_dict"), dict):
        raise ModelError(path, "is not a checkpoint of defocus-train, or of another version of it", _REMEDY)
    return content


def weights_of(content: dict[str, Any]) -> dict[str, Tensor]:
    """The network's tensors by the names that they have in the network."""
    return {
        name.removeprefix(PREFIX): value for name, value in content["state_dict"].items() if name.startswith(PREFIX)
    }
