"""The denoiser of the plug-and-play ADMM (Liu et al.): a DnCNN that is told the noise, trained on sharp crops."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ..fit.checkpoint import save_weights
from ..fit.recipe import Recipe
from ..networks.zoo import build

SIGMA = (5 / 255, 55 / 255)  # beyond both ends of what ADMM asks for, 45 to 15
SIDE = 96  # of a crop
DECAY_FROM = 0.5  # of the time


class NoisyCrops(Dataset):
    """Pairs of ((noisy, noise level), clean), float32 (2, SIDE, SIDE) and (1, SIDE, SIDE)."""

    def __init__(self, crops: Dataset, recipe: Recipe) -> None:
        self.recipe, self.crops = recipe, crops

    def __len__(self) -> int:
        return self.recipe.steps * self.recipe.batch

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        rng = np.random.default_rng([self.recipe.seed, 3, index])
        _, sharp = self.crops[index]
        sharp = sharp[:1, :SIDE, :SIDE]
        clean = (sharp - sharp.min()) / (sharp.max() - sharp.min()).clamp(min=1e-6)
        sigma = float(rng.uniform(*SIGMA))
        noise = torch.from_numpy(rng.normal(0, sigma, clean.shape).astype(np.float32))
        return torch.cat([clean + noise, torch.full_like(clean, sigma)]), clean


def fit_denoiser(crops: Dataset, out: Path, seconds: float, seed: int = 0) -> tuple[int, Recipe]:
    """Train on the sharp sides of a dataset of (blurred, sharp) for so many seconds, and write the weights.

    Returns the steps made and the recipe that reads the weights back.
    """
    recipe = Recipe(network="denoiser", crop=SIDE, batch=4, seed=seed)
    torch.manual_seed(seed)
    network = build("denoiser", 1)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    start, steps = time.monotonic(), 0
    for noisy, clean in DataLoader(NoisyCrops(crops, recipe), batch_size=recipe.batch, num_workers=1):
        gone = (time.monotonic() - start) / seconds
        if gone >= 1:
            break
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 * min(1.0, max(0.02, (1 - gone) / (1 - DECAY_FROM)))
        loss = (network(noisy)[0] - clean).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        steps += 1
    network.eval()
    save_weights(network, recipe, out)
    return steps, recipe
